"""Of which of two pods of an engine trainers are told, the old one or a new one beside it.  Pure.

In a pool with a weights gate the new one serves nobody before it has weights, and it gets them by
the next sync, or loads them from the checkpoint of the last commit.  Both are of the engines that
the registry names, one for each rank.  So, as soon as the new one is up, the registry names it: the
*heir*.  The old one stays the engine that clients reach, and that a rollout counts, until the heir
serves; trainers know of it as one that runs beside (``unlisted``).  The commit that covers the heir
closes the old one's gate.

A sync is of the engines with which it began, and a pool that sleeps wakes as it fell asleep: in a
trainer's turn the registry goes on to name whom it named before.  It is the memory of that, and the
same for every operator.  In a pause the old one is the engine in everything.
"""

from sglang_operator.observed.groups import Group
from sglang_operator.plan.engine_groups import EngineGroups
from sglang_operator.plan.planner import Planner


def of(planner: Planner, found: EngineGroups) -> Group | None:
    """The heir of the one that is kept, of these that are live; None: trainers know that one."""
    pool, kept = planner.pool, found.live[0]
    if not pool.gated or kept.engine not in planner.wanted:
        return None
    if planner.in_turn:
        others = (group for group in found.live[1:] if planner.lives(group))
        return next((group for group in others if _is_listed(planner, group)), None)
    new = found.beside
    if new is None or pool.spec.rollout.paused:
        return None
    # One that only misses a probe stays what it is.
    named = planner.is_up(new) or (planner.lives(new) and _is_listed(planner, new))
    return new if named else None


def _is_listed(planner: Planner, group: Group) -> bool:
    run = group.instance
    return run is not None and planner.listed.get(group.engine) == run
