"""Who may take a step in the Lease, and when: what ``weights.steps`` asks before each."""

import dataclasses
from dataclasses import dataclass
from enum import Enum

from sglang_operator.api import texts
from sglang_operator.weights.lease_state import LEASE_SECONDS, Phase, Transaction
from sglang_operator.weights.times import shown


class Refusal(Enum):
    """Why a step is not possible."""

    HELD = "Held"  # another trainer is at it
    AT_WORK = "AtWork"  # another process of this trainer is, for a moment
    RECOVERING = "Recovering"  # the operator loads weights into engines
    NOT_HELD = "NotHeld"  # the caller's transaction is over
    WRONG_PHASE = "WrongPhase"
    STILL_ASLEEP = "StillAsleep"
    NO_INSTANCES = "NoInstances"
    NOT_WRITTEN = "NotWritten"
    FORMING = "Forming"  # another job forms its process groups
    IN_USE = "InUse"  # the process groups are another's, who was seen just now


class RefusedError(Exception):
    """A step that the state of the Lease does not allow; its message says why."""

    def __init__(self, reason: Refusal, state: Transaction, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.state = state


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Who takes a step: a name, which several trainers may have, and a transaction of its own."""

    holder: str
    transaction: str
    duration: float = float(LEASE_SECONDS)  # without renewal, then it counts as gone


def all_written(state: Transaction, missing: frozenset[str]) -> None:
    """Raises :class:`RefusedError` if these instances are any, or somebody objects."""
    if state.message:
        raise refused(Refusal.NOT_WRITTEN, state, texts.WEIGHTS_OBJECTION, why=state.message)
    if missing:
        which = ", ".join(sorted(missing)[:8])
        raise refused(Refusal.NOT_WRITTEN, state, texts.WEIGHTS_NOT_WRITTEN, which=which)


def free(
    state: Transaction, trainer: Trainer, now: float, seen: float, *, shared: bool = False
) -> None:
    """Raises :class:`RefusedError` while somebody else holds the Lease.

    ``shared``: for a sync that its other processes have to join before they write into anything.
    """
    if not state.held_against(trainer.holder, trainer.transaction, seen, now, shared=shared):
        return
    values = {
        "holder": state.holder or "nobody",
        "since": shown(state.acquired),
        "until": shown(state.renewed + state.duration),
    }
    if state.fenced and state.shared and state.holder == trainer.holder:
        raise refused(
            Refusal.AT_WORK,
            state,
            texts.WEIGHTS_OWN_FENCED + _edited(state),
            why=state.message,
            **values,
        )
    if state.fenced or state.vacant:
        text = texts.WEIGHTS_FENCED if state.fenced else texts.WEIGHTS_VACANT
        raise refused(Refusal.HELD, state, text + _edited(state), why=state.message, **values)
    if not state.recovers:
        namesake = state.holder == trainer.holder
        reason = Refusal.AT_WORK if namesake and state.taken_on else Refusal.HELD
        text = texts.WEIGHTS_HELD_BY_NAMESAKE if namesake else texts.WEIGHTS_HELD
        raise refused(reason, state, text + _edited(state), **values)
    raise refused(
        Refusal.RECOVERING,
        state,
        texts.WEIGHTS_RECOVERING,
        version=state.version,
        checkpoint=state.checkpoint,
        count=len(state.recovering),
        **values,
    )


def taken(
    state: Transaction, trainer: Trainer, now: float, seen: float, *, shared: bool = False
) -> Transaction:
    """The Lease in its hands, for a transaction of its own.  ``shared`` and raises as ``free``."""
    free(state, trainer, now, seen, shared=shared)
    return dataclasses.replace(
        state.named,  # by its step nobody else can name any more
        id=trainer.transaction,
        holder=trainer.holder,
        duration=trainer.duration,
        message="",
        acquired=state.acquired if _goes_on(state, trainer) else now,
        renewed=now,
        transitions=state.transitions + 1,
        recovering=frozenset(),
        found_whole=False,
        fence=False,
        at_work=True,
    )


def _goes_on(state: Transaction, trainer: Trainer) -> bool:
    """Whether the holder only takes its next step: a sync is taken from nobody but the dead."""
    return state.holder == trainer.holder and state.phase is not Phase.SYNCING


def own(state: Transaction, trainer: Trainer) -> None:
    """Raises :class:`RefusedError` if this is not its transaction any more."""
    ours = state.holder == trainer.holder and state.id == trainer.transaction
    if ours and not state.fenced:
        return
    by = f", held by {state.holder}" if state.holder else ""
    by += f" ({state.message})" if state.message else ""
    raise refused(
        Refusal.NOT_HELD, state, texts.WEIGHTS_NOT_HELD, transaction=trainer.transaction, by=by
    )


def in_phase(state: Transaction, step: str, *phases: Phase) -> None:
    """Raises :class:`RefusedError` in any other phase."""
    if state.phase not in phases:
        expected = " or ".join(phase.value for phase in phases)
        raise refused(Refusal.WRONG_PHASE, state, texts.WEIGHTS_PHASE, step=step, expected=expected)


def _edited(state: Transaction) -> str:
    """What is told beside, where ``leaseDurationSeconds`` is not what the holder counts on."""
    seconds, said = int(state.duration), int(state.edited_duration)
    return texts.DURATION_EDITED.format(seconds=seconds, said=said) if said else ""


def refused(reason: Refusal, state: Transaction, text: str, **values: object) -> RefusedError:
    return RefusedError(reason, state, text.format(phase=state.phase.value, **values))


def loads(state: Transaction, operator: Trainer) -> None:
    """Raises :class:`RefusedError` unless this operator loads weights into engines."""
    if state.recovers and state.holder == operator.holder:
        return
    by = f", held by {state.holder}" if state.holder else ""
    raise refused(
        Refusal.NOT_HELD, state, texts.WEIGHTS_NOT_HELD, transaction=operator.holder, by=by
    )


def unsure(state: Transaction) -> bool:
    """Whether somebody is at work with engines that are on record as asleep, or died so.

    Who has named none yet has changed none.  A sync wakes those that sleep, too.
    """
    return state.at_work and bool(state.asleep) and not state.releases
