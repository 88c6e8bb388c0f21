"""Sleeps that came to nothing: what the Lease says of engines that were not put to sleep after all.

Before a sleep has named its engines each may be about to release all that it wants, and gates say
so.  Should the Lease be lost later, who is still taken for asleep would be resumed, and end by it.
"""

import dataclasses

from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Transaction


def unslept(
    state: Transaction, trainer: steps.Trainer, before: Transaction, *, count: int
) -> Transaction:
    """Nothing was released in a sleep that has named no engine, when ``before`` told who slept.

    One that stands in the place of its Lease since takes all for asleep that it was about to put
    to sleep: it is told better, while nobody has begun anything by it.  ``count`` as in ``woke``.
    Raises :class:`RefusedError`.
    """
    if not (state.fence and state.transitions <= count):
        return steps.rests(state, trainer)
    awake = ((run, set(state.released) - before.sleeps(run)) for run in state.asleep)
    told = frozenset(f"{run}/{tag}" for run, tags in awake for tag in tags)
    return dataclasses.replace(state, woken=state.woken | told)


def given_up(state: Transaction) -> Transaction:
    """A sleep whose holder is gone, and has named no engine: it cannot name any from here on.

    The engines may be paused, and gates stay closed: who wakes the pool, or syncs it, lets it go
    on.
    """
    return dataclasses.replace(state.named, holder="", at_work=False)
