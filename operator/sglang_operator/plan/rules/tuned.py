"""Rule: another mem_fraction_static, if the user gave bounds and engines failed for memory.  Pure.

By how much it changes, and in which direction, ``pool.tuning`` decides.
"""

from sglang_operator.diagnosis import causes
from sglang_operator.plan.step import Step
from sglang_operator.pool import tuning


def change_memory_share(step: Step) -> None:
    """What engines of the present revision died of decides on the value of the next ones."""
    pool, start = step.pool, step.pool.arguments.mem_fraction_static
    if pool.bounds is None or start is None:
        return
    unread = {pod.engine for pod in step.observed.pods if pod.uid in step.observed.unread}
    failed = [
        (name, causes.of_end(last, step.about))
        for name in step.wanted
        if not (pods := step.pods(name)).live
        and name not in unread
        and (last := pods.last_ended)
        and last.revision == pool.revision
    ]
    first = pool.tuning.start if pool.tuning else start
    step.tuned = tuning.next_change(pool.base_revision, first, pool.tuning, pool.bounds, failed)
