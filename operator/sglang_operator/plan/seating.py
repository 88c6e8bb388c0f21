"""Where the pods of a pool's engines belong, by what is seen, and who is still there.  Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from sglang_operator.api.names import Uid, slot_key, slots_name
from sglang_operator.observed import groups
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.placement import seats
from sglang_operator.placement.seats import Seat, Seating, Seen
from sglang_operator.placement.slots import Slots
from sglang_operator.plan.decision import ENDED_GRACE_SECONDS
from sglang_operator.pool.resolve import Pool

LOOK_SECONDS = 2.0  # between two looks whether another pool's pod is gone
Children = Mapping[tuple[str, str], ObservedChild]


def of(pool: Pool, observed: Observed) -> Seating | None:
    """The seats of its engines; None where they are the scheduler's to say."""
    return pool.seating(_seen(pool, observed)) if pool.placement.seats else None


def trainer_alone(observed: Observed) -> Seating:
    """What is known where no engine gets a seat: which of the trainer's pods are there."""
    return seats.seating(Slots(), {}, 1, Seen(trainers=observed.trainers), "")


def left_behind(observed: Observed, now: float) -> Sequence[ObservedPod]:
    """The pods of engines whose trainer is gone, whatever their pool wants, and that do not go at
    once: also such as drain, stand aside, or are of a pool that is on its way out.
    """
    if not any(pod.slot for pod in observed.all_pods):
        return ()
    known = trainer_alone(observed)
    return [
        pod
        for group in groups.of(observed.all_pods)
        if known.left(group.engine, [pod.slot for pod in group.members])
        for pod in group.members
        if pod.may_hold_memory and not (pod.deleting and pod.seen.due <= now + ENDED_GRACE_SECONDS)
    ]


def _seen(pool: Pool, observed: Observed) -> Seen:
    """What is known of the trainer that they join."""
    data = dict(published(observed.children, pool.owner.name, pool.owner.uid))
    data |= {slot_key(claim.node_rank): claim.followed for claim in observed.claims}
    nodes = observed.nodes
    there = None if nodes is None else {name for name, node in nodes.items() if not node.gone}
    counted = {name: node.resources.get(pool.resource, 0) for name, node in (nodes or {}).items()}
    return Seen(
        namespace=pool.owner.namespace,
        published=data,
        trainers=observed.trainers,
        nodes=there,
        claims=observed.claims,
        inventory=observed.inventory,
        pins=observed.pins,
        counted=counted,
    )


def published(children: Children, pool: str, uid: Uid) -> Mapping[str, str]:
    """What the trainer of the pool of this name and UID has published; nothing of others counts."""
    child = children.get(("ConfigMap", slots_name(pool)))
    if child is None or not child.whole or child.owner != uid:
        return {}
    return child.body.get("data") or {}


class Holders:
    """Who may hold the memory of which GPUs, or is yet to: engines of the pool, and others that are
    on their way out.

    No scheduler counts them, so that another would be put beside it.  By their UUIDs alone: a pod
    that has no node yet comes to them all the same.
    """

    def __init__(self, observed: Observed) -> None:
        self._pods: dict[str, list[ObservedPod]] = {}
        for pod in chain(observed.all_pods, observed.departing):
            for gpu in pod.gpus_seen if pod.may_hold_memory else ():
                self._pods.setdefault(gpu, []).append(pod)

    def of(self, wanted: Iterable[Seat]) -> Sequence[ObservedPod]:
        """The pods that have GPUs of these seats, each once."""
        gpus = (gpu for seat in wanted for gpu in seat.gpus)
        found = {pod.uid: pod for gpu in gpus for pod in self._pods.get(gpu, ())}
        return tuple(found.values())
