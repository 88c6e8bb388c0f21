"""What no watch tells, asked of the API server only where something is to be explained.

Both are optional: where the roles do not allow them, everything works with less explanation.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from sglang_operator.api import names
from sglang_operator.ask.capacity import Holder
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed.model import PodEvent

TIMEOUT = 5.0
MOST_PODS = 16  # whose events are asked for at a time
MOST_EVENTS = 50
REFUSED_SECONDS = 300.0  # until what the roles did not allow is tried again
CENSUS_SECONDS = 30.0  # the answer for one pool is good enough for the others
# Of the nodes that have GPUs: so many are asked about, and two a second on the average.
MOST_NODES = 1024
MOST_RESOURCES = 8  # of which the answer is kept
SECONDS_OF_NODE = 0.5
NODES_AT_ONCE = 8
MOST_PODS_OF_NODE = 500
ALL_PODS = paths.pods("")
MOST_BYTES = 16 * 1024 * 1024  # of one answer; a node's pods take some hundreds of KB
# What decoding raises at what is not as it should be.
UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)

log = logging.getLogger(__name__)


class _Event(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Events(msgspec.Struct, frozen=True):
    items: list[_Event] | None = None


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
    items: list[_Pod] | None = None


_events = msgspec.json.Decoder(_Events)
_pods = msgspec.json.Decoder(_Pods)


class Lookups:
    """Asks; remembers where it may not."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._refused: dict[str, float] = {}  # by path, until when; monotonic
        self._censuses: dict[str, _Census] = {}  # by resource, the latest last
        self._counting = asyncio.Lock()

    async def events(
        self, namespace: str, pods: Iterable[names.Uid]
    ) -> dict[names.Uid, tuple[PodEvent, ...]]:
        """The Events about each of these pods, the latest first; none where they may not be read.

        Of many pods only the first are asked for: what ails the rest is likely the same.
        """
        wanted = list(pods)[:MOST_PODS]
        path = paths.core_events(namespace)
        if self._is_refused(path):
            return {}
        found = await asyncio.gather(*(self._events_of(path, uid) for uid in wanted))
        return dict(zip(wanted, found, strict=True))

    def _is_refused(self, path: str) -> bool:
        return self._refused.get(path, float("-inf")) > time.monotonic()

    def _refuse(self, path: str, error: ApiError) -> None:
        """Ask no more for a while: roles are changed, and each namespace has its own.

        Of many that were asked at once the first says it.
        """
        if error.status == 403 and not self._is_refused(path):
            log.info("%s may not be read: some causes stay unknown (%s)", path, error)
            now = time.monotonic()
            self._refused = {each: until for each, until in self._refused.items() if until > now}
            self._refused[path] = now + REFUSED_SECONDS

    async def _events_of(self, path: str, uid: names.Uid) -> tuple[PodEvent, ...]:
        params = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(MOST_EVENTS)}
        try:
            answer = await self._client.request(
                "GET", path, params=params, timeout=TIMEOUT, most=MOST_BYTES
            )
        except ApiError as error:
            self._refuse(path, error)
            return ()
        except ApiUnreachableError:
            return ()
        try:
            told = _events.decode(answer).items or ()
        except UNDECODABLE as error:
            log.info("Events about %s cannot be read: %s", uid, error)
            return ()
        return tuple(PodEvent(reason=e.reason, message=e.message[:2048]) for e in reversed(told))

    async def census(
        self, resource: str, nodes: Iterable[str] = ()
    ) -> Mapping[str, tuple[Holder, ...]] | None:
        """Who holds how much of a resource on each of these nodes; None: it cannot be learnt.

        Only the nodes that have the resource are asked about, a few at a time and from the API
        server's cache, which knows the pods of a node without looking at the others'.  All pools
        share the answer, which is good for as long as it took requests.
        """
        wanted = sorted(nodes)
        if self._is_refused(ALL_PODS) or len(wanted) > MOST_NODES:
            return None
        if not wanted:
            return {}
        known = self._censuses.get(resource)
        if known is not None and known.answers(resource, wanted):
            return known.holders
        async with self._counting:  # of many pools one asks, and all have the answer
            known = self._censuses.pop(resource, None)
            if known is None or not known.answers(resource, wanted):
                begun = time.monotonic()
                holders = await self._all_holders(resource, wanted)
                known = _Census(begun, resource, tuple(wanted), holders)
            self._censuses[resource] = known
            while len(self._censuses) > MOST_RESOURCES:
                del self._censuses[next(iter(self._censuses))]
            return known.holders

    async def _all_holders(
        self, resource: str, nodes: list[str]
    ) -> Mapping[str, tuple[Holder, ...]] | None:
        holders: dict[str, tuple[Holder, ...]] = {}
        left = iter(nodes)
        lacking: list[str] = []

        async def some(most: int) -> None:
            for node in itertools.islice(left, most):
                found = await self._holders(resource, node)
                if found is None:
                    lacking.append(node)
                if lacking:
                    return  # who lacks a part does not know what is free
                if found:
                    holders[node] = found

        await some(1)  # it may not be allowed at all
        if not lacking:
            await asyncio.gather(*(some(len(nodes)) for _ in range(NODES_AT_ONCE)))
        return None if lacking else holders

    async def _holders(self, resource: str, node: str) -> tuple[Holder, ...] | None:
        params = {
            "resourceVersion": "0",
            "limit": str(MOST_PODS_OF_NODE),
            "fieldSelector": f"spec.nodeName={node},status.phase!=Failed,status.phase!=Succeeded",
        }
        try:
            answer = await self._client.request(
                "GET", ALL_PODS, params=params, timeout=TIMEOUT, most=MOST_BYTES
            )
            pods = _pods.decode(answer).items or ()
        except ApiError as error:
            self._refuse(ALL_PODS, error)
            return None
        except (ApiUnreachableError, *UNDECODABLE) as error:
            log.info("the pods of node %s cannot be counted: %s", node, error)
            return None
        found = []
        for pod in pods:
            count = sum(_count(c.resources.limits.get(resource)) for c in pod.spec.containers)
            if count and pod.spec.node_name == node:
                meta = pod.metadata
                found.append(Holder(namespace=meta.namespace, name=meta.name, count=count))
        return tuple(found)


@dataclass(frozen=True)
class _Census:
    """What was learnt last, or that nothing could be."""

    asked: float  # monotonic
    resource: str
    nodes: tuple[str, ...]
    holders: Mapping[str, tuple[Holder, ...]] | None

    def answers(self, resource: str, nodes: list[str]) -> bool:
        """Whether it need not be asked again: a request for each node has its price."""
        fresh = max(CENSUS_SECONDS, len(self.nodes) * SECONDS_OF_NODE)
        same = (self.resource, self.nodes) == (resource, tuple(nodes))
        return same and time.monotonic() - self.asked < fresh


def _count(quantity: str | None) -> int:
    """Extended resources are whole numbers."""
    return int(quantity) if quantity and quantity.isdecimal() and len(quantity) < 10 else 0
