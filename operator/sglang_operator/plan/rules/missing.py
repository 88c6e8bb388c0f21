"""Rule: a wanted engine without a pod gets one, unless something speaks against it.  Pure.

That is, in this order: its place is taken, the API server refuses pods, another engine tries first
whether it starts, or its backoff is not over.
"""

from sglang_operator.diagnosis import causes
from sglang_operator.observed.engines import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan import restart
from sglang_operator.plan.startup import FailureStreak
from sglang_operator.plan.step import EnginePods, Step


def create_missing_engines(step: Step) -> None:
    """Each missing engine is created, or it is kept where it stands instead."""
    held = _held_devices(step)
    barred = {*step.observed.orphans.values(), *step.observed.crowded}
    for engine in step.pool.running:
        pods = step.pods(engine.name)
        if pods.live or engine.name in step.podless:
            continue
        if engine.name in barred or not held.isdisjoint(engine.devices):
            step.podless[engine.name] = EngineState.WAITING
            continue
        last = pods.last_ended
        if last is not None and not step.pool.accepts(last.revision):
            last = None  # what failed is not what is started now
        if (blocked := step.observed.creates_blocked_until) > step.now:
            step.wakes.append(blocked)
            step.podless[engine.name] = EngineState.BACKOFF
        elif _waits(step, last, streak := step.streak(last)):
            step.podless[engine.name] = EngineState.BACKOFF
        else:
            failures = restart.failures(last, step.policy) if last else 0
            step.create(engine, reason=_why(pods, last), failures=failures, streak=streak)


def _waits(step: Step, last: ObservedPod | None, streak: FailureStreak | None) -> bool:
    """Whether an engine that has failed is not started again yet, or not at all."""
    if _waits_for_tuning(step, last):
        return True
    if last is None:
        return False
    if streak is not None:
        cause = causes.of_end(last, step.about)
        if step.starts.hold_back(last.engine, streak, cause):
            return True
    if (due := restart.due(last, step.policy)) > step.now:
        step.wakes.append(due)
        return True
    return False


def _waits_for_tuning(step: Step, last: ObservedPod | None) -> bool:
    """Whether a new value is about to come, or another engine tries it first."""
    if step.tuned is not None and last is not None:
        return True
    if step.pool.tuning is None or step.starts.proven:
        return False
    return bool(step.creates) or step.starts.under_way


def _held_devices(step: Step) -> frozenset[int]:
    """GPUs of obsolete engines: nobody else gets them before they are seen to go."""
    return frozenset(
        device
        for name, pods in step.engines.items()
        if name not in step.wanted
        for pod in pods.live
        for device in pod.devices
    )


def _why(pods: EnginePods, last: ObservedPod | None) -> str:
    if pods.lost:
        return f"its node {pods.lost[-1].node} is lost"
    if last is not None:
        return f"pod {last.name} ended"
    return "its pod is being deleted" if pods.dying else "the engine has no pod"
