"""Who may hold the memory of GPUs that a trainer is to have: by the GPUs, whoever's pods it is.
Pure.

A trainer goes by what the registry says: an engine that is told of can be asked to release what it
has, and one that waits has nothing.  So a GPU is free by the operator's word only where no pod can
hold memory of it, under whatever name, grouping or owner; and each that no engine tells of is named
itself.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType

from sglang_operator.api import texts
from sglang_operator.api.names import EngineName
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.placement.seats import Seat
from sglang_operator.weights.lease_state import Transaction

Seats = Mapping[EngineName, Sequence[Seat]]
NO_SEATS: Seats = MappingProxyType({})


@dataclass(frozen=True)
class Holder:
    """A pod that may hold memory of GPUs, and of which no engine tells."""

    pod: str  # its name; of another namespace that it is of such a one
    devices: tuple[int, ...] = ()  # its GPUs by the pool's ids; none: nobody knows


@dataclass(frozen=True, kw_only=True)
class Occupied:
    """The GPUs of which pods may hold memory, or are yet to."""

    engines: frozenset[EngineName] = frozenset()
    ids: frozenset[int] = frozenset()
    gpus: frozenset[str] = frozenset()
    seats: Seats = field(default_factory=dict)
    strangers: bool = False  # among them such as have other ids

    def has(self, engine: EngineStatus) -> bool:
        """Whether one of them may be on this engine's GPUs.

        Where these are not known it is only known that nobody of another pool is on any.
        """
        if engine.name in self.engines or not self.ids.isdisjoint(engine.devices):
            return True
        seats = self.seats.get(engine.name)
        if not seats:
            return self.strangers
        return any(gpu in self.gpus for seat in seats for gpu in seat.gpus)


def occupied(
    own: Iterable[ObservedPod],
    others: Iterable[ObservedPod] = (),
    seats: Seats = NO_SEATS,
    beside: Iterable[EngineStatus] = (),
) -> Occupied:
    """By pods of the pool, whose ids are its own, and by others on GPUs of its trainer.

    Engines ``beside`` those that are wanted, which stay and can be asked, are put to sleep by who
    takes their GPUs: they are in the way of one of their own name alone.
    """
    there = [pod for pod in own if pod.may_hold_memory]
    stay = (e for e in beside if e.state is not EngineState.WAITING and e.instance and e.ip)
    asked = {member.uid for engine in stay for member in engine.members}
    mine = [pod for pod in there if pod.uid not in asked]
    strange = [pod for pod in others if pod.may_hold_memory]
    return Occupied(
        engines=frozenset(pod.engine for pod in there),
        ids=frozenset(device for pod in mine for device in pod.devices),
        gpus=frozenset(gpu for pod in chain(mine, strange) for gpu in pod.gpus_seen),
        seats=seats,
        strangers=bool(strange),
    )


def untold(
    observed: Observed, told: Collection[EngineStatus], current: Transaction, seats: Seats
) -> tuple[Holder, ...]:
    """The pods that may hold memory, and of which none of the engines tells that are ``told``.

    One of the pool that has not started is a sleep's business only once the trainer has its GPUs:
    before, the sleep is what has it removed.
    """
    known = {member.uid for engine in told for member in engine.members}
    found = [
        Holder(group.first.name, tuple(group.devices))
        for group in groups.of(observed.all_pods)
        if any(pod.may_hold_memory for pod in group.members) and group.first.uid not in known
        if any(pod.ran or pod.may_run for pod in group.members)
        or current.trainers.has(group.devices)
    ]
    ids: dict[str, int] = {}
    for engine in told:
        gpus = (gpu for seat in seats.get(engine.name, ()) for gpu in seat.gpus)
        ids.update(zip(gpus, engine.devices, strict=False))
    for pod in observed.departing:
        if pod.may_hold_memory:
            each = [ids.get(gpu) for gpu in pod.gpus_seen]
            devices = tuple(sorted(device for device in each if device is not None))
            away = pod.uid in observed.elsewhere
            name = texts.ELSEWHERE.format(kind="pod") if away else pod.name
            found.append(Holder(name, devices if None not in each else ()))
    return tuple(sorted(found, key=lambda holder: holder.pod))
