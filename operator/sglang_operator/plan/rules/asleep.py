"""Rule: who sleeps for nobody makes way for engines that are wanted on its GPUs.  Pure.

A pool that was regrouped while it sleeps has its old engines on the GPUs of the new ones.  A wake
that knows of them wakes them, and a rollout then replaces them as ever.  Before a sync, or the wake
of GPUs, the trainer gives these back and waits for the new engines: nobody would wake the old ones,
and what they held is lost, or written over.
"""

import math

from sglang_operator.plan import turns
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.weights.lease_state import Phase

_WHY = "it sleeps, is wanted no more, and its GPUs are the engines' again"


def let_sleepers_make_way(planner: Planner) -> None:
    """Not while a trainer is at work, which may be about to wake them; nor in a pause.

    One that died at work is so for ever by the Lease, and wakes nobody once that has run out.
    """
    pool, observed = planner.pool, planner.observed
    if not pool.takes_turns or planner.engines.keys() <= planner.wanted.keys():
        return  # as nearly always
    if pool.spec.rollout.paused or turns.held(pool, observed, planner.now) is Waits.FOR_ADMISSION:
        return
    current = turns.said(pool, observed)
    if current.phase is not Phase.SLEEPING:
        return
    if current.at_work and planner.now <= (until := observed.work_ends):
        planner.wakes += [until] if until < math.inf else []
        return
    wanted = _missing(planner)
    for name, found in planner.engines.items():
        if name in planner.wanted:
            continue
        for group in [*found.live]:
            sleeps = bool(current.sleeps(group.last_instance)) and not planner.stays(group)
            if sleeps and not wanted.isdisjoint(group.devices):
                planner.remove_group(group, _WHY, replaced=True, at_once=True, drains=False)
                found.live.remove(group)
                found.dying.append(group)


def _missing(planner: Planner) -> frozenset[int]:
    """The GPUs of engines that would be made now, if nobody were there."""
    waits = {*planner.turned, *planner.without_seat, *planner.observed.rivals}
    return frozenset(
        device
        for name, engine in planner.wanted.items()
        if name not in waits and not planner.groups_of(name).live
        for device in engine.devices
    )
