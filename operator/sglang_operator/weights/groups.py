"""Whose process groups the engines are in: the Lease says it, because groups have the same names.

Trainers set groups up once and use them in many syncs, between which the Lease is free.  Whoever
sets some up, or resets the engines, says so before engines are told; it takes them from whoever had
them, which that one sees in its next step, before it sends anything.

Within a transaction nobody else does.  Processes of a job that form groups without one (ROLL's
workers do, each for its engine) say that they are ``forming``, and others wait until that was not
said again for ``FORMING_SECONDS``.  Each claim has a number, which the operator writes into the
registry once it has seen it: by that they know, as a sync does by its transaction, that the engines
are told as they are now.
"""

import dataclasses

from sglang_operator.api import texts
from sglang_operator.weights import rules
from sglang_operator.weights.lease_state import LEASE_SECONDS, GroupsOwner, Transaction
from sglang_operator.weights.times import shown

FORMING_SECONDS = float(LEASE_SECONDS)
LOST = "lost"  # the id of an owner that may not be the last one: the Lease was made anew


def claimed(
    state: Transaction,
    me: GroupsOwner,
    *,
    now: float,
    seen: float,
) -> Transaction:
    """The engines' groups are in the hands of ``me``.

    ``seen``: since when the caller has seen what the Lease says of them, by its own clock.  Raises
    :class:`RefusedError` while another forms its own.
    """
    found = state.groups
    if found is not None and found.id != me.id:
        if found.forming and now <= seen + FORMING_SECONDS:
            raise rules.refused(
                rules.Refusal.FORMING,
                state,
                texts.WEIGHTS_FORMING,
                holder=found.holder,
                since=shown(found.since),
            )
        found = None
    since, claims = (found.since, found.claims) if found is not None else (now, 0)
    owner = dataclasses.replace(me, since=since, seen=now, claims=claims + 1)
    return dataclasses.replace(state, groups=owner)


def lost(last: GroupsOwner | None) -> GroupsOwner | None:
    """What a Lease that is made anew says of groups: the engines are in some, whoever's.

    ``last``: whose they were when the Lease was last seen.  Somebody may have taken them since, so
    that this one sets them up again like all others.
    """
    return dataclasses.replace(last, id=LOST) if last is not None and not last.left else None


def acts(state: Transaction, me: str, now: float) -> Transaction:
    """If the groups are those of ``me``, an id: it lives, and has set them all up."""
    found = state.groups
    if found is None or found.id != me:
        return state
    return dataclasses.replace(state, groups=dataclasses.replace(found, seen=now, forming=False))


def unused(state: Transaction, holder: str, now: float) -> None:
    """Raises :class:`RefusedError` if another's groups are in use, or may be.

    By the clocks of two machines, unlike all else that the Lease decides: it only saves a trainer
    from being stopped by mistake, and that one would be told before it sent anything.
    """
    found = state.groups
    if found is None or found.left or found.holder == holder:
        return
    if found.forming or abs(now - found.seen) <= state.duration:
        raise rules.refused(
            rules.Refusal.IN_USE,
            state,
            texts.WEIGHTS_GROUPS_IN_USE,
            holder=found.holder,
            since=shown(found.since),
            seen=shown(found.seen),
        )
