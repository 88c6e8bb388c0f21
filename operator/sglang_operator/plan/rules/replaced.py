"""Rule: engines go for the sake of the pool as it is wanted now.  Pure.

Obsolete ones, whose GPU ids nobody wants any more, and those of an older revision go by one budget,
so one rule decides on both; how many, and which, ``plan.rollout`` counts.  None goes that could not
come back: while nobody knows where the next one would be, it stays as it is.
"""

from dataclasses import replace

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.plan import footing, rollout, turns
from sglang_operator.plan.engine_groups import EngineGroups
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.rollout_state import Waits


def make_way_for_the_new(planner: Planner) -> None:
    """Obsolete engines are removed and outdated ones replaced, as ``maxUnavailable`` allows."""
    live = {name: found.live[0] for name, found in planner.engines.items() if found.live}
    accepts = planner.pool.accepts
    if live.keys() <= planner.wanted.keys() and all(accepts(g.revision) for g in live.values()):
        return  # as nearly always
    going_now = [group for found in planner.engines.values() for group in found.dying]
    dying = {pod.uid for group in going_now for pod in group.members}
    leaving = bool(dying - {pod.uid for pod in planner.lingering}) or bool(planner.removals)
    standing = footing.LiveGroups(
        pool=planner.pool,
        live=live,
        stands=planner.stands,
        leaving=leaving,
        lingering=planner.lingering,
        failing=planner.present_starts().failing,
        beside={n: f.beside for n, f in planner.engines.items() if f.beside is not None},
        unseated=frozenset(planner.without_seat),
        amid=planner.amid,
        covered=turns.covered(planner.pool, planner.observed),
        in_step=turns.in_step(planner.pool, planner.observed),
        tried=frozenset(n for n, found in planner.engines.items() if planner.tried(found)),
        now=planner.now,
    )
    state = standing.rollout_state(planner.observed)
    planner.rolling = bool(state.outdated or state.obsolete)
    going = rollout.going(state)
    planner.waiting = waiting = going.waiting
    if waiting is not None and waiting.what is Waits.FOR_WINDOW:
        planner.waiting = replace(waiting, until=planner.window_ends.wall)
    if waiting is not None and waiting.what is Waits.FOR_SEATS:
        why = next(iter(planner.without_seat.values()))
        planner.waiting = replace(waiting, lacking=why)
    planner.surging = going.surging
    planner.cramped = standing.words() if going.cramped else None
    planner.wakes.extend(standing.wakes(planner.observed))
    for name in going.retreating:
        _retreat(planner, planner.engines[name])
    for name, group in live.items():
        if planner.stays(group):
            continue
        if name in going.obsolete:
            planner.remove_group(group, "no longer wanted", replaced=name in going.replaced)
        elif name in going.outdated:
            _replace(planner, group)


def _retreat(planner: Planner, found: EngineGroups) -> None:
    if found.beside is not None and not planner.stays(found.beside):
        why = "it serves nobody, and an engine that is missing finds no place"
        planner.remove_group(found.beside, why, at_once=True)
        found.beside = None


def _replace(planner: Planner, group: Group) -> None:
    why = f"revision {group.revision} is replaced by {planner.pool.revision}"
    planner.remove_group(group, why, replaced=True)
    found = planner.engines[group.engine]
    found.live.remove(group)
    if found.beside is not None:
        # There is no room for both: it waits for that of this one.
        found.live.append(found.beside)
        found.beside = None
        return
    # Its replacement is created in the next pass, when the old pod is seen to be on its way.
    planner.podless[group.engine] = EngineState.WAITING
