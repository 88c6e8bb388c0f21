"""The decision: from the pool and what was seen to what each engine needs next.  Pure.

``plan(pool, observed, now)`` is level-triggered: it looks at what is there, not at what
happened, and calling it again on the same snapshot gives the same answer.  It is what ``RULES``
say, in their order: each looks at the groups of every engine (``Planner``), and says what is to be
removed and what is to be created.  A rule sees what those before it have decided.
"""

from collections.abc import Callable

from sglang_operator.observed.model import Observed
from sglang_operator.plan import outcome
from sglang_operator.plan.decision import CreateEngine, HungPod, LostPod, Plan, RemovePod
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.rules.asleep import let_sleepers_make_way
from sglang_operator.plan.rules.cramped import make_room_for_one_another
from sglang_operator.plan.rules.crash_loops import take_over_crash_loops
from sglang_operator.plan.rules.ended import remove_recorded_ends
from sglang_operator.plan.rules.extra import remove_extra_pods
from sglang_operator.plan.rules.hung import remove_hung_engines
from sglang_operator.plan.rules.incomplete import complete_engines
from sglang_operator.plan.rules.lost import remove_lost_pods
from sglang_operator.plan.rules.members import keep_members_together
from sglang_operator.plan.rules.missing import create_missing_engines
from sglang_operator.plan.rules.queued import leave_other_queues
from sglang_operator.plan.rules.replaced import make_way_for_the_new
from sglang_operator.plan.rules.seated import follow_the_trainer, leave_lost_trainers
from sglang_operator.plan.rules.started import start_together
from sglang_operator.plan.rules.tuned import change_memory_share
from sglang_operator.plan.rules.turned import leave_the_trainer_its_turn
from sglang_operator.pool.resolve import Pool

__all__ = ["RULES", "CreateEngine", "HungPod", "LostPod", "Plan", "RemovePod", "plan"]

Rule = Callable[[Planner], None]

RULES: tuple[Rule, ...] = (
    keep_members_together,
    remove_extra_pods,
    remove_lost_pods,
    leave_other_queues,
    start_together,
    follow_the_trainer,
    leave_the_trainer_its_turn,
    let_sleepers_make_way,
    make_way_for_the_new,
    take_over_crash_loops,
    remove_hung_engines,
    change_memory_share,
    make_room_for_one_another,
    complete_engines,
    create_missing_engines,
    remove_recorded_ends,
)


def plan(pool: Pool, observed: Observed, now: float) -> Plan:
    """The next step towards the pool, from this snapshot at this time by the steady clock."""
    planner = Planner(pool, observed, now)
    if observed.leaving:
        leave_lost_trainers(planner)
        return Plan(
            removals=tuple(planner.removals.values()),
            engines=outcome.statuses(planner),
            unlisted=outcome.unlisted(planner),
            tuning=pool.tuning,
            at=now,
        )
    for rule in RULES:
        rule(planner)
    return outcome.plan(planner)
