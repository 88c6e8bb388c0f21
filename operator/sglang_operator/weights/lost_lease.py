"""How a weights Lease that was deleted, emptied or put back is told, and what is written then.

Nobody begins anything by it for as long as whoever lost it may take to notice.  That
engines are in somebody's process groups is said again: whoever relied on their being in none, or in
its own, would have them wait for a trainer that is gone, or end.  Whoever was at a sync meanwhile
says so too (``disclaim``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import lease_state, rules, steps
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction
from sglang_operator.weights.turn import TRAINER, Turn


def was_begun(said: Transaction) -> bool:
    """Whether anything was ever begun by this Lease, or by one that it stands in place of."""
    return said.phase is not Phase.IDLE or said.fence


def forgets(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a Lease says less than it did: it was emptied, or put back to an earlier state."""
    then, now = lease_state.read(before), lease_state.read(after)
    fewer = now.transitions < then.transitions
    return was_begun(then) and (not was_begun(now) or fewer or is_put_back(now, then))


def is_lost(now: Transaction, then: Transaction) -> bool:
    """Whether the Lease does not know any more what it said then."""
    return was_begun(then) and (not was_begun(now) or is_put_back(now, then))


def is_put_back(now: Transaction, then: Transaction) -> bool:
    """Whether the Lease was put back to what it was before ``then``, as from a backup.

    Its writes are numbered (``trail``).  Where they are not, as by clients and operators of
    before, transactions are counted: one that is emptied counts none.  Who begins one by what was
    put back may count as far again, and know nothing of who sleeps.  What operators make anew
    counts as far as well, and is nobody's transaction; who writes by other means than our client
    counts none.
    """
    if now.phase is Phase.IDLE:
        # That was made in place of a lost one, and says nothing of what was begun by it since.
        return now.fence and 0 < now.trail.steps < then.trail.steps
    if not now.id and now.trail.steps:
        # Nobody's transaction: one that was emptied, and aborted by force, counts from anew.
        return now.trail.steps < then.trail.steps
    goes_on = now.trail.goes_on(then.trail) if now.id else None
    if goes_on is not None:
        return not goes_on or _is_begun_again(now, then)
    forked = bool(then.id and now.id) and now.id != then.id
    if forked and 0 < now.transitions == then.transitions:
        return bool(then.released)
    return 0 < now.transitions < then.transitions


def _is_begun_again(now: Transaction, then: Transaction) -> bool:
    """Whether what was aborted goes on in its own turn: that is all that the registry has of it.

    Whoever begins after an abort has a turn of its own.
    """
    aborted = then.phase is Phase.ABORTED and now.phase is not Phase.ABORTED
    return aborted and now.trail.last == then.trail.last


def forgotten(
    state: Transaction,
    operator: steps.Trainer,
    *,
    asleep: Mapping[str, frozenset[str] | None],
    message: str,
    now: float,
    groups: GroupsOwner | None = None,
    torn: frozenset[str] = frozenset(),
    unclear: frozenset[str] = frozenset(),
    turn: Turn | None = None,
) -> Transaction:
    """What the operator leaves of a Lease that does not know any more what it said of gates.

    It was deleted, emptied or made anew, maybe during a sync: nobody can say what engines hold.
    The operator holds it for as long as the trainer who lost it may take to notice.  Those that
    slept are woken by the next sync, of the tags that each one's pod names.  None: it does not say,
    as of operators before, and the usual ones are taken.  Should it be fewer, the engine dies of
    being woken, at once and behind a closed gate; of memory that is taken for resumed and is not
    it would die later, of its first request.

    ``turn``: which GPUs the trainer had; None: nobody knows.  Then they are its own if anybody
    slept: an engine that waits longer than it had to costs time, and two on the same memory cost
    both their lives.
    """
    slept = {
        run: frozenset(lease_state.SLEEP_TAGS) if tags is None else tags
        for run, tags in asleep.items()
    }
    released = frozenset().union(*slept.values())
    return dataclasses.replace(
        steps.aborted(state, message),
        released=lease_state.in_order(released),
        asleep=tuple(sorted(slept)),
        woken=frozenset(f"{run}/{tag}" for run, tags in slept.items() for tag in released - tags),
        holder=operator.holder,
        duration=operator.duration,
        acquired=now,
        renewed=now,
        fence=True,
        groups=state.groups or weights_groups.lost(groups),
        torn=state.torn | torn,
        unclear=unclear & frozenset(slept),
        turn=turn if turn is not None or not slept else TRAINER,
    )


def made_anew(
    operator: steps.Trainer,
    *,
    message: str,
    now: float,
    groups: GroupsOwner | None = None,
    torn: frozenset[str] = frozenset(),
    turn: Turn | None = None,
) -> Transaction:
    """What a Lease says that is made in place of a lost one, while no gate has to close for that.

    Nothing, but that it is held for as long as a trainer who lost it may take to notice, which
    engines are ``torn``, and which GPUs the trainer has.
    """
    return Transaction(
        holder=operator.holder,
        duration=operator.duration,
        acquired=now,
        renewed=now,
        message=message,
        fence=True,
        groups=weights_groups.lost(groups),
        torn=torn,
        turn=turn,
    )


def disclaim(
    state: Transaction, trainer: steps.Trainer, *, message: str, now: float, shared: bool = False
) -> Transaction:
    """The Lease was deleted under this sync and made anew: it too says that gates are to close.

    One that says nothing leaves gates which were open as they are, over weights that are torn.
    Whoever holds it for those who do not know yet goes on with that; the other processes of a
    ``shared`` sync do not know either.  Raises :class:`RefusedError` if somebody has begun
    something since.
    """
    if state.phase is not Phase.IDLE or (state.holder and not state.fenced):
        rules.own(state, trainer)
    over = dataclasses.replace(steps.aborted(state, message), id=trainer.transaction)
    if state.fence:
        return dataclasses.replace(over, holder=state.holder, fence=True)
    if not shared:
        return over
    return dataclasses.replace(
        over,
        holder=trainer.holder,
        duration=trainer.duration,
        acquired=now,
        renewed=now,
        shared=True,
        fence=True,
    )
