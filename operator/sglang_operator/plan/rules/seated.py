"""Rule: engines are where their trainer has its GPUs, and nowhere else.  Pure.

Where the trainer's pod is gone its GPUs may be given to others, and where it has them on another
node nobody hands anything over any more.  So such engines go at once, and come back where the
trainer is; gated ones behind a closed gate.
"""

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.seating import taken_by, trainer_alone

LOOK_SECONDS = 2.0  # between two looks whether another pool's pod is gone


def follow_the_trainer(planner: Planner) -> None:
    """Who cannot stay goes; who does not know where to be waits."""
    seating = planner.seating
    if seating is None and not any(pod.slot for pod in planner.observed.pods):
        return  # as for most pools
    # Those that were made in this mode stay on the trainer's GPUs also where another is wanted now.
    stays_with = seating or trainer_alone(planner.observed)
    for name, found in planner.engines.items():
        for group in [g for g in found.live if not planner.stays(g)]:
            why = stays_with.left(name, [pod.slot for pod in group.members])
            if not why:
                continue
            planner.remove_group(group, why, at_once=True, drains=False)
            found.live.remove(group)
            found.dying.append(group)
            planner.podless.setdefault(name, EngineState.WAITING)
    if seating is None:
        return
    for name in planner.wanted:
        if planner.groups_of(name).live:
            continue
        if name in planner.without_seat:
            planner.podless[name] = EngineState.WAITING
            planner.unseated.append(name)
        elif (other := taken_by(seating.seats[name], planner.observed)) is not None:
            planner.podless[name] = EngineState.WAITING
            if other in planner.observed.departing:
                # Nobody wakes a pool for the pods of others.
                planner.kept_out[name] = other.name
                planner.wakes.append(planner.now + LOOK_SECONDS)
