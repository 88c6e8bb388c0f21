"""What the engines that are not up wait for, in the words of a status.  Pure."""

from collections import Counter

from sglang_operator.api import conditions, texts
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.planner import causes
from sglang_operator.planner.plan import EngineState, Plan
from sglang_operator.planner.pool import Pool

UP = (EngineState.IN_SERVICE, EngineState.UP)


def waiting(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Containers that kubelet cannot start, by the cause that most of them have."""
    about = causes.context(pool)
    found: Counter[Diagnosis] = Counter()
    for view in plan.engines:
        if view.pod and view.state not in UP and (told := causes.of_wait(view.pod, about)):
            found[told] += 1
    if not found:
        return None
    # By reason: the words differ with what a kubelet did last, and would make the count jump.
    reason, count = Counter(told.reason for told in found.elements()).most_common(1)[0]
    told = next(told for told, _ in found.most_common() if told.reason == reason)
    message = texts.WAITING.format(
        engines=texts.engines(count), message=told.message, advice=told.advice
    )
    return told.reason, message


def pending(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    told = [
        view.pod
        for view in plan.engines
        if view.state is EngineState.PENDING and view.pod and view.pod.unschedulable
    ]
    if not told:
        return None
    return (
        conditions.DEVICES_PENDING,
        texts.DEVICES_PENDING.format(
            engines=texts.engines(len(told)),
            gpus=pool.gpus,
            resource=pool.spec.placement.resource_name,
            message="; ".join(filter(None, (plan.capacity, told[0].unschedulable))),
        ),
    )
