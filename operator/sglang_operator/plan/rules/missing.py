"""Rule: a wanted engine without a pod gets one, unless something speaks against it.  Pure.

That is, in this order: nobody could know its pods as one (``turns.ungrouped``), its place is taken,
the pool starts with others (``plan.starting``), an engine of several pods that has begun lacks room
for the rest of them, the API server refuses pods, another engine tries first a memory share that is
being tuned, it is given up or another tries first whether it starts, its backoff is not over, or it
would be one beside another, which are left alone or have no room (``maxSurge``).
"""

from sglang_operator.diagnosis import causes
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan import restart, startup, turns
from sglang_operator.plan.engine_groups import EngineGroups
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.startup import FailureStreak


def create_missing_engines(planner: Planner) -> None:
    """Each missing engine is created, or it is kept where it stands instead."""
    held = _held_devices(planner)
    room = planner.surge_room() if planner.pool.max_surge else 0
    barred = {*planner.observed.orphans.values(), *planner.observed.crowded}
    ungrouped = turns.ungrouped(planner.pool, planner.observed)
    for engine in planner.pool.running:
        found = planner.groups_of(engine.name)
        surges = engine.name in planner.surging
        beside = surges or planner.tried(found)
        if (found.live and not beside) or engine.name in planner.podless:
            continue
        if ungrouped or engine.name in barred or not held.isdisjoint(engine.devices):
            planner.podless[engine.name] = EngineState.WAITING
            continue
        if planner.starting.holds_back(engine.name):
            planner.podless[engine.name] = EngineState.WAITING
            continue
        if planner.begins_from > planner.now:
            planner.wakes.append(planner.begins_from)
            planner.podless[engine.name] = EngineState.WAITING
            continue
        last = planner.last_end(found)
        if last is not None and not planner.pool.accepts(last.revision):
            last = None  # what failed is not what is started now
        if (blocked := planner.observed.creates_blocked_until) > planner.now:
            planner.wakes.append(blocked)
            planner.podless[engine.name] = EngineState.BACKOFF
        elif _waits(planner, last, streak := planner.streak(last)):
            planner.podless[engine.name] = EngineState.BACKOFF
        elif beside and found.live and (planner.leaves_alone or (room <= 0 and not surges)):
            planner.podless[engine.name] = EngineState.WAITING
        else:
            room -= bool(found.live) and not surges  # those that surge are counted
            failures = restart.failures(last, planner.policy) if last else 0
            before = _waited_in_vain(planner, found) or planner.handed(engine.name)
            if last is None and before is not None:
                failures, streak = before.failures, startup.streak_before(before)
            why = _why(planner, found, last)
            planner.create(engine, reason=why, failures=failures, streak=streak)


def _waited_in_vain(planner: Planner, found: EngineGroups) -> ObservedPod | None:
    """A pod that has not failed itself, and knows of the failures before."""
    waited = (
        g for g in found.dying if planner.waited_in_vain(g) and planner.pool.accepts(g.revision)
    )
    group = max(waited, key=lambda group: group.attempt, default=None)
    return group.first_end if group is not None else None


def _waits(planner: Planner, last: ObservedPod | None, streak: FailureStreak | None) -> bool:
    """Whether an engine that has failed is not started again yet, or not at all."""
    if _waits_for_tuning(planner, last):
        return True
    if last is None:
        return False
    if streak is not None:
        cause = causes.of_end(last, planner.about)
        if planner.starts.hold_back(last.engine, streak, cause):
            return True
    if (due := restart.due(last, planner.policy)) > planner.now:
        planner.wakes.append(due)
        return True
    return False


def _waits_for_tuning(planner: Planner, last: ObservedPod | None) -> bool:
    """Whether a new value is about to come, or another engine tries it first."""
    if planner.tuned is not None and last is not None:
        return True
    if planner.pool.tuning is None or planner.starts.proven:
        return False
    return bool(planner.creates) or planner.starts.under_way


def _held_devices(planner: Planner) -> frozenset[int]:
    """GPUs of obsolete engines: nobody else gets them before they are seen to go."""
    return frozenset(
        device
        for name, found in planner.engines.items()
        if name not in planner.wanted
        for group in found.live
        for device in group.devices
    )


def _why(planner: Planner, found: EngineGroups, last: ObservedPod | None) -> str:
    if found.kept is not None:
        return f"it comes up beside the one of revision {found.kept.revision}"
    if found.lost:
        return f"its node {planner.lost_node(found.lost[-1])} is lost"
    if last is not None:
        return f"pod {last.name} ended"
    return "its pod is being deleted" if found.dying else "the engine has no pod"
