"""When running engines are left alone: for the trainer's sake, or because somebody said so.  Pure.

A sync writes to all engines at once, often by a collective operation that hangs if one goes, and
what it writes counts only for the engines that it began with.  While the engines sleep, their
memory is the trainer's: a new one would take it back.  Both end without us: a trainer that does
not renew has aborted, and one that lets engines sleep wakes them for the next step.

Between two of a trainer's turns its step goes on with the engines that serve.  Who wants none of
these to go in the middle of it (``rollout.window``) has them go as it begins, or at a deadline.
"""

from collections.abc import Set

from sglang_operator.api.spec import Recovery, RolloutWindow
from sglang_operator.observed import groups
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs
from sglang_operator.weights import lost_lease
from sglang_operator.weights.lease_state import Phase, Transaction, read
from sglang_operator.weights.turn import ENGINES, TRAINER, Turn

# For so long after a commit its engines have hardly begun with the next step.
BETWEEN_SECONDS = 10.0

_HELD = {Phase.SYNCING: Waits.FOR_SYNC, Phase.SLEEPING: Waits.FOR_WAKE}


def held(pool: Pool, observed: Observed, now: float) -> Waits | None:
    """What a voluntary change of running engines has to wait for; None: it may go on."""
    if observed.refused_revision == pool.revision or ungrouped(pool, observed):
        return Waits.FOR_ADMISSION
    return trainers_turn(pool, observed, now)


def ungrouped(pool: Pool, observed: Observed) -> bool:
    """Whether no pods can be made now: their gang's scheduler would not know them as one."""
    return gangs.kind(pool.spec) in observed.absent_kinds


def leaves_alone(pool: Pool, observed: Observed, now: float) -> bool:
    """Whether no engine that runs goes for another of its name, and none begins beside one.

    Whatever was edited meanwhile, and whichever of them misses a probe: the trainer writes to the
    one that the registry tells of, or has its memory, and who paused wants to see both.  What has
    ended, or is lost, is no decision of ours.
    """
    return pool.spec.rollout.paused or trainers_turn(pool, observed, now) is not None


def trainers_turn(pool: Pool, observed: Observed, now: float) -> Waits | None:
    """What the trainer has the engines for; None: it does not have them.

    GPUs that no engine of the pool is on, as it was scaled since, or the trainer has more than
    those, keep nobody waiting: no wake is about them.  Nor does a sleep of which all sleepers are
    gone: what a sync waits for then is the change that would wait for it.
    """
    lease = _lease(pool, observed)
    # What one says that is not kept whole is not known: a sync may be running.
    if lease is not None and not lease.whole:
        return Waits.FOR_SYNC
    says = read(lease.body) if lease is not None else Transaction()
    held = _HELD.get(says.phase)
    if held is Waits.FOR_SYNC or (held is Waits.FOR_WAKE and _any_sleeps(says, observed, now)):
        return held
    turn = taken(pool, observed)
    has = any(turn.has(engine.devices) for engine in pool.engines)
    return Waits.FOR_WAKE if has else None


def _any_sleeps(says: Transaction, observed: Observed, now: float) -> bool:
    """Whether an engine that is there sleeps, or may be about to, in sight or not.

    A Lease that names none says of none that it does not.
    """
    if (says.at_work and now <= observed.work_ends) or not says.asleep:
        return True
    there = groups.of((*observed.all_pods, *observed.departing))
    return any(says.may_sleep(group.last_instance) for group in there)


def taken(pool: Pool, observed: Observed) -> Turn:
    """The GPUs that the trainer has for itself: no engine is started there before it gives them
    back.

    Engines on GPUs of their own meet nobody.  A Lease of which not all is seen says nothing, and
    one that is not there says what it did last (``gates.lease``): who does not know waits.
    """
    if not pool.takes_turns:
        return ENGINES
    lease = _lease(pool, observed)
    if lease is not None and not lease.whole:
        return TRAINER
    return said(pool, observed).trainers


def said(pool: Pool, observed: Observed) -> Transaction:
    """What the Lease says, or said last where it has lost that, as far as it is known."""
    lease, known = _lease(pool, observed), observed.said
    says = read(lease.body) if lease is not None else Transaction()
    return known if known is not None and lost_lease.is_lost(says, known) else says


def fetches(group: Group, pool: Pool, observed: Observed) -> bool:
    """Whether this engine, which lacks weights, gets them without a sync: from the checkpoint of
    the last commit.  One that failed to is tried again, and is not waited for."""
    lease = _lease(pool, observed)
    if pool.spec.weights.recovery is not Recovery.FROM_CHECKPOINT or lease is None:
        return False
    current = read(lease.body)
    if current.phase is not Phase.COMMITTED or not (current.checkpoint and current.version):
        return False
    report = observed.reports.get(group.instance or "")
    return report is None or report.loading is None or not report.loading.error


def amid_a_step(pool: Pool, observed: Observed, now: float) -> bool:
    """Whether engines that serve are left to the step of a trainer that is under way.

    Its commit ends one step and begins the next: the engines have hardly begun with that so soon
    after it, and one that goes then is back for the next sync the earliest.  Where none was
    committed, or nobody has its weights any more, there is no step.
    """
    if pool.spec.rollout.window is not RolloutWindow.BETWEEN_STEPS:
        return False
    lease = _lease(pool, observed)
    if lease is None or read(lease.body).phase is not Phase.COMMITTED:
        return False
    seen = observed.steps.committed
    return seen is None or not seen <= now < seen + BETWEEN_SECONDS


def covered(pool: Pool, observed: Observed) -> Set[str]:
    """The instances whose gates are open by the last commit, or about to be."""
    return in_step(pool, observed) if pool.gated else frozenset()


def in_step(pool: Pool, observed: Observed) -> Set[str]:
    """The instances that the last commit covers, with which the trainer's step began."""
    lease = _lease(pool, observed)
    if lease is None:
        return frozenset()
    current = read(lease.body)
    return current.instances if current.phase is Phase.COMMITTED else frozenset()


def _lease(pool: Pool, observed: Observed) -> ObservedChild | None:
    """The Lease of this pool's weights."""
    lease = observed.weights_lease(pool.owner.name)
    return lease if lease is not None and lease.owner == pool.owner.uid else None
