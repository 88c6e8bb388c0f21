"""Which engines hold the right weights, and which gates that opens and closes.  Pure.

``decide`` looks at the transaction in the pool's Lease, at the pods and at what engines said, and
tells each engine's gate where it differs from what it should be (explanation/weights.md).  Whether
a gate is open, and for which version, is remembered by the pod alone, of several the leader's: its
condition ``weights-synced``.  The Lease says what the last commit covered, and whose weights are
torn.

The *epoch* names one exact set of running engines: two operators compute the same, and any
restart changes it.  An *instance* names one run of one engine, so that a commit opens exactly the
engines that it covered.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from sglang_operator.api import names, redaction, texts
from sglang_operator.api.spec import Recovery, Weights, WeightsGate
from sglang_operator.engine import arguments
from sglang_operator.gates import hidden_sleepers, recovery
from sglang_operator.gates import lease as leases
from sglang_operator.gates.awaited import TrainerSignal as TrainerSignal
from sglang_operator.gates.gate_plan import GateChange as GateChange
from sglang_operator.gates.gate_plan import GatePlan as GatePlan
from sglang_operator.gates.gate_plan import epoch as epoch
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.pool.resolve import Owner
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction, read

# Reasons of the gate's condition.
COMMITTED = "Committed"
RECOVERED = "Recovered"  # as earlier versions opened the gate of what had loaded a checkpoint
VERSIONED = "Versioned"
NOT_COVERED = "NotCovered"
FORGOTTEN = leases.FORGOTTEN
ASIDE = "Aside"
INITIAL_WEIGHTS = "InitialWeights"


def decide(
    owner: Owner,
    policy: Weights,
    engines: tuple[EngineStatus, ...],
    observed: Observed,
    now: float,
    operator: str = "",
    unlisted: tuple[EngineStatus, ...] = (),
    heirs: Mapping[names.EngineName, EngineStatus] = MappingProxyType({}),
) -> GatePlan:
    """The gates that have to move, from this snapshot at this time by the pass' wall clock.

    ``policy.gate`` is resolved: never Auto.  A pool whose spec is refused has no ``engines``, and
    its gates still close and open: its engines run, and their trainer does not stop.  ``operator``
    is the holder's name of this process, where it may load weights into engines.  ``unlisted`` run
    beside the pool's engines; ``heirs`` are those of them that are synced, and load, instead.
    """
    there = groups.of(observed.all_pods)
    strays = groups.with_any(there, observed.aside)
    synced = tuple(heirs.get(each.name, each) for each in engines) if heirs else engines
    plan = _decide(owner, policy, synced, observed, there, strays, now, operator)
    told_of = {change.pod.uid for change in plan.gates}
    aside = sorted(strays, key=lambda group: group.first.name)
    closed = [_aside(group) for group in aside if group.leader is not None]
    added = [change for change in closed if change is not None and change.pod.uid not in told_of]
    gates = (*plan.gates, *added)
    if heirs:  # who takes over serves first
        gates = tuple(sorted(gates, key=lambda change: not change.is_open))
    stay = [each for each in unlisted if each.state is not EngineState.WAITING]
    return replace(
        plan,
        engines=engines,
        heirs=heirs,
        gates=gates,
        reached=observed.reached,
        revisions=observed.revisions,
        reports=observed.reports,
        unlisted=unlisted,
        hidden=hidden_sleepers.named(
            there, strays, (*engines, *stay), plan.transaction, groups.of(observed.departing)
        ),
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
        # The trainer paused the engines: what is open stays, but for an engine that kubelet has
        # started once more in its pod; what is closed stays.
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
