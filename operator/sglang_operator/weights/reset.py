"""The steps of a reset: engines leave what trainers that are gone have left in them.

Groups and sessions go; weights, memory and pauses stay as they are, and so do gates.  What was
committed stays so.  What nobody vouches for, because its sync was aborted or its trainer is gone,
ends as aborted: its engines stay paused until the next sync has written everything.
"""

import dataclasses

from sglang_operator.api import texts
from sglang_operator.weights import rules, steps
from sglang_operator.weights.lease_state import Phase, Transaction


def begin(
    state: Transaction, trainer: rules.Trainer, *, epoch: str, now: float, seen: float
) -> Transaction:
    """The engines of ``epoch`` are about to be reset, in a transaction of its own.

    Nobody else begins anything meanwhile.  Raises :class:`RefusedError`, also while engines sleep:
    what they would do to end a session is done to memory that is not there.
    """
    taken = rules.taken(state, trainer, now, seen)
    rules.in_phase(state, "a reset", *(phase for phase in Phase if phase is not Phase.SLEEPING))
    if state.released:
        released = " and ".join(state.released)
        text, reason = texts.WEIGHTS_RESET_ASLEEP, rules.Refusal.STILL_ASLEEP
        raise rules.refused(reason, state, text, released=released)
    if state.phase is Phase.IDLE and state.fence:
        raise rules.refused(rules.Refusal.WRONG_PHASE, state, texts.WEIGHTS_RESET_ANEW)
    if state.untouched or state.initial:
        return taken
    # A holder of what is aborted would be taken for who ended it by force (``fenced``).
    return dataclasses.replace(
        taken,
        phase=Phase.SYNCING,
        epoch=epoch,
        intact=False,
        shared=False,
        wrote=frozenset(),
        begun=now,
        message=_why(state),
    )


def _why(state: Transaction) -> str:
    """What is told of engines that nobody vouches for."""
    if state.phase is Phase.SYNCING:
        return texts.SYNC_EXPIRED.format(holder=state.holder, seconds=int(state.duration))
    return state.message


def end(state: Transaction, trainer: rules.Trainer) -> Transaction:
    """All is as it was, and free.  Raises :class:`RefusedError` if somebody went on since."""
    rules.own(state, trainer)
    if state.phase is Phase.SYNCING:
        return steps.aborted(state, state.message)
    return dataclasses.replace(state, holder="", at_work=False)
