"""What state an engine pod is in, from what is seen now.

Never from the pod's own gate condition, which stays True on a dead node, and Ready with it.
"""

import dataclasses
import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from sglang_operator.api import spec
from sglang_operator.observed.model import Observed, ObservedNode, ObservedPod
from sglang_operator.observed.silence import Silence, Uncounted

LINGERS_SECONDS = 60.0  # beyond its grace
# As Kubernetes' own node lifecycle controller has it: so large a share of the nodes, and so many.
SILENT_SHARE = 0.55
SILENT_LEAST = 3
# Nodes that are cut off at one moment are seen one after another to be so: each kubelet's lease
# runs out when it does, and the node controller looks every few seconds.  While others follow
# within such a time, none is lost before the controller has looked again.
RAMP_SECONDS = 16.0
LOOK_SECONDS = 6.0
_MOST_FALLS = 128
LONG_SECONDS = 600.0  # whoever was not ready for so long is no part of what happens at once


class Health(Enum):
    UP = "Up"  # all containers ready: the engine answers
    STARTING = "Starting"  # on a node, not answering yet
    PENDING = "Pending"  # not on a node
    LOST = "Lost"  # its node is gone or silent
    DYING = "Dying"  # being deleted, evicted or preempted
    ENDED = "Ended"  # its container ended for good


class Nodes(Protocol):
    """Nodes by name; of who is not there, nothing is known."""

    def get(self, name: str, /) -> ObservedNode | None:
        """The node."""


class _Standing(NamedTuple):
    """How a node counts."""

    ready: bool
    resources: frozenset[str]
    unready: float


class Tally:
    """How many nodes are ready, kept while they change: no change looks at the other nodes.

    Nodes are counted together, and those of each extended resource apart: GPU nodes that are cut
    off are few beside all the others, which may have a network's resources in common with them.
    Those that were not ready long before are not counted: a machine that is switched off says
    nothing of others.  What is gone or out of service is known to be lost, and is not counted.
    """

    def __init__(self, nodes: Iterable[ObservedNode] = ()) -> None:
        self._known: dict[str, _Standing] = {}
        self._recent: dict[str, None] = {}  # not ready, and not for long
        self._long: dict[str, None] = {}
        self._ages: list[tuple[float, str]] = []  # a heap of when they will have been so for long
        # Ready and recent ones: by resource, and all of them as None.
        self._count: Counter[tuple[bool, str | None]] = Counter()
        self._told: Silence | None = None  # while nothing changes
        self._falls: dict[int, float] = {}  # the last time in each second that a node fell silent
        for node in nodes:
            self.put(node)

    def put(self, node: ObservedNode) -> None:
        """The node is like this now."""
        if node.gone or node.out_of_service:
            self.drop(node.name)
            return
        resources = frozenset(name for name, count in node.resources.items() if count)
        standing = _Standing(node.ready, resources, node.unready)
        if self._known.get(node.name) == standing:
            return
        self.drop(node.name)
        self._told = None
        self._known[node.name] = standing
        self._add(standing, 1)
        if not node.ready:
            self._recent[node.name] = None
            heapq.heappush(self._ages, (node.unready + LONG_SECONDS, node.name))
            self._fell(node.unready)

    def drop(self, name: str) -> None:
        """The node is not counted any more."""
        known = self._known.pop(name, None)
        if known is None:
            return
        self._told = None
        if name in self._long:
            del self._long[name]
        else:
            self._recent.pop(name, None)
            self._add(known, -1)

    def _add(self, standing: _Standing, count: int) -> None:
        for name in (None, *standing.resources):
            key = (standing.ready, name)
            self._count[key] += count
            if not self._count[key]:
                del self._count[key]

    def _fell(self, at: float) -> None:
        second = int(at)
        self._falls[second] = max(at, self._falls.get(second, at))
        if len(self._falls) > _MOST_FALLS:
            for second in sorted(self._falls)[: -_MOST_FALLS // 2]:
                del self._falls[second]

    def falls(self) -> tuple[float, ...]:
        """When nodes fell silent of late, rising; those of one second as one."""
        return tuple(sorted(self._falls.values()))

    def is_silent(self, now: float) -> bool:
        """Whether too many are not ready at once."""
        return self._share(now) is not None

    def silence(self, now: float) -> Silence | None:
        """Who is not ready, where these are too many; None: they are not."""
        share = self._share(now)
        if share is None:
            return None
        if self._told is None:
            count, total = share
            # Unless no node at all is ready, those that were so long before are believed.
            silent = self._recent if self._ready else self._recent | self._long
            self._told = Silence(nodes=frozenset(silent), count=count, total=total)
        return self._told

    def _share(self, now: float) -> tuple[int, int] | None:
        """How many are not ready, of how many that were counted, where these are too many."""
        self._age(now)
        if not (self._recent or self._long):
            return None
        count = self._count
        if not self._ready:
            total = len(self._known)
            return (total, total) if total > 1 else None
        # Those of a resource say more than all do.
        shares = [
            (name is not None, silent, silent + count[True, name])
            for (ready, name), silent in count.items()
            if not ready and _too_many(silent, silent + count[True, name])
        ]
        return max(shares)[1:] if shares else None

    @property
    def _ready(self) -> int:
        return self._count[True, None]

    def _age(self, now: float) -> None:
        """Some were not ready recently, and are so for long by now."""
        while self._ages and self._ages[0][0] <= now:
            due, name = heapq.heappop(self._ages)
            known = self._known.get(name)
            if name in self._recent and known and known.unready + LONG_SECONDS == due:
                del self._recent[name]
                self._long[name] = None
                self._add(known, -1)
                self._told = None


def silence_seen(observed: Observed, now: float) -> Silence | None:
    """What whoever keeps count of the nodes says; where nobody does, they are counted here."""
    if isinstance(observed.silence, Uncounted):
        return silence(observed.nodes, now)
    return observed.silence


def falls_seen(observed: Observed) -> tuple[float, ...]:
    """The same of the times at which nodes fell silent."""
    if isinstance(observed.silence, Uncounted):
        return Tally((observed.nodes or {}).values()).falls()
    return observed.falls


def silence(nodes: Mapping[str, ObservedNode] | None, now: float) -> Silence | None:
    """Whether a large share of all nodes, or of those with one resource, is not ready; else None.

    Kubelets then cannot reach the API server, while their containers run on.  A single node is
    always believed.  ``now``: by the steady clock.
    """
    return Tally(nodes.values()).silence(now) if nodes else None


def _too_many(count: int, total: int) -> bool:
    return 1 < count == total or (count >= SILENT_LEAST and count / total >= SILENT_SHARE)


class Believed:
    """The nodes whose engines may be lost with them, by name."""

    def __init__(
        self,
        nodes: Mapping[str, ObservedNode] | None,
        silent: Silence | None = None,
        falls: Sequence[float] = (),  # when nodes fell silent, rising
    ) -> None:
        self._nodes = nodes or {}
        self._silent = silent.nodes if silent else frozenset()
        self._falls = falls

    def get(self, name: str) -> ObservedNode | None:
        """The node, if what is known of it is to be believed."""
        node = None if name in self._silent else self._nodes.get(name)
        if node is None or node.ready or node.gone or node.out_of_service:
            return node
        place = bisect_right(self._falls, node.unready + RAMP_SECONDS) - 1
        if place < 0 or self._falls[place] <= node.unready:
            return node
        return dataclasses.replace(node, followed=self._falls[place])


def believed(observed: Observed, now: float) -> Believed:
    """The nodes of a snapshot, as far as they are believed at this time by the steady clock."""
    return Believed(observed.nodes, silence_seen(observed, now), falls_seen(observed))


def lost_from(pod: ObservedPod, node: ObservedNode | None, policy: spec.Restart) -> float | None:
    """The time from which the pod counts as lost with its node; None if the node is well.

    Counted from when we saw it, by the steady clock: the stamps in nodes and pods are by clocks
    that may differ from ours by hours.
    """
    if node is None:
        return None
    if node.gone:
        return 0.0
    # A pod that was put there since gets its time too, else it would be replaced without end.
    if node.out_of_service:
        return pod.seen.placed + policy.node_lost_seconds
    if not node.ready:
        lost = max(node.unready, pod.seen.placed) + policy.node_lost_seconds
        return max(lost, node.followed + LOOK_SECONDS) if node.followed else lost
    return None


def health(
    pod: ObservedPod,
    nodes: Nodes,
    policy: spec.Restart,
    now: float,
) -> Health:
    """The pod's state at this moment, by its node if that is believed, and else by itself."""
    if pod.failed:
        return Health.ENDED
    lost = lost_from(pod, nodes.get(pod.node), policy)
    if lost is not None and lost <= now:
        return Health.LOST
    if pod.dying:
        return Health.DYING
    if pod.containers_ready:
        return Health.UP
    return Health.STARTING if pod.node else Health.PENDING


def lingers(pod: ObservedPod, now: float) -> bool:
    """Whether a pod is still there long after its grace: a driver hangs, or somebody's finalizer.

    Nobody can say when it will go, so nothing waits for it any more.
    """
    return pod.dying and 0.0 < pod.seen.due <= now - LINGERS_SECONDS


def next_lingering(pods: Iterable[ObservedPod], now: float) -> float | None:
    """When the next pod that is on its way out will have been so for too long; or None."""
    times = (pod.seen.due + LINGERS_SECONDS for pod in pods if pod.dying and pod.seen.due)
    return min((time for time in times if time > now), default=None)


def next_loss(
    pods: tuple[ObservedPod, ...],
    nodes: Nodes,
    policy: spec.Restart,
    now: float,
) -> float | None:
    """When the next pod will count as lost if its node does not come back before; or None."""
    times = (lost_from(pod, nodes.get(pod.node), policy) for pod in pods if not pod.ended)
    return min((time for time in times if time is not None and time > now), default=None)


def ran(pod: ObservedPod) -> float:
    """Seconds for which the engine's container ran; 0 if not told.

    Its node's own clock has both ends, and is believed unless we saw that it cannot be so: it was
    set while the engine ran, as clocks are that were hours off when their node started.
    """
    ended, seen = pod.end, pod.seen
    if not (ended and ended.started):
        return 0.0
    told = ended.finished - ended.started
    if told < 0 or told > seen.most > 0:
        return max(0.0, seen.ended - seen.alive) if seen.alive else 0.0
    return told
