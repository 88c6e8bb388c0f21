"""Rule: another mem_fraction_static, if the user gave bounds and engines failed for memory.  Pure.

By how much it changes, and in which direction, ``pool.tuning`` decides.
"""

from sglang_operator.diagnosis import causes
from sglang_operator.plan.planner import Planner
from sglang_operator.pool import tuning


def change_memory_share(planner: Planner) -> None:
    """What engines of the present revision died of decides on the value of the next ones."""
    pool, start = planner.pool, planner.pool.arguments.mem_fraction_static
    if pool.bounds is None or start is None:
        return
    unread = {pod.engine for pod in planner.observed.pods if pod.uid in planner.observed.unread}
    failed = [
        (name, causes.of_end(last, planner.about))
        for name in planner.wanted
        if not (pods := planner.pods(name)).live
        and name not in unread
        and (last := pods.last_ended)
        and last.revision == pool.revision
    ]
    first = pool.tuning.start if pool.tuning else start
    planner.tuned = tuning.next_change(pool.base_revision, first, pool.tuning, pool.bounds, failed)
