"""Which engines load the committed weights from their checkpoint, under which hold.  Pure.

A load is a step that the Lease knows, so that nothing older is ever written over anything newer:

1. The operator takes the Lease, which is Committed and free, and names the engines (``recover``).
   No trainer begins a sync or puts engines to sleep from then on.
2. Only then, and only while it has renewed lately, may the request leave (``fleet.poller``).
3. What was read whole is covered by the commit from then on, by compare and swap; what failed is
   tried again later, from the first step.

An operator that is gone renews no more, and after the Lease's duration anybody may take it.  What
it sent is then in the engine, which works requests off in order, or will never arrive.  For that
the engine is paused before: until 0.5.5 each update, and later one of an engine that is not paused,
waits in SGLang for requests to be read to their end; two of the former kind do so in order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sglang_operator.gates.lease import LeaseStep
from sglang_operator.observed import groups
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import Loading, Observed, ObservedChild, ObservedPod
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction

# For so long the Lease is left to trainers before each load: they look twice a second.
REST_SECONDS = 2.0
# Engines that come up so soon after the first join it; later ones wait for the next time, so that
# a trainer's turn comes.
JOIN_SECONDS = 60.0
# Engines that load at a time: they may share a volume.
AT_ONCE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Recover:
    """Load the committed weights from their checkpoint into an engine that lacks them."""

    pod: ObservedPod
    instance: str
    checkpoint: str
    version: str
    commit: str  # the transaction that committed them


@dataclass(frozen=True, kw_only=True)
class RecoveryPlan:
    """What the Lease is to say next, and the loads that may be under way by what it says now."""

    step: LeaseStep | None = None
    loads: tuple[Recover, ...] = ()
    due: float | None = None  # the next step in time, by the wall clock of the pass


def plan(
    operator: steps.Trainer,
    lease: ObservedChild,
    current: Transaction,
    engines: tuple[EngineStatus, ...],
    observed: Observed,
    now: float,
    *,
    wanted: bool,
) -> RecoveryPlan:
    """From this snapshot at this time; ``wanted``: whether the pool recovers from checkpoints."""
    if current.phase is not Phase.COMMITTED:
        return RecoveryPlan()
    view = _View(operator=operator, lease=lease, current=current, observed=observed, now=now)
    lacking = dict(view.lacking(engines)) if wanted else {}
    expires = current.expires(lease.seen)
    if current.recovers and current.holder == operator.holder and wanted:
        return _going_on(view, lacking)
    # Another's, nobody's whose name was edited away, or nobody wants it any more.
    if (current.holder or current.vacant) and now <= expires:
        return RecoveryPlan(due=expires)
    return _beginning(view, lacking)


@dataclass(frozen=True, kw_only=True)
class _View:
    operator: steps.Trainer
    lease: ObservedChild
    current: Transaction
    observed: Observed
    now: float

    def lacking(self, engines: tuple[EngineStatus, ...]) -> Iterator[tuple[str, ObservedPod]]:
        """Engines that came up after the commit, and can catch up from its checkpoint."""
        if not self.current.checkpoint or not self.current.version:
            return
        for engine in engines:
            leader, run = engine.leader, engine.instance
            if leader is None or run is None or not engine.answers:
                continue
            if run not in self.current.instances and not (leader.gate and leader.gate.is_open):
                yield run, leader

    def loading(self, instance: str) -> Loading | None:
        """What is known of the load of these weights into this engine."""
        current, report = self.current, self.observed.reports.get(instance)
        known = report.loading if report is not None else None
        of = (current.id, current.checkpoint, current.version)
        if known is None or (known.commit, known.path, known.version) != of:
            return None
        return known

    def step(self, state: Transaction, reason: str) -> LeaseStep:
        return LeaseStep(lease=self.lease, state=state, reason=reason)


def _beginning(view: _View, lacking: Mapping[str, ObservedPod]) -> RecoveryPlan:
    """Nobody loads, or who did is gone."""
    current, now = view.current, view.now
    if not lacking:
        if current.recovering:
            state = steps.left_behind(current)
            return RecoveryPlan(step=view.step(state, "who loaded is gone"))
        return RecoveryPlan()
    times = {run: _again(view.loading(run)) for run in lacking}
    at = max(min(times.values()), view.lease.seen + REST_SECONDS)
    if now < at:
        return RecoveryPlan(due=at)
    due = sorted(run for run, time in times.items() if time <= now)[:AT_ONCE]
    state = steps.recover(current, view.operator, instances=due, now=now, seen=view.lease.seen)
    return RecoveryPlan(step=view.step(state, f"{', '.join(due)} lack the committed weights"))


def _again(loading: Loading | None) -> float:
    return loading.again if loading is not None and loading.error else 0.0


def _going_on(view: _View, lacking: Mapping[str, ObservedPod]) -> RecoveryPlan:
    """Our own loads: which of them ended, which go on, and which join.

    An engine that reads its weights may miss its probes: it loads on for as long as it runs, in
    sight or not.
    """
    current, now, operator = view.current, view.now, view.operator
    alive = (group for group in groups.of(view.observed.pods) if not group.ended)
    running = {group.last_instance: group.first for group in alive}
    loaded, failed = set(), set()
    for run in current.recovering:
        loading = view.loading(run)
        # An error whose time is over is that of the try before: this one is yet to be sent.
        if run not in running or (loading is not None and loading.error and now < loading.again):
            failed.add(run)
        elif loading is not None and loading.done:
            loaded.add(run)
    # Its time is by a wall clock, and one that was set back must not keep it from being renewed.
    renew_at = min(current.renewed, view.lease.seen) + operator.duration / 3
    step = None
    if loaded or failed:
        state = steps.recovered(current, operator, loaded=loaded, failed=failed, now=now)
        step = view.step(state, f"loaded: {len(loaded)}, not loaded: {len(failed)}")
    elif joining := _joining(view, lacking):
        both = current.recovering | joining
        state = steps.recover(current, operator, instances=both, now=now, seen=view.lease.seen)
        step = view.step(state, f"{', '.join(sorted(joining))} lack the committed weights too")
    elif now >= renew_at:
        step = view.step(steps.still_recovering(current, operator, now=now), "the loads go on")
    loads = tuple(
        Recover(
            pod=running[run],
            instance=run,
            checkpoint=current.checkpoint,
            version=current.version,
            commit=current.id,
        )
        for run in sorted(current.recovering - loaded - failed)
    )
    return RecoveryPlan(step=step, loads=loads, due=renew_at)


def _joining(view: _View, lacking: Mapping[str, ObservedPod]) -> set[str]:
    # The stamp is by a wall clock: one that was set back since tells nothing of how long it is.
    if not 0.0 <= view.now - view.current.acquired <= JOIN_SECONDS:
        return set()
    due = (run for run in lacking if _again(view.loading(run)) <= view.now)
    room = max(0, AT_ONCE - len(view.current.recovering))
    return set(sorted(run for run in due if run not in view.current.recovering)[:room])
