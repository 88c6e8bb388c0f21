"""What a change that does not go on is told with.  Pure."""

from sglang_operator.api import conditions, texts
from sglang_operator.plan import footing
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waiting, Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import texts as queues
from sglang_operator.weights import times


def message(pool: Pool, waiting: Waiting) -> str:
    """Why it waits, and what lets it go on."""
    value = waiting.needed or '"100%"'
    command = texts.DO_ALLOW.format(
        name=pool.owner.name, namespace=pool.owner.namespace, value=value
    )
    text = _TEXTS[waiting.what]
    if waiting.lacking and waiting.what is Waits.FOR_ROOM:
        text = texts.ROLLOUT_WAITS_FOR_PLACE
    return text.format(
        name=pool.owner.name,
        namespace=pool.owner.namespace,
        engines=texts.engines(waiting.engines),
        revision=pool.revision,
        budget=pool.spec.rollout.max_unavailable,
        gpus=pool.gpus_per_pod,
        resource=pool.resource,
        engine=waiting.engine,
        lacking=waiting.lacking,
        until=times.shown(waiting.until),
        command=command,
    )


def rolling(pool: Pool, plan: Plan, updated: int) -> tuple[str, str]:
    """Reason and message of a rollout that goes on, with so many engines of the new revision."""
    if told := cramped(pool, plan) or _queued(pool, plan, updated):
        return told
    text = texts.ROLLING_SURGE if pool.max_surge else texts.ROLLING
    return conditions.ROLLING_UPDATE, text.format(
        updated=updated,
        desired=len(plan.engines),
        revision=pool.revision,
        budget=pool.max_unavailable,
        surge=pool.max_surge,
        beside=sum(engine.exists for engine in plan.beside),
    )


def _queued(pool: Pool, plan: Plan, updated: int) -> tuple[str, str] | None:
    """That new engines wait in a queue, which has seen them, before they come up beside others."""
    found = [pod for engine in plan.beside if (pod := engine.queued) is not None]
    waiting = [pod for pod in found if pod.queue_seen and pod.queue is not None]
    if not waiting:
        return None
    return conditions.WAITING_FOR_QUOTA, queues.SURGE_WAITS_FOR_QUOTA.format(
        updated=updated,
        desired=len(plan.engines),
        revision=pool.revision,
        waiting=texts.engines(len(waiting)),
        surge=pool.max_surge,
        queue=", ".join(sorted({pod.queue.queue for pod in waiting if pod.queue is not None})),
        seconds=f"{footing.MOST_PLACE_SECONDS:.0f}",
    )


def cramped(pool: Pool, plan: Plan, _: object = None) -> tuple[str, str] | None:
    """That engines are replaced in place although new ones were to come first."""
    if plan.cramped is None:
        return None
    return conditions.SURGE_NO_ROOM, texts.SURGE_NO_ROOM.format(
        updated=sum(engine.updated for engine in plan.engines),
        desired=len(plan.engines),
        revision=pool.revision,
        budget=pool.max_unavailable,
        surge=pool.max_surge,
        why=f": {plan.cramped}" if plan.cramped else "",
    )


_TEXTS = {
    Waits.FOR_SYNC: texts.ROLLOUT_WAITS_FOR_SYNC,
    Waits.FOR_WAKE: texts.ROLLOUT_WAITS_FOR_WAKE,
    Waits.FOR_WINDOW: texts.ROLLOUT_WAITS_FOR_WINDOW,
    Waits.FOR_WEIGHTS: texts.ROLLOUT_WAITS_FOR_WEIGHTS,
    Waits.FOR_ROOM: texts.ROLLOUT_WAITS_FOR_ROOM,
    Waits.FOR_RESUME: texts.ROLLOUT_WAITS_FOR_RESUME,
    Waits.FOR_ADMISSION: texts.ROLLOUT_WAITS_FOR_ADMISSION,
    Waits.FOR_SEATS: texts.ROLLOUT_WAITS_FOR_SEATS,
}
