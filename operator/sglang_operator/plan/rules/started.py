"""Rule: who waits for a node in another group than the pool starts with goes, and waits in that.

Pure.  With how many engines a pool starts is no part of the revision: one that has its node has
nothing to gain from another group.  One that waits has nothing to lose, and would wait for others
that are not to come (``minEngines``, ``replicas``), or take the room of those that are to be first.
"""

from sglang_operator.observed.groups import Group
from sglang_operator.plan import starting
from sglang_operator.plan.planner import Planner
from sglang_operator.scheduling import gangs


def start_together(planner: Planner) -> None:
    """The pods go, and the next pass makes others, if it is their turn."""
    pool = planner.pool
    if gangs.grouped(pool.spec) is None:
        return
    pods = planner.observed.all_pods
    if not (starting.engines(pool) or any(pod.start for pod in pods)):
        return  # as in most pools
    begun = {pod.start for pod in pods if pod.start and pod.node and not pod.dying}
    for name, found in planner.engines.items():
        if name not in planner.wanted:
            continue
        for group in [each for each in found.live if _may_go(planner, each)]:
            own, wanted = group.first.start, planner.starting.group_of(name)
            held = planner.starting.holds_back(name)
            # The rest of a start that is under way follows: its scheduler has decided for all.
            if own in begun or (own == wanted and not held):
                continue
            why = "others start first" if held else "it waits in another group than it is to"
            planner.remove_group(group, f"{why} (scheduling.minEngines)", at_once=True)
            found.live.remove(group)
            found.dying.append(group)


def _may_go(planner: Planner, group: Group) -> bool:
    waits = all(starting.waits(pod) for pod in group.members)
    return waits and planner.pool.accepts(group.revision) and not planner.stays(group)
