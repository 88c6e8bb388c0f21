"""Of which pods the Events are worth asking for: those whose state nothing else explains.  Pure."""

from collections.abc import Iterator

from sglang_operator.planner import causes
from sglang_operator.planner.observed import ObservedPod
from sglang_operator.planner.plan import EngineState, Plan
from sglang_operator.planner.pool import Pool

# A container that is still being created after so long is looked into, and again after so long.
CREATING_SECONDS = 60.0


def unexplained_ends(pool: Pool, plan: Plan) -> Iterator[ObservedPod]:
    """Pods that ended, or whose container did, and whose end has no cause yet."""
    about = causes.context(pool)
    for pod in plan.ended:
        if pod.termination and causes.of_end(pod, about).reason in causes.UNEXPLAINED:
            yield pod
    for again in (*plan.taken_over, *(view.pod for view in plan.engines)):
        if again is None or again.last_termination is None:
            continue
        told = causes.of_termination(again, again.last_termination, about)
        if told.reason in causes.UNEXPLAINED:
            yield again


def slow_to_create(plan: Plan, now: float) -> Iterator[ObservedPod]:
    """Pods on a node whose container does not come into being, for no reason they tell."""
    for view in plan.engines:
        pod = view.pod
        if (
            pod is not None
            and _is_creating(view.state, pod)
            and now - pod.seen.first > CREATING_SECONDS
        ):
            yield pod


def next_look(plan: Plan, now: float) -> float | None:
    """When to look again without an event: the next slow creation, or who holds the GPUs."""
    times = [
        view.pod.seen.first + CREATING_SECONDS
        for view in plan.engines
        if view.pod is not None and _is_creating(view.state, view.pod)
    ]
    if lacks_room(plan):
        times.append(now)
    later = [time if time > now else now + CREATING_SECONDS for time in times]
    return min(later, default=None)


def _is_creating(state: EngineState, pod: ObservedPod) -> bool:
    return (
        state is EngineState.STARTING
        and not pod.container_id
        and pod.waiting_reason in ("ContainerCreating", "PodInitializing")
    )


def lacks_room(plan: Plan) -> bool:
    """Whether an engine waits because the scheduler found no node."""
    return any(
        view.state is EngineState.PENDING and view.pod is not None and view.pod.unschedulable
        for view in plan.engines
    )
