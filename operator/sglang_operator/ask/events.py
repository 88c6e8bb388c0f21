"""Of which pods the Events are worth asking for: those whose state nothing else explains.  Pure."""

from collections.abc import Iterator

from sglang_operator.diagnosis import causes
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool

# A container that is still being created after so long is looked into, and again after so long.
CREATING_SECONDS = 60.0
_BEFORE_CONTAINER = ("ContainerCreating", "PodInitializing")


def unexplained_ends(pool: Pool, plan: Plan) -> Iterator[ObservedPod]:
    """Pods that ended, or whose container did, and whose end has no cause yet."""
    about = causes.context(pool)
    for pod in plan.ended:
        if pod.termination and causes.of_end(pod, about).reason in causes.UNEXPLAINED:
            yield pod
    for pod, ended in plan.restarts:
        if causes.of_termination(pod, ended, about).reason in causes.UNEXPLAINED:
            yield pod


def slow_to_create(plan: Plan, now: float) -> Iterator[ObservedPod]:
    """Pods on a node whose container does not come into being, for no reason they tell."""
    return (pod for pod in _creating(plan) if now - pod.seen.first > CREATING_SECONDS)


def next_look(plan: Plan, now: float) -> float | None:
    """When to look again without an event: the next slow creation, or who holds the GPUs."""
    times = [pod.seen.first + CREATING_SECONDS for pod in _creating(plan)]
    if lacks_room(plan):
        times.append(now)
    later = [time if time > now else now + CREATING_SECONDS for time in times]
    return min(later, default=None)


def _creating(plan: Plan) -> Iterator[ObservedPod]:
    """Pods that have a node, and whose engine's container is yet to be made."""
    for engine in plan.down:
        if engine.state is EngineState.STARTING:
            for pod in engine.unready:
                if not pod.container_id and pod.waiting_reason in _BEFORE_CONTAINER:
                    yield pod


def lacks_room(plan: Plan) -> bool:
    """Whether an engine waits because the scheduler found no node."""
    return any(engine.state is EngineState.PENDING and engine.unschedulable for engine in plan.down)
