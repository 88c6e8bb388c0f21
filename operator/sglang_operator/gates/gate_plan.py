"""What is decided about the weights of a pool, and what follows from that.  Pure data."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sglang_operator.api import names
from sglang_operator.gates import lease as leases
from sglang_operator.gates import standing
from sglang_operator.gates.awaited import TrainerSignal
from sglang_operator.gates.holders import Holder, Occupied
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.gates.recovery import Recover
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import EngineReport, ObservedPod
from sglang_operator.pool.resolve import EngineFacts
from sglang_operator.weights.lease_state import Phase, Transaction

EPOCH_DIGITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class GateChange:
    """Open or close the gate of exactly this pod."""

    pod: ObservedPod
    is_open: bool
    reason: str
    message: str  # the version while it is open, else why it is closed


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """What to do about the weights, and how they stand.

    What is only told, not acted upon, is computed when it is asked for.
    """

    engines: tuple[EngineStatus, ...]
    transaction: Transaction
    said: Transaction | None = None  # what the Lease said last, whatever became of it since
    gates: tuple[GateChange, ...] = ()
    abort: LeaseStep | None = None  # by which it ends, or says again what it forgot
    restore: Transaction | None = None  # for a Lease to be made in place of one that is gone
    reached: tuple[str, ...] = ()  # pods that are not ours to close, and that clients reach
    recovery: LeaseStep | None = None
    recoveries: tuple[Recover, ...] = ()  # by what stands in the Lease
    due: float | None = None  # the next step in time, by the wall clock of the pass
    # What engines of earlier revisions were started with: they are synced like the others.
    revisions: Mapping[str, EngineFacts] = field(default_factory=dict)
    reports: Mapping[str, EngineReport] = field(default_factory=dict)  # what they say of themselves
    # Engines that run beside those: they hold GPU memory, and have no rank.
    unlisted: tuple[EngineStatus, ...] = ()
    # Of these, by engine, those that the next sync is of in place of the one that serves.
    heirs: Mapping[names.EngineName, EngineStatus] = field(default_factory=dict)
    # Pods that are there, and that may hold sleepers of which no engine tells.
    hidden: tuple[str, ...] = ()
    # GPUs whose memory pods hold, or are yet to; None: others are being made, or need no turn.
    occupied: Occupied | None = None
    # Pods that may hold memory of GPUs which a trainer has in turns, and that no engine tells of.
    holders: tuple[Holder, ...] = ()
    # Engines whose GPUs another pool has, and which: none of them resumes its memory.  "": pods of
    # no pool that there is, among the holders.
    taken: Mapping[names.EngineName, str] = field(default_factory=dict)
    # The UUIDs of GPUs that engines have by claims, as far as they are known.
    cards: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def epoch(self) -> str:
        """The name of exactly these running engines."""
        return epoch(self.listed)

    @cached_property
    def listed(self) -> tuple[EngineStatus, ...]:
        """The engines that trainers are told of by rank: of two of one engine the heir."""
        if not self.heirs:
            return self.engines
        return tuple(self.heirs.get(engine.name, engine) for engine in self.engines)

    @cached_property
    def others(self) -> tuple[EngineStatus, ...]:
        """Those that are told of beside them, by their pods: who has an heir runs on."""
        if not self.heirs:
            return self.unlisted
        heirs = {heir.pod_name for heir in self.heirs.values()}
        kept = [e for e in self.engines if e.name in self.heirs and e.leader and e.runs]
        found = [*kept, *(each for each in self.unlisted if each.pod_name not in heirs)]
        return tuple(sorted(found, key=lambda each: each.pod_name))

    @cached_property
    def versions(self) -> Mapping[names.EngineName, str]:
        """The version that each engine holds by the last word on it; others are absent."""
        return dict(_versions(self.engines, self.transaction))

    @property
    def settled(self) -> bool:
        """Whether every gate is as the transaction asks: only then is it acknowledged."""
        return not (self.gates or self.reached or self.abort or self.restore)

    @property
    def told(self) -> Transaction:
        """What the next operator is to know of the Lease."""
        step = self.restore or (self.abort.state if self.abort else self.transaction)
        return leases.told(self.said, step)

    def awaited(self, before: TrainerSignal) -> TrainerSignal:
        """These fields now; one on which nobody blocks at present is carried over."""
        phase = self.transaction.phase
        step, _, forming, epoch, serves, *_ = before
        owner = self.transaction.groups
        if self.settled:
            step = (self.transaction.id, phase)
        if phase is Phase.SYNCING:
            epoch = self.epoch
        if phase is Phase.SLEEPING:
            every, said = (*self.engines, *self.unlisted), self.transaction
            serves = any(e.in_service and said.of(e.instance) is said for e in every)
        if owner is not None and owner.forming:
            forming = owner.id, owner.claims
        return TrainerSignal(
            step=step,
            seen=self.transaction.id,
            forming=forming,
            epoch=epoch,
            serves=serves,
            complete=bool(self.listed) and all(engine.up for engine in self.listed),
            waits=len(standing.waiting(self.engines, self.transaction, self.occupied)),
            taken=len(self.taken),
            holders=len(self.holders),
        )

    @cached_property
    def synced(self) -> int:
        """SYNCED: engines that clients reach now, as far as it is for the weights."""
        closing = {change.pod.uid for change in self.gates if not change.is_open}
        return sum(each.reachable and each.uid not in closing for each in self.engines)

    @property
    def holding(self) -> int:
        """Engines that hold weights which somebody vouches for, reachable or not."""
        return len(self.versions)

    @property
    def covered(self) -> int:
        """Engines that the last commit covered, whatever became of their weights."""
        return sum(engine.instance in self.transaction.instances for engine in self.engines)

    @cached_property
    def unguarded(self) -> Sequence[EngineStatus]:
        """Engines that clients reach without a gate, and whose weights nobody vouches for."""
        versions = self.versions
        return [
            each
            for each in self.engines
            if each.gated is False and each.reachable and each.name not in versions
        ]

    @property
    def kept_away(self) -> Sequence[EngineStatus]:
        """Engines that are up behind a closed gate with which they were started."""
        return [each for each in self.engines if each.gated and each.up and not each.reachable]

    @property
    def skew(self) -> int:
        """Engines that hold another version than most lately committed (or, without, most)."""
        found = list(self.versions.values())
        if not found:
            return 0
        newest = self.transaction.version or max(sorted(set(found)), key=found.count)
        return sum(version != newest for version in found)


def epoch(engines: Iterable[EngineStatus]) -> str:
    """Digest of the ordered (rank, pod UID, container ID, GPUs); sixteen hexadecimal digits."""
    lines = "\n".join(
        f"{each.rank}|{each.lives}|{','.join(map(str, each.devices))}" for each in engines
    )
    return hashlib.sha256(lines.encode()).hexdigest()[:EPOCH_DIGITS]


def _versions(
    engines: tuple[EngineStatus, ...], current: Transaction
) -> Iterable[tuple[names.EngineName, str]]:
    """By engine, the version that was last vouched for.

    Through a sync and through a sleep that keeps the weights it is that of the last commit.  After
    an abort, and once the memory of the weights was released, nobody vouches for anything.
    """
    if current.phase is Phase.ABORTED or current.memory_lost:
        return
    for engine in engines:
        gate = engine.gate
        if gate is not None and gate.is_open:
            yield engine.name, gate.version
        elif current.version and engine.instance in current.instances:
            yield engine.name, current.version
