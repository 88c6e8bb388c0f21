"""Rule: an engine of several pods gets those that it lacks, the leader last.  Pure.

A request may have been refused, or whoever made the others is gone.  That the leader is last
tells a pod that is not there yet from one that is gone (``rules.members``).

What was begun is completed only if its engine is wanted and all of it is of one make, of the
revision that is made now: another that may run on (``Pool.accepts``) has another value that was
tuned.  Else its pods would hold their GPUs and never be an engine.
"""

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.plan import turns
from sglang_operator.plan.engine_groups import EngineGroups
from sglang_operator.plan.planner import Planner
from sglang_operator.pool.resolve import Engine


def complete_engines(planner: Planner) -> None:
    """Followers first; one that was begun for another revision, or for nobody, goes instead."""
    if not planner.several:
        return
    for name, found in planner.engines.items():
        for group in [each for each in (found.kept, found.beside) if each is not None]:
            if group.whole or planner.health(group) is Health.LOST:
                continue  # of what is lost with its node (onNodeLost: Wait) nothing is made now
            if (engine := planner.wanted.get(name)) is None:
                planner.remove_group(group, "it is not whole, and no longer wanted")
            elif group.revision != planner.pool.revision:
                planner.remove_group(group, "it is not whole, and its revision is made no more")
                _leave(planner, found, group)
            elif not turns.ungrouped(planner.pool, planner.observed):
                _complete(planner, engine, group)


def _leave(planner: Planner, found: EngineGroups, group: Group) -> None:
    """Another stands for the engine, if there is one beside it; nothing is made before it goes."""
    if group is not found.beside:
        found.live.remove(group)
        found.live += [found.beside] if found.beside is not None else []
    found.beside = None
    planner.podless[group.engine] = EngineState.WAITING


def _complete(planner: Planner, engine: Engine, group: Group) -> None:
    blocked = planner.observed.creates_blocked_until
    if blocked > planner.now:
        planner.wakes.append(blocked)
        return
    followers = tuple(rank for rank in group.missing if rank)
    planner.complete(engine, group, followers or group.missing)
