"""What is told of engines whose pods start all at once or not at all, by the scheduler's gang."""

from sglang_operator.api import conditions
from sglang_operator.api.texts import engines
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed
from sglang_operator.plan import starting, turns
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs, texts
from sglang_operator.scheduling.base import Member


def missing(pool: Pool, plan: Plan, observed: Observed) -> str:
    """Why no pods are made for want of what their scheduler would know them by; empty if they are,
    or none is wanted."""
    declared = gangs.grouped(pool.spec)
    waiting = sum(not (each.exists and each.current) for each in plan.engines)
    if declared is None or not waiting or not turns.ungrouped(pool, observed):
        return ""
    unasked = declared.kind in observed.unwatched_kinds
    text = texts.GANG_NOT_WATCHED if unasked else texts.GANG_NOT_SERVED
    return text.format(
        engines=engines(waiting),
        groups=declared.groups,
        gang=declared.name,
        flag=gangs.FLAG,
        advice=declared.install,
    )


def regrouped(pool: Pool, plan: Plan) -> str:
    """That somebody has put pods that are to start at once into another group; empty if nobody."""
    declared = gangs.grouped(pool.spec)
    if declared is None or pool.nodes == 1:
        return ""  # of one pod any group is as good
    for engine in plan.down:
        for pod in engine.members:
            own = pod.start or Member(pool.owner.name, pod.engine, pod.attempt).group
            if pod.group and pod.group != own:
                return texts.REGROUPED.format(
                    pod=pod.name, group=pod.group, namespace=pool.owner.namespace
                )
    return ""


def waiting(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines for whose pods together there is no room, and what the scheduler says of one."""
    if gangs.grouped(pool.spec) is None:
        return None
    told = [
        engine
        for engine in plan.down
        if engine.state is EngineState.PENDING
        and engine.unschedulable
        and not engine.scheduling_gates
    ]
    if not told:
        return None
    said = next((pod.scheduler for pod in told[0].members if pod.scheduler), "")
    starts = bool(told[0].members[0].start)
    text = texts.WAITING_FOR_START if starts else texts.WAITING_FOR_GANG
    message = text.format(
        # Those that come after the first ones wait for the same.
        engines=engines(len(plan.down) if starts else len(told)),
        least=len(starting.engines(pool)),
        asked=pool.spec.scheduling.min_engines,
        scheduler=said,
        pods=texts.pods(pool.nodes),
        gpus=pool.gpus_per_pod,
        resource=pool.resource,
        message="; ".join(filter(None, (plan.capacity, told[0].unschedulable))),
    )
    return conditions.WAITING_FOR_GANG, message
