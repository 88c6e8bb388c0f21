"""Rule: another mem_fraction_static, if the user gave bounds and engines failed for memory.  Pure.

By how much it changes, and in which direction, ``pool.tuning`` decides; what is planned for the
card of the engine that failed is told here.
"""

from sglang_operator.api.names import EngineName
from sglang_operator.diagnosis import causes
from sglang_operator.memory import verdict
from sglang_operator.plan.planner import Planner
from sglang_operator.pool import planned_memory, tuning


def change_memory_share(planner: Planner) -> None:
    """What engines of the present revision died of decides on the value of the next ones."""
    pool, start = planner.pool, planner.pool.arguments.mem_fraction_static
    if pool.bounds is None or start is None:
        return
    unread = {pod.engine for pod in planner.observed.pods if pod.uid in planner.observed.unread}
    failed = [
        (name, causes.of_end(last, planner.about))
        for name in planner.wanted
        if (not (found := planner.groups_of(name)).live or planner.tried(found))
        and name not in unread
        and (last := planner.last_end(found))
        and last.revision == pool.revision
    ]
    first = pool.tuning.start if pool.tuning else start

    def planned(name: EngineName, direction: int) -> float | None:
        return _share(planner, name, direction)

    planner.tuned = tuning.next_change(
        pool.base_revision, first, pool.tuning, pool.bounds, failed, planned
    )


def _share(planner: Planner, name: EngineName, direction: int) -> float | None:
    """What the plan would have given this engine, on the card of its last node."""
    last = planner.last_end(planner.groups_of(name))
    node = (planner.observed.nodes or {}).get(last.node) if last is not None else None
    found = planned_memory.of(planner.pool, node.card if node is not None else None)
    return verdict.next_share(found.plan, direction) if found is not None else None
