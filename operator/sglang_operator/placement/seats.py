"""Where the pods of each engine belong, where that is known before the scheduler says.  Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from sglang_operator.api import errors, names
from sglang_operator.api import texts as operator_texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.placement import slots, texts
from sglang_operator.placement.devices import (
    HeldSlot,
    Inventory,
    Pin,
    WantedClaim,
    request_of,
    token,
)
from sglang_operator.placement.slots import Slot, Slots

# The GPU ids of each of the pods that an engine is.
Devices = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerPod:
    """One of a trainer's pods, which own the GPUs that engines join them on."""

    uid: str
    node: str  # empty: it is bound to none yet
    gone: bool = False  # it has ended, or is on its way out: its GPUs may be given to others


class Claim(NamedTuple):
    """A node rank of which pods of the trainer say something else again and again."""

    node_rank: int
    followed: str  # what counts for now, as it was published
    pods: tuple[str, ...]  # that say so, by name


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a pool's trainer, and of devices, at a moment."""

    namespace: str = ""  # the pool's

    published: Mapping[str, str] | None = None  # the data of its ConfigMap, where there is one
    trainers: Mapping[str, TrainerPod] | None = None  # in its namespace; None: nobody looked
    nodes: Collection[str] | None = None  # those that there are; None: they may not be read
    claims: Sequence[Claim] = ()  # what is published is what counts for now
    inventory: Inventory | None = None  # None: nobody looked
    pins: Mapping[int, Pin] = field(default_factory=dict)  # what claims had last, by node rank
    counted: Mapping[str, int] = field(default_factory=dict)  # GPUs of device plugins, by node
    allowed: Collection[str] = ()  # resources that the operator allows, beside GPUs

    @property
    def alive(self) -> frozenset[str] | None:
        """UIDs of the trainer's pods that are there; None: not known."""
        if self.trainers is None:
            return None
        return frozenset(pod.uid for pod in self.trainers.values() if not pod.gone)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """The GPUs of one pod of an engine."""

    node: str  # empty: the scheduler's to say
    gpus: tuple[str, ...]  # UUIDs or tokens of claims, in the order of its device group
    mark: str  # what the pod remembers of them (``slots.Slot.mark``)
    pod: str = ""  # of the trainer
    claim: str = ""  # by which it has its GPUs; empty: it sees them by UUID
    requests: tuple[str, ...] = ()  # of that claim


@dataclass(frozen=True, kw_only=True)
class Seating:
    """The seats of all engines of a pool."""

    seats: Mapping[EngineName, tuple[Seat, ...]] = field(default_factory=dict)  # by node rank
    waits: Mapping[EngineName, str] = field(default_factory=dict)  # why an engine has none yet
    problem: Problem | None = None  # what disagrees: nobody has a seat before it is put right
    alive: frozenset[str] | None = None  # UIDs of the trainer's pods; None: not known
    warnings: tuple[Problem, ...] = ()
    slots: tuple[HeldSlot, ...] = ()  # the GPUs behind the claims of its node ranks
    claims: tuple[WantedClaim, ...] = ()  # that are to be made
    lacking: Mapping[EngineName, str] = field(default_factory=dict)  # why no node may have room
    # Nodes of the trainer's GPUs, whether or not engines are there.
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpus(self) -> Mapping[str, str]:
        """The GPUs that the trainer is known to have, those of its engines and others, and their
        nodes; empty: not known."""
        seats = (seat for each in self.seats.values() for seat in each)
        return {**self.others, **{gpu: seat.node for seat in seats for gpu in seat.gpus}}

    @property
    def pins(self) -> Mapping[int, Pin]:
        """What the claims of its node ranks have, or had last, by node rank."""
        known = (slot for slot in self.slots if slot.gpus)
        return {slot.node_rank: Pin(slot.node, slot.driver, slot.gpus) for slot in known}

    def cards(self, namespace: str) -> Mapping[str, str]:
        """The UUIDs of GPUs that its claims have, by the tokens that pods are known to have."""
        return {
            token(namespace, slot.claim, request_of(rank)): uuid
            for slot in self.slots
            if slot.allocated
            for rank, uuid in slot.gpus.items()
        }

    def left(self, engine: EngineName, marks: Sequence[str]) -> str:
        """Why pods with these marks cannot stay where they are; empty if they can.

        That nothing is said of a slot any more is no reason: only that its pod is gone.
        """
        for mark in marks:
            trainer = slots.trainer_of(mark)
            if trainer and self.alive is not None and trainer not in self.alive:
                return operator_texts.SEAT_LEFT
        seats = self.seats.get(engine, ())
        if len(seats) != len(marks):
            return ""
        both = zip(seats, marks, strict=True)
        moved = next((seat for seat, mark in both if mark not in ("", seat.mark)), None)
        if moved is None:
            return ""
        if moved.claim:
            return operator_texts.SEAT_OF_CLAIM.format(claim=moved.claim)
        return operator_texts.SEAT_MOVED.format(node=moved.node)

    def why_waiting(self, engine: EngineName) -> str:
        """Why this engine gets no pods; empty if it may have some."""
        if self.problem is not None:
            return str(self.problem)
        return "" if engine in self.seats else self.waits.get(engine, "")


def misfits(
    known: Slots, engines: Mapping[EngineName, Devices], per_node: int, where: str
) -> Iterator[Problem]:
    """Where the slots that there are, and the mapping, contradict each other."""
    yield from known.problems
    for node_rank, count in sorted(_needs(engines, per_node).items()):
        slot = known.slots.get(node_rank)
        if slot is not None and node_rank not in known.absent and len(slot.gpus) < count:
            yield errors.SLOTS(
                where,
                found=f"{len(slot.gpus)} GPUs for node rank {node_rank}",
                expected=f"at least {count}: device_mapping names GPU {count - 1} of that node, at "
                f"num_gpus_per_node {per_node}",
                advice="set num_gpus_per_node to what each of the trainer's pods has, as in ROLL, "
                "or correct the slots",
            )


def lacking(known: Slots, engines: Mapping[EngineName, Devices], per_node: int) -> Iterator[int]:
    """The node ranks that the mapping names, and of which no GPUs are known."""
    return (rank for rank in sorted(_needs(engines, per_node)) if rank not in known.slots)


def published(
    seen: Seen, engines: Mapping[EngineName, Devices], per_node: int, where: str
) -> Slots:
    """What the trainer has published of the node ranks that the mapping names."""
    ranks = _needs(engines, per_node)
    return slots.published(
        seen.published or {}, where, ranks, lambda slot: _absent(slot, seen, where)
    )


def _needs(engines: Mapping[EngineName, Devices], per_node: int) -> dict[int, int]:
    """How many GPUs the engines need of each node rank, counted from its first."""
    needs = dict[int, int]()
    for pods in engines.values():
        for ids in pods:
            for each in ids:
                node_rank, gpu_rank = divmod(each, per_node)
                needs[node_rank] = max(needs.get(node_rank, 0), gpu_rank + 1)
    return needs


def seating(
    known: Slots,
    engines: Mapping[EngineName, Devices],
    per_node: int,
    seen: Seen,
    where: str,
) -> Seating:
    """The seats of these engines among the slots that are known."""
    alive = seen.alive
    wrong = chain(misfits(known, engines, per_node, where), _elsewhere(known, seen, where))
    if problem := next(wrong, None):
        return Seating(problem=problem, alive=alive)
    found, waits = dict[EngineName, tuple[Seat, ...]](), dict[EngineName, str]()
    for engine, pods in engines.items():
        why = next(filter(None, (_awaited(known, ids[0] // per_node, where) for ids in pods)), "")
        if why:
            waits[engine] = why
        else:
            found[engine] = tuple(_seat(known, ids, per_node) for ids in pods)
    others = {gpu: slot.node for slot in known.slots.values() for gpu in slot.gpus}
    return Seating(seats=found, waits=waits, alive=alive, others=others)


def _seat(known: Slots, ids: Sequence[int], per_node: int) -> Seat:
    slot = known.slots[ids[0] // per_node]
    gpus = tuple(slot.gpus[each % per_node] for each in ids)
    return Seat(node=slot.node, gpus=gpus, mark=slot.mark(gpus), pod=slot.pod)


def _elsewhere(known: Slots, seen: Seen, where: str) -> Iterator[Problem]:
    """Slots on nodes that there are not."""
    for slot in known.slots.values():
        if slot.node_rank in known.absent:
            continue  # its pod may be gone with its node
        if seen.nodes is not None and slot.node not in seen.nodes:
            yield errors.SLOTS(
                where,
                found=f"node {errors.shown(slot.node)} for node rank {slot.node_rank}",
                expected="the name of a node that there is",
                advice="write what kubectl get nodes tells",
            )


def _awaited(known: Slots, node_rank: int, where: str) -> str:
    """Why nobody can be where this slot is; empty if its trainer is there."""
    if node_rank not in known.slots:
        return texts.SLOT_UNKNOWN.format(node_rank=node_rank, where=where)
    return known.absent.get(node_rank, "")


def stands_by(slot: Slot, trainers: Mapping[str, TrainerPod] | None) -> bool:
    """Whether the pod that published this slot is there, and where it says."""
    return not _absent(slot, Seen(trainers=trainers), "")


def _absent(slot: Slot, seen: Seen, where: str) -> str:
    """Why the pod that published this slot does not stand by it; empty if it does.

    Whoever may make a pod may name any node here: only where the pod is bound, its word counts.
    """
    if not slot.uid or seen.trainers is None:
        return ""
    pod = seen.trainers.get(slot.pod)
    named = {"pod": slot.pod, "node_rank": slot.node_rank}
    if pod is None:
        return texts.TRAINER_UNSEEN.format(label=names.LABEL_TRAINER, **named)
    if pod.uid != slot.uid:
        return texts.TRAINER_ANEW.format(where=where, **named)
    if pod.gone:
        return texts.TRAINER_GOES.format(**named)
    if not pod.node:
        return texts.TRAINER_UNBOUND.format(**named)
    if pod.node == slot.node:
        return ""
    nodes = {"node": pod.node, "told": slot.node}
    return texts.TRAINER_ELSEWHERE.format(where=where, **nodes, **named)
