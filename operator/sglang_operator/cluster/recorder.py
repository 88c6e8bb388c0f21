"""Events about a pool: few, on transitions only, never in the way of the loop.

An Event in the words of a recent one is that one again: its series is counted up, as kubectl
shows it (``x5 over 2m``).  What exceeds a pool's rate is not told at all, but logged.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import orjson

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from sglang_operator.kube.client import (
    MERGE_PATCH,
    ApiClient,
)
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.kube.window import Window
from sglang_operator.status.transitions import Event

CONTROLLER = f"{names.GROUP}/operator"
# The API's bounds.  It counts bytes of UTF-8, where the schema of our own kind counts characters.
MAX_NOTE = 1024
MAX_WORD = 128
BURST = 10
PER_SECOND = 1.0
# The same words within so many seconds continue an Event's series (as client-go has it).
SERIES_SECONDS = 360.0
REMEMBERED = 32  # Events of a pool
MOST_AT_ONCE = 16.0
ACTION = "Reconcile"

log = logging.getLogger(__name__)


class _Bucket:
    """A token bucket: ``BURST`` at once, then one a second."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._at) * PER_SECOND)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass
class _Told:
    """An Event that exists, and how often it was meant."""

    name: str
    at: float
    count: int = 1


class Recorder:
    """Posts Events; counts in ``told`` what became of them."""

    def __init__(self, client: ApiClient, instance: str) -> None:
        self._client = client
        self._instance = instance
        # A namespace whose Events hang keeps few of them, and none of the others'.
        self._window = Window(MOST_AT_ONCE, MOST_AT_ONCE)
        self._buckets: dict[PoolKey, _Bucket] = {}
        self._recent: dict[PoolKey, OrderedDict[Event, _Told]] = {}
        self.told: Counter[str] = Counter(posted=0, aggregated=0, dropped=0, failed=0)

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._buckets.pop(key, None)
        self._recent.pop(key, None)

    async def post(self, key: PoolKey, uid: names.Uid, events: list[Event]) -> None:
        """Tell these Events about the pool.  A failure to do so is only logged."""
        bucket = self._buckets.setdefault(key, _Bucket())
        now = asyncio.get_running_loop().time()
        for event in events:
            log.info("%s: %s %s: %s", key, event.type, event.reason, event.message)
            known = self._known(key, event, now)
            if known is not None:
                known.count += 1
            if not bucket.take(now):
                # One that continues a series is told with the next of it.
                self.told["dropped" if known is None else "aggregated"] += 1
                continue
            try:
                async with self._window.slot(key.namespace):
                    await self._tell(key, uid, event, known, now)
            except (ApiError, ApiUnreachableError) as error:
                self.told["failed"] += 1
                log.warning("%s: Event %s not posted: %s", key, event.reason, error)

    def _known(self, key: PoolKey, event: Event, now: float) -> _Told | None:
        """The Event with these words, if it is recent."""
        recent = self._recent.get(key)
        known = recent.get(event) if recent else None
        return known if known is not None and now - known.at < SERIES_SECONDS else None

    async def _tell(
        self, key: PoolKey, uid: names.Uid, event: Event, known: _Told | None, now: float
    ) -> None:
        collection = paths.events(key.namespace)
        if known is not None:
            known.at = now
            try:
                await self._client.request(
                    "PATCH",
                    f"{collection}/{known.name}",
                    body=orjson.dumps(
                        {"series": {"count": known.count, "lastObservedTime": _now()}}
                    ),
                    content_type=MERGE_PATCH,
                )
            except ApiError as error:
                if not error.missing:
                    raise  # else the API server forgot it, as it does after an hour
            else:
                self.told["aggregated"] += 1
                return
        name = f"{key.name}.{uuid4().hex[:16]}"
        await self._client.request("POST", collection, body=self._body(key, uid, event, name))
        self.told["posted"] += 1
        recent = self._recent.setdefault(key, OrderedDict())
        recent[event] = _Told(name, now)
        recent.move_to_end(event)
        if len(recent) > REMEMBERED:
            recent.popitem(last=False)

    def _body(self, key: PoolKey, uid: names.Uid, event: Event, name: str) -> bytes:
        return orjson.dumps(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": key.namespace},
                "eventTime": _now(),
                "reportingController": CONTROLLER,
                "reportingInstance": _bounded(self._instance, MAX_WORD),
                "action": ACTION,
                "reason": _bounded(event.reason, MAX_WORD),
                "type": event.type,
                "note": _bounded(event.message, MAX_NOTE),
                "regarding": {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": key.name,
                    "namespace": key.namespace,
                    "uid": uid,
                },
            }
        )


def _bounded(text: str, most: int) -> str:
    """As much of a text as has room in so many bytes."""
    whole = text.encode(errors="replace")
    if len(whole) <= most:
        return text
    return whole[: most - len("…".encode())].decode(errors="ignore") + "…"


def _now() -> str:
    """This moment as a MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
