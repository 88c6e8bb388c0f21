"""Events about a pool: few, on transitions only, never in the way of the loop."""

import asyncio
import logging
from datetime import UTC, datetime
from uuid import uuid4

import orjson

from sglang_operator.api import names
from sglang_operator.cluster import paths
from sglang_operator.cluster.client import ApiClient, ApiError, ApiUnreachableError
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.transitions import Event

CONTROLLER = f"{names.GROUP}/operator"
MAX_NOTE = 1024  # the API's bound
BURST = 10
PER_SECOND = 1.0
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


class Recorder:
    """Posts Events.  What exceeds a pool's rate is logged instead."""

    def __init__(self, client: ApiClient, instance: str) -> None:
        self._client = client
        self._instance = instance
        self._buckets: dict[PoolKey, _Bucket] = {}

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._buckets.pop(key, None)

    async def post(self, key: PoolKey, uid: names.Uid, events: list[Event]) -> None:
        """Tell these Events about the pool.  A failure to do so is only logged."""
        bucket = self._buckets.setdefault(key, _Bucket())
        now = asyncio.get_running_loop().time()
        for event in events:
            log.info("%s: %s %s: %s", key, event.type, event.reason, event.message)
            if not bucket.take(now):
                continue
            try:
                await self._client.request(
                    "POST", paths.events(key.namespace), body=self._body(key, uid, event)
                )
            except (ApiError, ApiUnreachableError) as error:
                log.warning("%s: Event %s not posted: %s", key, event.reason, error)

    def _body(self, key: PoolKey, uid: names.Uid, event: Event) -> bytes:
        note = event.message
        return orjson.dumps(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": f"{key.name}.{uuid4().hex[:16]}", "namespace": key.namespace},
                "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "reportingController": CONTROLLER,
                "reportingInstance": self._instance[:128],
                "action": ACTION,
                "reason": event.reason,
                "type": event.type,
                "note": note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…",
                "regarding": {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": key.name,
                    "namespace": key.namespace,
                    "uid": uid,
                },
            }
        )
