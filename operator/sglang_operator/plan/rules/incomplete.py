"""Rule: an engine of several pods gets those that it lacks, the leader last.  Pure.

A request may have been refused, or whoever made the others is gone.  That the leader is last
tells a pod that is not there yet from one that is gone (``rules.members``).
"""

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.health import Health
from sglang_operator.plan.planner import Planner


def complete_engines(planner: Planner) -> None:
    """Followers first; one that was begun for an older revision goes instead."""
    if planner.pool.nodes == 1:
        return
    blocked = planner.observed.creates_blocked_until
    for engine in planner.pool.running:
        found = planner.groups_of(engine.name)
        group = found.kept
        if group is None or group.whole or planner.health(group) is Health.LOST:
            continue  # of what is lost with its node (onNodeLost: Wait) nothing is made meanwhile
        if not planner.pool.accepts(group.revision):
            planner.remove_group(group, "it is not whole, and its revision is made no more")
            found.live.remove(group)
            planner.podless[engine.name] = EngineState.WAITING
        elif blocked > planner.now:
            planner.wakes.append(blocked)
        else:
            followers = tuple(rank for rank in group.missing if rank)
            planner.complete(engine, group, followers or group.missing)
