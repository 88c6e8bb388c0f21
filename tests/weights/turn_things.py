"""What the models of turns are made of."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sglang_operator.api import names
from sglang_operator.gates.gate_plan import GatePlan
from sglang_operator.gates.holders import Holder
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import Observed, ObservedPod, Sightings
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.weights.lease_state import Transaction

GRACE_SECONDS = 30.0


class DiesError(Exception):
    """The trainer's call failed: it has no memory by it."""


@dataclass
class Process:
    """An engine in its pod: it holds memory once kubelet has started it, until it ends."""

    pod: ObservedPod
    released: bool = False
    ended: bool = False

    @property
    def holds(self) -> bool:
        return self.pod.engine_runs and not (self.ended or self.released)

    def releases(self) -> None:
        """Releasing what is released already is the end of an engine."""
        self.ended = self.ended or self.released
        self.released = True

    def resumes(self) -> None:
        """So is resuming what it has."""
        self.ended = self.ended or not self.released
        self.released = False

    def is_deleted(self, now: float) -> None:
        """It drains, for as long as its grace lasts at most."""
        due = now + GRACE_SECONDS
        seen = Sightings(first=self.pod.seen.first, placed=self.pod.seen.placed, due=due, going=now)
        told = replace(self.pod, deletion_asked=now, deletion_due=due)
        self.pod = replace(told, seen=seen, deleting=True)


@dataclass
class Operator:
    """What it saw last, and what it has sent that has not arrived."""

    seen: Observed | None = None
    said: Transaction | None = None
    creates: list[tuple[Engine, Pool]] = field(default_factory=list)  # as the spec was then
    deletes: list[names.Uid] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """An engine in the registry."""

    name: str
    devices: tuple[int, ...]
    instance: str | None
    up: bool
    waits: bool = False
    leaving: bool = False  # it is on its way out, beside the pool's own


@dataclass(frozen=True)
class Told:
    """The registry, or what it says of a part of the pool."""

    engines: tuple[Entry, ...] = ()
    unlisted: tuple[Entry, ...] = ()
    holders: tuple[Holder, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def present(self) -> Sequence[Entry]:
        """Who sleeps and wakes: also who runs beside the pool's own, and stays for now."""
        return [*self.engines, *(e for e in self.unlisted if not e.leaving)]

    def going(self, asleep: Collection[str | None] = ()) -> bool:
        """Whether somebody is on the way out that may hold memory."""
        return any(e.leaving and e.instance not in asleep for e in self.unlisted)

    def unlisted_but(self, asleep: Collection[str | None]) -> bool:
        """Whether others than these run beside the pool's own."""
        return any(e.instance not in asleep for e in self.unlisted)

    def overlapping(self, devices: Iterable[int] | None) -> "Told":
        """As ``client.devices`` has it; None: all.  Raises DiesError."""
        if devices is None:
            return self
        ids, known = {*devices}, {engine.name for engine in self.engines}
        found = tuple(e for e in self.engines if not ids.isdisjoint(e.devices))
        if not found or any(not e.leaving and e.name not in known for e in self.unlisted):
            raise DiesError("no engine has these, or others run beside the pool's")
        own = {engine.name for engine in found}
        return Told(
            engines=found,
            unlisted=tuple(e for e in self.unlisted if e.leaving or e.name in own),
            holders=tuple(h for h in self.holders if not (h.devices and ids.isdisjoint(h.devices))),
            hidden=self.hidden,
        )

    def within(self, devices: Iterable[int] | None) -> "Told":
        """The same of those all of whose GPUs are among these."""
        if devices is None:
            return self
        ids = {*devices}
        found = tuple(e for e in self.engines if ids.issuperset(e.devices))
        if not found:
            raise DiesError("no engine has only these")
        own = {engine.name for engine in found}
        beside = tuple(e for e in self.unlisted if not e.leaving and e.name in own)
        return Told(engines=found, unlisted=beside)


def told(weights: GatePlan, waits: Collection[str]) -> Told:
    """What the registry says by this; ``waits`` are engines, by name."""
    return Told(
        engines=tuple(_entry(each, each.name in waits) for each in weights.engines),
        unlisted=tuple(_beside(each) for each in weights.others),
        holders=weights.holders,
        hidden=weights.hidden,
    )


def _entry(each: EngineStatus, waits: bool) -> Entry:
    return Entry(each.name, tuple(each.devices), each.instance, each.up, waits)


def _beside(each: EngineStatus) -> Entry:
    return replace(_entry(each, False), leaving=each.state is EngineState.WAITING)
