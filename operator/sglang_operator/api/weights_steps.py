"""The steps of a sync, of sleep and of wake: old state in, new state out, or a refusal in words.

``instances`` and ``version`` tell what the last commit covered, and stay until the next; whether
those weights are still whole is ``intact``, which a commit alone sets, and which a sync that begins
or weights memory that is released takes away at once.  So no later step (a wake after a torn sync)
can open a gate over weights that were written over.

Each step is written back by compare and swap on the resource version that was read.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from sglang_operator.api import texts
from sglang_operator.api.weights import (
    LEASE_SECONDS,
    MEMORY_TAGS,
    WEIGHTS,
    Phase,
    Transaction,
    shown,
)


class Refusal(Enum):
    """Why a step is not possible."""

    HELD = "Held"  # another trainer is at it
    NOT_HELD = "NotHeld"  # the caller's transaction is over
    WRONG_PHASE = "WrongPhase"
    STILL_ASLEEP = "StillAsleep"
    NO_INSTANCES = "NoInstances"


class RefusedError(Exception):
    """A step that the state of the Lease does not allow; its message says why."""

    def __init__(self, reason: Refusal, state: Transaction, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.state = state


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Who takes a step: an identity that no other living process has, and its transaction."""

    holder: str
    transaction: str
    duration: float = float(LEASE_SECONDS)  # without renewal, then it counts as gone


def begin(
    state: Transaction, trainer: Trainer, *, epoch: str, version: str, now: float, seen: float
) -> Transaction:
    """A sync to ``version`` begins over the engines of ``epoch``.

    From any phase, unless another transaction holds the Lease.  ``seen``: since when the caller has
    seen the Lease in this state, by its own clock; ``now``: the same clock.  Released memory stays
    on record: it has to be resumed before weights are written into it.

    Raises :class:`RefusedError`.
    """
    return dataclasses.replace(
        _taken(state, trainer, now, seen),
        phase=Phase.SYNCING,
        epoch=epoch,
        target_version=version,
        intact=False,
        begun=now,
    )


def renew(state: Transaction, trainer: Trainer, *, now: float) -> Transaction:
    """The holder is alive.  Raises :class:`RefusedError` if it is the holder no more."""
    _own(state, trainer)
    return dataclasses.replace(state, renewed=now)


def commit(
    state: Transaction,
    trainer: Trainer,
    *,
    instances: Iterable[str],
    now: float,
    checkpoint: str = "",
) -> Transaction:
    """These instances hold the target version whole: their gates may open.

    Raises :class:`RefusedError` unless the trainer syncs in this very transaction and all memory
    is resumed.
    """
    _own(state, trainer)
    _in_phase(state, "commit", Phase.SYNCING)
    if state.released:
        raise _refused(
            Refusal.STILL_ASLEEP, state, texts.WEIGHTS_ASLEEP, released=" and ".join(state.released)
        )
    covered = frozenset(instances)
    if not covered:
        raise _refused(Refusal.NO_INSTANCES, state, texts.WEIGHTS_NO_INSTANCES)
    return dataclasses.replace(
        state,
        phase=Phase.COMMITTED,
        holder="",
        version=state.target_version,
        instances=covered,
        checkpoint=checkpoint,
        intact=True,
        committed=now,
        message="",
    )


def abort(state: Transaction, trainer: Trainer, *, message: str) -> Transaction:
    """The sync failed: all gates close.  Raises :class:`RefusedError` if it is over already."""
    _own(state, trainer)
    return aborted(state, message)


def aborted(state: Transaction, message: str) -> Transaction:
    """What an abort leaves, by the trainer or by the operator once the holder is gone."""
    return dataclasses.replace(state, phase=Phase.ABORTED, holder="", intact=False, message=message)


def disclaim(state: Transaction, trainer: Trainer, *, message: str) -> Transaction:
    """The Lease was deleted under this sync and made anew: it too says that gates are to close.

    An empty one says nothing, so that gates which were open stay so, over weights that are torn.
    Raises :class:`RefusedError` if somebody has begun something since.
    """
    if state.holder or state.phase is not Phase.IDLE:
        _own(state, trainer)
    return dataclasses.replace(aborted(state, message), id=trainer.transaction)


def sleep(
    state: Transaction, trainer: Trainer, *, tags: Iterable[str], now: float, seen: float
) -> Transaction:
    """Gates are to close, because the memory of these tags will be released.

    Not during a sync.  What is released already stays so.  Raises :class:`RefusedError`.
    """
    taken = _taken(state, trainer, now, seen)
    _in_phase(state, "sleep", *(phase for phase in Phase if phase is not Phase.SYNCING))
    released = _ordered({*state.released, *tags})
    return dataclasses.replace(
        taken,
        phase=Phase.SLEEPING,
        released=released,
        intact=state.intact and WEIGHTS not in released,
    )


def slept(state: Transaction, trainer: Trainer, *, instances: Iterable[str]) -> Transaction:
    """The memory of these instances is about to be released.  Raises :class:`RefusedError`."""
    _own(state, trainer)
    _in_phase(state, "sleep", Phase.SLEEPING)
    return dataclasses.replace(state, asleep=tuple(sorted({*state.asleep, *instances})))


def wake(
    state: Transaction, trainer: Trainer, *, now: float, tags: Iterable[str] = MEMORY_TAGS
) -> Transaction:
    """The memory of these tags is resumed.

    With nothing released any more: committed again if the committed weights are intact, so that
    the same gates open; else awake, and a sync has to follow.  During a sync the phase stays.

    Raises :class:`RefusedError`.
    """
    _own(state, trainer)
    _in_phase(state, "wake", Phase.SLEEPING, Phase.AWAKE, Phase.SYNCING)
    left = _ordered(set(state.released) - set(tags))
    woken = dataclasses.replace(
        state, released=left, asleep=state.asleep if left else (), renewed=now
    )
    if state.phase is Phase.SYNCING:
        return woken
    if not state.intact:
        phase = Phase.SLEEPING if WEIGHTS in left else Phase.AWAKE
        return dataclasses.replace(woken, phase=phase)
    if left:
        return dataclasses.replace(woken, phase=Phase.SLEEPING)
    return dataclasses.replace(woken, phase=Phase.COMMITTED, holder="")


def _taken(state: Transaction, trainer: Trainer, now: float, seen: float) -> Transaction:
    if state.held_against(trainer.holder, trainer.transaction, seen, now):
        namesake = state.holder == trainer.holder
        raise _refused(
            Refusal.HELD,
            state,
            texts.WEIGHTS_HELD_BY_NAMESAKE if namesake else texts.WEIGHTS_HELD,
            holder=state.holder,
            since=shown(state.acquired),
            until=shown(state.renewed + state.duration),
        )
    return dataclasses.replace(
        state,
        id=trainer.transaction,
        holder=trainer.holder,
        duration=trainer.duration,
        message="",
        acquired=state.acquired if _goes_on(state, trainer) else now,
        renewed=now,
        transitions=state.transitions + 1,
    )


def _goes_on(state: Transaction, trainer: Trainer) -> bool:
    """Whether the holder only takes its next step: a sync is taken from nobody but the dead."""
    return state.holder == trainer.holder and state.phase is not Phase.SYNCING


def _own(state: Transaction, trainer: Trainer) -> None:
    if state.holder == trainer.holder and state.id == trainer.transaction:
        return
    by = f", held by {state.holder}" if state.holder else ""
    by += f" ({state.message})" if state.message else ""
    raise _refused(
        Refusal.NOT_HELD, state, texts.WEIGHTS_NOT_HELD, transaction=trainer.transaction, by=by
    )


def _in_phase(state: Transaction, step: str, *phases: Phase) -> None:
    if state.phase not in phases:
        expected = " or ".join(phase.value for phase in phases)
        raise _refused(
            Refusal.WRONG_PHASE, state, texts.WEIGHTS_PHASE, step=step, expected=expected
        )


def _refused(reason: Refusal, state: Transaction, text: str, **values: object) -> RefusedError:
    return RefusedError(reason, state, text.format(phase=state.phase.value, **values))


def _ordered(tags: Iterable[str]) -> tuple[str, ...]:
    """Memory tags in SGLang's order, those it does not know at the end."""
    found = set(tags)
    known = [tag for tag in MEMORY_TAGS if tag in found]
    return (*known, *sorted(found - set(known)))
