"""What state an engine pod is in, from what is seen now.

Never from the pod's own gate condition, which stays True on a dead node, and Ready with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from sglang_operator.api import spec
from sglang_operator.planner.observed import ObservedNode, ObservedPod

LINGERS_SECONDS = 60.0  # beyond its grace
# As Kubernetes' own node lifecycle controller has it: so large a share of the nodes, and so many.
SILENT_SHARE = 0.55
SILENT_LEAST = 3
LONG_SECONDS = 600.0  # whoever was not ready for so long is no part of what happens at once


class Health(Enum):
    UP = "Up"  # all containers ready: the engine answers
    STARTING = "Starting"  # on a node, not answering yet
    PENDING = "Pending"  # not on a node
    LOST = "Lost"  # its node is gone or silent
    DYING = "Dying"  # being deleted, evicted or preempted
    ENDED = "Ended"  # its container ended for good


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """So many nodes are not ready at once that it is no fault of theirs, as far as is known."""

    nodes: frozenset[str]  # that are not ready: none of them counts as lost
    count: int  # of them among those that were counted
    total: int  # that were counted


def silence(nodes: Mapping[str, ObservedNode] | None, now: float) -> Silence | None:
    """Whether a large share of all nodes, or of those with devices, is not ready; None: it is not.

    Kubelets then cannot reach the API server, while their containers run on.  What is gone or out
    of service is known to be lost, and is no part of the share, nor is what was not ready long
    before: a machine that is switched off says nothing of others.  Unless no node at all is ready.
    A single node is always believed.  ``now``: by the steady clock.
    """
    if not nodes or all(node.ready for node in nodes.values()):
        return None
    there = [node for node in nodes.values() if not (node.gone or node.out_of_service)]
    silent = frozenset(node.name for node in there if not node.ready)
    if len(silent) == len(there) > 1:
        return Silence(nodes=silent, count=len(there), total=len(there))
    there = [node for node in there if node.ready or now < node.unready + LONG_SECONDS]
    silent = frozenset(node.name for node in there if not node.ready)
    for counted in ([n for n in there if any(n.resources.values())], there):
        count = sum(not node.ready for node in counted)
        if _too_many(count, len(counted)):
            return Silence(nodes=silent, count=count, total=len(counted))
    return None


def _too_many(count: int, total: int) -> bool:
    return 1 < count == total or (count >= SILENT_LEAST and count / total >= SILENT_SHARE)


def believed(
    nodes: Mapping[str, ObservedNode] | None, silent: Silence | None
) -> Mapping[str, ObservedNode]:
    """The nodes whose engines may be lost with them."""
    if not nodes or silent is None:
        return nodes or {}
    return {name: node for name, node in nodes.items() if name not in silent.nodes}


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
        return max(node.unready, pod.seen.placed) + policy.node_lost_seconds
    return None


def health(
    pod: ObservedPod,
    nodes: Mapping[str, ObservedNode],
    policy: spec.Restart,
    now: float,
) -> Health:
    """The pod's state at this moment, by the nodes that are ``believed``, and else by itself."""
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
    nodes: Mapping[str, ObservedNode],
    policy: spec.Restart,
    now: float,
) -> float | None:
    """When the next pod will count as lost if its node does not come back before; or None."""
    if all(node.ready for node in nodes.values()):
        return None
    times = (lost_from(pod, nodes.get(pod.node), policy) for pod in pods if not pod.ended)
    return min((time for time in times if time is not None and time > now), default=None)
