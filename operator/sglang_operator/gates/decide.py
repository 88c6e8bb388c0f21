"""Which engines hold the right weights, and which gates that opens and closes.  Pure.

``decide`` looks at the transaction in the pool's Lease, at the pods and at what engines said, and
tells each engine's gate where it differs from what it should be (explanation/weights.md).  What an
engine holds is remembered by its pod alone, of several the leader's: its condition
``weights-synced``.

The *epoch* names one exact set of running engines: two operators compute the same, and any
restart changes it.  An *instance* names one run of one engine, so that a commit opens exactly the
engines that it covered.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from sglang_operator.api import names, redaction, texts
from sglang_operator.api.spec import Recovery, Weights, WeightsGate
from sglang_operator.engine import arguments
from sglang_operator.gates import hidden_sleepers, recovery, standing
from sglang_operator.gates import lease as leases
from sglang_operator.gates.awaited import TrainerSignal as TrainerSignal
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.gates.recovery import Recover
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import EngineReport, Observed, ObservedChild, ObservedPod
from sglang_operator.pool.resolve import EngineFacts, Owner
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction, read

EPOCH_DIGITS = 16

# Reasons of the gate's condition.
COMMITTED = "Committed"
RECOVERED = "Recovered"  # as earlier versions opened the gate of what had loaded a checkpoint
VERSIONED = "Versioned"
NOT_COVERED = "NotCovered"
FORGOTTEN = leases.FORGOTTEN
ASIDE = "Aside"
INITIAL_WEIGHTS = "InitialWeights"


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
    # Pods that are there, and that may hold sleepers of which no engine tells.
    hidden: tuple[str, ...] = ()
    # Engines whose pods hold memory or are yet to; None: others are being made, or need no turn.
    occupied: frozenset[names.EngineName] | None = None

    @cached_property
    def epoch(self) -> str:
        """The name of exactly these running engines."""
        return epoch(self.engines)

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
            complete=bool(self.engines) and all(engine.up for engine in self.engines),
            waits=len(standing.waiting(self.engines, self.transaction, self.occupied)),
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


def decide(
    owner: Owner,
    policy: Weights,
    engines: tuple[EngineStatus, ...],
    observed: Observed,
    now: float,
    operator: str = "",
    unlisted: tuple[EngineStatus, ...] = (),
) -> GatePlan:
    """The gates that have to move, from this snapshot at this time by the pass' wall clock.

    ``policy.gate`` is resolved: never Auto.  A pool whose spec is refused has no ``engines``, and
    its gates still close and open: its engines run, and their trainer does not stop.  ``operator``
    is the holder's name of this process, where it may load weights into engines.  ``unlisted`` run
    beside the pool's engines.
    """
    there = groups.of(observed.all_pods)
    strays = groups.with_any(there, observed.aside)
    plan = _decide(owner, policy, engines, observed, there, strays, now, operator)
    told_of = {change.pod.uid for change in plan.gates}
    aside = sorted(strays, key=lambda group: group.first.name)
    closed = [_aside(group) for group in aside if group.leader is not None]
    added = [change for change in closed if change is not None and change.pod.uid not in told_of]
    gates = (*plan.gates, *added)
    stay = [each for each in unlisted if each.state is not EngineState.WAITING]
    return replace(
        plan,
        gates=gates,
        reached=observed.reached,
        revisions=observed.revisions,
        reports=observed.reports,
        unlisted=unlisted,
        hidden=hidden_sleepers.named(there, strays, (*engines, *stay), plan.transaction),
    )


def _decide(
    owner: Owner,
    policy: Weights,
    engines: tuple[EngineStatus, ...],
    observed: Observed,
    there: Sequence[Group],
    strays: Set[Group],
    now: float,
    operator: str,
) -> GatePlan:
    me = steps.Trainer(holder=operator or names.FIELD_MANAGER, transaction="")
    name = names.weights_lease_name(owner.name)
    found = observed.weights_lease(owner.name)
    # What one says that is not whole is not known; a create that meets it reads it.
    lease = found if found is not None and found.whole else None
    ours = lease if lease is not None and lease.owner == owner.uid else None
    says = read(ours.body) if ours is not None else None
    current = says or Transaction()
    alive = [group for group in there if not group.ended]
    said = leases.last_said(says, alive, observed.said)
    plan = GatePlan(engines=engines, transaction=current, said=said)
    state = leases.anew(name, policy.gate, found, says, alive, said, observed.said, me, now)
    if state is not None:
        return _forgotten(owner, plan, lease, ours, alive, state, leaving=bool(observed.leaving))
    abort, due = leases.expiry(ours, current, me, now) if ours is not None else (None, None)
    if abort is not None:
        return replace(plan, abort=abort, due=due)
    gated = (group for group in alive if group.gated)
    wanted = (_moved(policy.gate, each, current, observed, each in strays) for each in gated)
    loads = recovery.RecoveryPlan()
    if ours is not None and operator and policy.gate is not WeightsGate.OFF:
        recovers = policy.recovery is Recovery.FROM_CHECKPOINT and not observed.leaving
        loads = recovery.plan(me, ours, current, engines, observed, now, wanted=recovers)
    times = [time for time in (due, loads.due) if time is not None]
    return replace(
        plan,
        gates=tuple(change for change in wanted if change is not None),
        recovery=loads.step,
        recoveries=loads.loads,
        due=min(times, default=None),
    )


def _forgotten(
    owner: Owner,
    plan: GatePlan,
    lease: ObservedChild | None,
    ours: ObservedChild | None,
    alive: list[Group],
    state: Transaction,
    *,
    leaving: bool,
) -> GatePlan:
    """The Lease does not know any more what was begun by it.

    That is written into it first, and gates that have to close follow.  One that is not there is
    made, which finds it if it was only out of sight; one that is somebody else's stays as it is.
    Of a pool that goes it is not made anew, and the gates follow at once.
    """
    if lease is None:
        if not leaving:
            return replace(plan, restore=state)
        if state.phase is not Phase.ABORTED:
            return plan
        # The others leave the Services by themselves.
        alive = [group for group in alive if not group.dying]
    if ours is not None:
        step = LeaseStep(lease=ours, state=state, reason="it says nothing of what was begun")
        return replace(plan, abort=step)
    message = texts.GATE_FORGOTTEN.format(lease=names.weights_lease_name(owner.name))
    closed = (_closed(group, FORGOTTEN, message) for group in alive)
    return replace(plan, gates=tuple(change for change in closed if change is not None))


# --- gates


def _moved(
    gate: WeightsGate, group: Group, current: Transaction, observed: Observed, stray: bool
) -> GateChange | None:
    """How this engine's gate has to change, by the Lease or else by what its pod remembers.

    No gate of a stray opens.
    """
    current = current.of(group.last_instance)
    change = _wanted(gate, group, current, observed) or _remarked(group, current)
    if stray and (change is None or change.is_open):
        return _aside(group)
    return change


def _aside(group: Group) -> GateChange | None:
    return _closed(group, ASIDE, texts.GATE_ASIDE)


def _wanted(
    gate: WeightsGate, group: Group, current: Transaction, observed: Observed
) -> GateChange | None:
    """How this engine's gate has to change by what the Lease says; None: it is as it should be.

    One that was started with a gate keeps it while ``gate`` is Off: it follows the trainer as
    before, and does not close for want of a commit.
    """
    if current.phase is Phase.SYNCING:
        # The trainer paused the engines: what is open stays, what is closed stays.
        return _run_again(gate, group, current, observed)
    released = current.may_sleep(group.last_instance)
    if current.phase is Phase.SLEEPING and released and not leases.sleeps(group):
        # Also of one that is closed already: that it sleeps is remembered by the pod alone.
        return _asleep(group, released)
    if current.phase is Phase.SLEEPING and not released:
        return _closed(group, Phase.AWAKE.value, _why_awake(current))
    if current.phase in _CLOSED and not current.initial:
        return _closed(group, current.phase.value, _why_closed(current))
    if group.dying:
        return None  # it leaves the Services by itself
    vouched = _vouched(gate, group, current, observed)
    if vouched is not None:
        return _opened(group, *vouched)
    if gate is WeightsGate.VERSIONED and group.instance not in current.torn:
        initial = _says_initial(group, observed)
        return _closed(group, INITIAL_WEIGHTS, texts.GATE_INITIAL) if initial else None
    if gate is WeightsGate.OFF or _recovered(group, current):
        return None
    return _closed(group, NOT_COVERED, texts.GATE_NOT_COVERED.format(version=current.version))


def _run_again(
    gate: WeightsGate, group: Group, current: Transaction, observed: Observed
) -> GateChange | None:
    """Close what the last commit did not cover: a container that kubelet ran once more in place.

    A node that comes back with an empty disk has it do so, whatever the restart policy.  What the
    sync writes into it counts with the next commit.
    """
    run = group.instance
    if run is None or run in current.instances or _recovered(group, current):
        return None
    versioned = gate is WeightsGate.VERSIONED
    if not (_says_initial(group, observed) if versioned else current.instances):
        return None
    return _closed(group, NOT_COVERED, texts.GATE_NOT_COVERED.format(version=current.version))


def _needs_a_commit(group: Group, current: Transaction) -> bool:
    """Whether the gate was closed over weights that may be torn or gone, and the commit left it so.

    SGLang changes the label last, so that they have that of the version before.  A Lease that was
    made anew says nothing of a commit either.
    """
    if group.instance in current.torn:
        return True
    if current.phase not in (Phase.COMMITTED, Phase.IDLE):
        return False
    gate = group.gate
    if gate is None or gate.is_open:
        return False
    if gate.reason == ASIDE:
        return current.phase is Phase.COMMITTED  # it may have lost its labels amid the sync
    return gate.reason in _UNTIL_A_COMMIT or leases.sleeps(group)


def _recovered(group: Group, current: Transaction) -> bool:
    """Whether the pod caught up with this very version by itself."""
    gate = group.gate
    return gate is not None and gate.reason == RECOVERED and gate.version == current.version


def _leader(group: Group) -> ObservedPod:
    """The pod with the gate; a group that is gated has one."""
    assert group.leader is not None
    return group.leader


def _asleep(group: Group, released: frozenset[str]) -> GateChange:
    reason, message = Phase.SLEEPING.value, lease_state.mark(released)
    return GateChange(pod=_leader(group), is_open=False, reason=reason, message=message)


def _remarked(group: Group, current: Transaction) -> GateChange | None:
    """What a pod says of its sleep is put right once the Lease knows better: it stays closed.

    Who believes the pod, because the Lease was lost, has it resumed: that kills one that is awake.
    """
    if not leases.sleeps(group) or current.phase is Phase.IDLE:
        return None
    assert group.gate is not None
    if released := current.may_sleep(group.last_instance):
        return None if group.gate.released == released else _asleep(group, released)
    if group.last_instance is None:
        return None  # nobody knows who sleeps there
    if current.phase is Phase.COMMITTED:
        reason, why = NOT_COVERED, texts.GATE_NOT_COVERED.format(version=current.version)
    elif current.phase is Phase.ABORTED:
        reason, why = Phase.ABORTED.value, _why_closed(current)
    elif current.initial:
        reason, why = INITIAL_WEIGHTS, texts.GATE_INITIAL
    else:
        reason, why = Phase.AWAKE.value, _why_awake(current)
    return GateChange(pod=_leader(group), is_open=False, reason=reason, message=why)


_UNTIL_A_COMMIT = (*leases.UNTIL_A_COMMIT, NOT_COVERED)
_CLOSED = (Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE)


def _why_awake(current: Transaction) -> str:
    return texts.GATE_AWAKE if current.memory_lost else texts.GATE_NOT_ASLEEP


def _why_closed(current: Transaction) -> str:
    text = {
        Phase.ABORTED: texts.GATE_ABORTED,
        Phase.SLEEPING: lease_state.mark(current.released),
        Phase.AWAKE: texts.GATE_AWAKE,
    }[current.phase]
    why = redaction.in_words(current.message)
    return text.format(message=why or "no reason was given")


def _vouched(
    gate: WeightsGate, group: Group, current: Transaction, observed: Observed
) -> tuple[str, str] | None:
    """Reason and version by which this engine's weights are good; None if nobody says so."""
    run = group.instance
    if run is None:
        return None
    if current.phase is Phase.COMMITTED and run in current.instances:
        return COMMITTED, current.version
    report = observed.reports.get(run)
    if gate is not WeightsGate.VERSIONED or report is None or _needs_a_commit(group, current):
        return None
    if report.weight_version not in (None, *_INITIAL):
        return VERSIONED, report.weight_version
    return None


# What --weight-version was given at the start, and what an engine says that was given nothing.
_INITIAL = ("", "default", arguments.SENTINEL)


def _says_initial(group: Group, observed: Observed) -> bool:
    report = observed.reports.get(group.instance or "")
    return report is not None and report.weight_version in _INITIAL


def _opened(group: Group, reason: str, version: str) -> GateChange | None:
    if group.gate is not None and group.gate.is_open and group.gate.version == version:
        return None
    return GateChange(pod=_leader(group), is_open=True, reason=reason, message=version)


def _closed(group: Group, reason: str, message: str) -> GateChange | None:
    """A gate that was never set is closed, and stays without a word."""
    if group.gate is None or not group.gate.is_open:
        return None
    return GateChange(pod=_leader(group), is_open=False, reason=reason, message=message)


# --- what is told


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
