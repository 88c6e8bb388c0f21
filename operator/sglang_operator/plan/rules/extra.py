"""Rule: at rest an engine has one group of pods.  Pure.

While a revision is rolled out with ``maxSurge``, one of it comes up beside one that serves, and
takes its place once it serves itself.  Not while engines are left alone (``turns.leaves_alone``):
then the one that was there first is the engine, and both stay.  Of which of them trainers are told
is another question (``plan.heirs``).  Nor where the rollout waits for the end of a trainer's step
(``turns.amid_a_step``): then both serve.
"""

from sglang_operator.api.names import EngineName
from sglang_operator.observed.groups import Group
from sglang_operator.plan import footing, heirs
from sglang_operator.plan.engine_groups import EngineGroups
from sglang_operator.plan.planner import Planner


def remove_extra_pods(planner: Planner) -> None:
    """The pod nearest to its clients stays, as ``Planner`` has them sorted; the others go."""
    for name, found in planner.engines.items():
        if len(found.live) < 2:
            continue
        alone = _left_alone(planner, name, found)
        both = alone or _serves_on(planner, found)
        if both:
            found.live.sort(key=lambda group: _first_that_lives(planner, group))
        if both or (planner.pool.max_surge and name in planner.wanted):
            found.beside = _beside(planner, name, found, alone=both)
        found.heir = heirs.of(planner, found)
        kept, accepts = found.live[0], planner.pool.accepts
        for extra in found.live[1:]:
            if extra is found.beside or (alone and _stays(planner, kept, extra)):
                continue
            surged = planner.pool.max_surge and accepts(kept.revision)
            replaced = bool(surged) and not accepts(extra.revision)
            why = "another pod of this engine is kept"
            if replaced:
                why = f"one of revision {kept.revision} is in its place"
            planner.remove_group(extra, why, replaced=replaced)
        del found.live[1:]


def _left_alone(planner: Planner, name: EngineName, found: EngineGroups) -> bool:
    """A pause is of what a rollout does: of one revision there is one pod all the same."""
    if not planner.leaves_alone or name not in planner.wanted:
        return False
    return planner.in_turn or len({group.revision for group in found.live}) > 1


def _serves_on(planner: Planner, found: EngineGroups) -> bool:
    """Whether one that serves is left to its step, though another is there to take its place."""
    accepts = planner.pool.accepts
    news = [group for group in found.live if accepts(group.revision)]
    olds = (group for group in found.live if group not in news)
    return bool(news) and any(footing.serves(g, planner.health(g)) for g in olds) and planner.amid


def _first_that_lives(planner: Planner, group: Group) -> tuple[bool, bool, bool, bool, float, int]:
    """A probe that is missed makes no other the engine: only its end does."""
    lives = planner.lives(group)
    outdated = not (lives or planner.pool.accepts(group.revision))
    return not lives, group.dying, outdated, *planner.seniority(group)


def _stays(planner: Planner, kept: Group, extra: Group) -> bool:
    """Whether it runs, or is on its way for a rollout, whatever is wanted since."""
    comes = extra.attempt > kept.attempt and extra.revision != kept.revision
    return comes or planner.lives(extra)


def _beside(
    planner: Planner, name: EngineName, found: EngineGroups, *, alone: bool
) -> Group | None:
    """The one of the present revision that may stay beside the older one that is kept."""
    accepts = planner.pool.accepts
    if not alone and planner.wanted[name].rank < planner.pool.spec.rollout.partition:
        return None
    if accepts(found.live[0].revision):
        return None
    return next((group for group in found.live if accepts(group.revision)), None)
