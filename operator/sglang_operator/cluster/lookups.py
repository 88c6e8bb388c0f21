"""What no watch tells, asked of the API server only where something is to be explained.

Both are optional: where the roles do not allow them, everything works with less explanation.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

import msgspec

from sglang_operator.api import names
from sglang_operator.cluster import paths
from sglang_operator.cluster.client import ApiClient, ApiError, ApiUnreachableError
from sglang_operator.planner.capacity import Holder
from sglang_operator.planner.observed import PodEvent

TIMEOUT = 5.0
MOST_PODS = 16  # whose events are asked for at a time
MOST_EVENTS = 50
CENSUS_SECONDS = 30.0  # the answer for one pool is good enough for the others

log = logging.getLogger(__name__)


class _Event(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Events(msgspec.Struct, frozen=True):
    items: list[_Event] = []


class _Resources(msgspec.Struct, frozen=True):
    limits: dict[str, str] = {}


class _Container(msgspec.Struct, frozen=True):
    resources: _Resources = _Resources()


class _Spec(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(name="nodeName", default="")
    containers: list[_Container] = []


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec = _Spec()


class _Pods(msgspec.Struct, frozen=True):
    items: list[_Pod] = []


_events = msgspec.json.Decoder(_Events)
_pods = msgspec.json.Decoder(_Pods)


class Lookups:
    """Asks; remembers where it may not."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._events_refused = False
        self._pods_refused = False
        self._census: tuple[float, str, Mapping[str, tuple[Holder, ...]]] | None = None

    async def events(
        self, namespace: str, pods: Iterable[names.Uid]
    ) -> dict[names.Uid, tuple[PodEvent, ...]]:
        """The Events about each of these pods, the latest first; none where they may not be read.

        Of many pods only the first are asked for: what ails the rest is likely the same.
        """
        wanted = list(pods)[:MOST_PODS]
        if self._events_refused:
            return {}
        found = await asyncio.gather(*(self._events_of(namespace, uid) for uid in wanted))
        return dict(zip(wanted, found, strict=True))

    async def _events_of(self, namespace: str, uid: names.Uid) -> tuple[PodEvent, ...]:
        params = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(MOST_EVENTS)}
        try:
            answer = await self._client.request(
                "GET", paths.core_events(namespace), params=params, timeout=TIMEOUT
            )
        except ApiError as error:
            if error.status == 403 and not self._events_refused:
                log.info("Events of pods may not be read: some causes stay unknown (%s)", error)
            self._events_refused = self._events_refused or error.status == 403
            return ()
        except ApiUnreachableError:
            return ()
        told = _events.decode(answer).items
        return tuple(PodEvent(reason=e.reason, message=e.message[:2048]) for e in reversed(told))

    async def census(self, resource: str) -> Mapping[str, tuple[Holder, ...]] | None:
        """Who holds how much of a resource on each node, in the whole cluster; None: not allowed.

        From the API server's cache, and at most every CENSUS_SECONDS for all pools together.
        """
        known = self._census
        if known is not None and known[1] == resource and _is_fresh(known[0]):
            return known[2]
        if self._pods_refused:
            return None
        params = {
            "resourceVersion": "0",
            "fieldSelector": "spec.nodeName!=,status.phase!=Failed,status.phase!=Succeeded",
        }
        try:
            answer = await self._client.request("GET", paths.pods(""), params=params)
        except ApiError as error:
            self._pods_refused = error.status == 403
            return None
        except ApiUnreachableError:
            return None
        holders: dict[str, list[Holder]] = {}
        for pod in _pods.decode(answer).items:
            count = sum(_count(c.resources.limits.get(resource)) for c in pod.spec.containers)
            if count:
                name = f"{pod.metadata.namespace}/{pod.metadata.name}"
                holders.setdefault(pod.spec.node_name, []).append(Holder(pod=name, count=count))
        found = {node: tuple(pods) for node, pods in holders.items()}
        self._census = (time.monotonic(), resource, found)
        return found


def _is_fresh(asked: float) -> bool:
    return time.monotonic() - asked < CENSUS_SECONDS


def _count(quantity: str | None) -> int:
    """Extended resources are whole numbers."""
    return int(quantity) if quantity and quantity.isdecimal() and len(quantity) < 10 else 0
