"""Rule: who waits in another queue than the pool names goes, and waits in that one.  Pure.

A queue is written on a pod when it is made.  It is no part of the revision: an engine that was let
in runs on by the quota that it has.  One that waits has nothing to lose, and would wait for ever
where the name was a mistake.  So would a group whose pods name two queues: it is let in by neither.
"""

from sglang_operator.plan.planner import Planner
from sglang_operator.scheduling import gangs


def leave_other_queues(planner: Planner) -> None:
    """The pods go, and the next pass makes others."""
    queue = gangs.queue(planner.pool.spec)
    if queue is None:
        return
    for name, found in planner.engines.items():
        if name not in planner.wanted:
            continue
        every = [*found.live, *([found.beside] if found.beside is not None else [])]
        for group in [g for g in every if any(pod.is_queued for pod in g.members)]:
            other = next((pod.queue for pod in group.members if pod.queue != queue), None)
            if other is None or planner.stays(group):
                continue
            why = f"it waits in queue {other.queue}, and the pool names {queue.queue}"
            planner.remove_group(group, why, at_once=True)
            if group is found.beside:
                found.beside = None
            else:
                found.live.remove(group)
            found.dying.append(group)
