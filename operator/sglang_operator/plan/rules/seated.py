"""Rule: engines are where their trainer has its GPUs, and nowhere else.  Pure.

Where the trainer's pod is gone its GPUs may be given to others, and where it has them on another
node nobody hands anything over any more.  So such engines go at once, and come back where the
trainer is; gated ones behind a closed gate.
"""

from sglang_operator.api import texts
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.seating import left_behind, trainer_alone


def follow_the_trainer(planner: Planner) -> None:
    """Who cannot stay goes; who does not know where to be waits."""
    seating = planner.seating
    if seating is None and not any(pod.slot for pod in planner.observed.all_pods):
        return  # as for most pools
    # Those that were made in this mode stay on the trainer's GPUs also where another is wanted now.
    stays_with = seating or trainer_alone(planner.observed)
    for group in planner.groups:
        if planner.stays(group):
            continue
        why = stays_with.left(group.engine, [pod.slot for pod in group.members])
        if why:
            _leave(planner, group, why)
    for name in planner.without_seat:
        if not planner.groups_of(name).live:
            planner.podless[name] = EngineState.WAITING
            planner.unseated.append(name)
    leave_lost_trainers(planner)


def leave_lost_trainers(planner: Planner) -> None:
    """What is no engine any more, or of a pool that leaves, goes like engines do."""
    for pod in left_behind(planner.observed, planner.now):
        if planner.observed.leaving or pod.uid not in planner.healths:
            planner.remove(pod, texts.SEAT_LEFT, drains=False)


def _leave(planner: Planner, group: Group, why: str) -> None:
    """At once, also those that drain, or have ended in part: whatever may run is on its GPUs."""
    for pod in group.members:
        if planner.healths[pod.uid] is not Health.ENDED:
            planner.remove(pod, why, drains=False)
        elif pod.may_hold_memory:
            planner.let_go(pod, why)
    found = planner.groups_of(group.engine)
    if group in found.live:
        found.live.remove(group)
        found.dying.append(group)
        planner.podless.setdefault(group.engine, EngineState.WAITING)
