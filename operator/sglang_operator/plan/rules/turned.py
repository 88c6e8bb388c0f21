"""Rule: no engine comes onto GPUs that are its trainer's at present.  Pure.

A trainer that has put engines to sleep takes their memory.  One that is to be started there, for
whatever reason, waits until it is given back (``wake``), and so does one whose pod is there already
and that has not answered yet: it was made right before the trainer came.  It goes, so that it waits
like the others.  Who sleeps stays, and so does who was to sleep and could not: its trainer was told
so.
"""

from sglang_operator.observed.groups import Group
from sglang_operator.plan import turns
from sglang_operator.plan.planner import Planner

_WHY = "it has not started, and the trainer has its GPUs now"


def leave_the_trainer_its_turn(planner: Planner) -> None:
    """Who comes up goes, and who has no pod gets none."""
    turn = planner.turn
    if not turn:
        return
    current = turns.said(planner.pool, planner.observed)
    for found in planner.engines.values():
        for group in [*found.live]:
            if not turn.has(group.devices) or planner.stays(group):
                continue
            asleep = group.last_instance in current.asleep or planner.is_up(group)
            if not asleep and _comes(group, amid=current.releases):
                planner.remove_group(group, _WHY, at_once=True, drains=False)
                found.live.remove(group)
                found.dying.append(group)
    for name, engine in planner.wanted.items():
        known = planner.groups_of(name).live or name in planner.podless
        if turn.has(engine.devices) and not known:
            planner.awaits_turn(name)


def _comes(group: Group, *, amid: bool) -> bool:
    """Whether it is on its way up; ``amid`` a sleep that has named nobody one that runs may be
    told to release what it has, and is left for that."""
    if not group.whole or not all(member.ran for member in group.members):
        return True
    return not (amid or group.answered)
