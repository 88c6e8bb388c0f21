"""What the operator itself writes into a pool's weights Lease.  Pure.

A sync whose holder is gone is aborted, and a sleep that named nobody given up.  A Lease that has
lost what it said is aborted where gates have to close for it, else it is made anew
(``weights.lost_lease``).  The other step is recovery (``recovery``).  Each is from exactly the
state that was seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sglang_operator.api import names, texts
from sglang_operator.api.spec import WeightsGate
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedChild
from sglang_operator.weights import lost_lease, rules, steps, unslept
from sglang_operator.weights.lease_state import Phase, Transaction

FORGOTTEN = "LeaseForgotten"  # of a gate that closed because the Lease has lost what it said
_NAMED_NOBODY = "its holder has put nobody to sleep, and does not renew"
UNTIL_A_COMMIT = (Phase.ABORTED.value, Phase.AWAKE.value, FORGOTTEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseStep:
    """Write this state into exactly this Lease, unless it changed since it was seen."""

    lease: ObservedChild
    state: Transaction
    reason: str

    @property
    def uid(self) -> names.Uid:
        return self.lease.uid

    @property
    def resource_version(self) -> str:
        return str(self.lease.body["metadata"]["resourceVersion"])


def expiry(
    lease: ObservedChild, current: Transaction, operator: steps.Trainer, now: float
) -> tuple[LeaseStep | None, float | None]:
    """The end of a sync whose holder does not renew, or when it may come to that.

    Who has not renewed for the whole duration writes no more, and the Lease is free.  Who is not
    named any more may still write, and the operator holds the Lease for that long.  A sleeper may
    sleep for ever; who was about to put engines to sleep, and has named none, is over like a sync:
    should the Lease be lost later, all engines would be taken for asleep.
    """
    expires = current.expires(lease.seen)
    if current.phase is Phase.SLEEPING and current.releases:
        if now < expires:
            return None, expires
        return LeaseStep(lease=lease, state=unslept.given_up(current), reason=_NAMED_NOBODY), None
    if current.phase is not Phase.SYNCING:
        return None, None
    if current.holder and now < expires:
        return None, expires
    if now >= expires:
        message = texts.SYNC_EXPIRED.format(
            holder=current.holder or "nobody", seconds=int(current.duration)
        )
        state = steps.aborted(current, message, unsure=True)
        return LeaseStep(lease=lease, state=state, reason="its holder does not renew"), None
    state = steps.ended(current, operator.holder, message=texts.SYNC_VACANT, now=now)
    return LeaseStep(lease=lease, state=state, reason="it names no holder"), None


def anew(
    name: str,
    gate: WeightsGate,
    found: ObservedChild | None,
    ours: Transaction | None,
    alive: Sequence[Group],
    said: Transaction | None,
    known: Transaction | None,
    operator: steps.Trainer,
    now: float,
) -> Transaction | None:
    """What the Lease is to say if it does not know any more what was begun by it; None: it does.

    ``found``: whoever's stands there; ``ours``: what it says, where it is the pool's own.
    ``said``: what that said last; ``known``: what it said before it was as it is.  Whoever had
    begun something may write on until it notices, so that nobody begins before.  Gates close where
    nobody knows any more what engines hold.
    """
    current = ours or Transaction()
    if known is not None and lost_lease.is_put_back(current, known):
        message = texts.LEASE_PUT_BACK.format(
            lease=name, then=current.transitions, count=known.transitions
        )
        # Whoever began by it is to see that it was ended.
        older = replace(current, id="", groups=None)
        last = replace(known, groups=known.groups or current.groups)
        return forgotten(message, older, alive, last, operator, now)
    if current.phase is not Phase.IDLE:
        return None
    if _is_torn(gate, alive, said):
        message = texts.LEASE_FORGOTTEN.format(lease=name)
        return forgotten(message, current, alive, said, operator, now)
    if said is None or not (_run(alive) or said.turn) or current.fence:
        return None
    if found is not None and (ours is None or not lost_lease.was_begun(said)):
        return None
    message, holder = texts.LEASE_ANEW.format(lease=name), _as_long(operator, said)
    anew = lost_lease.made_anew(
        holder, message=message, now=now, groups=said.groups, torn=said.torn, turn=said.turn
    )
    return replace(_counting_on(anew, current, said), groups=current.groups or anew.groups)


def _counting_on(state: Transaction, current: Transaction, said: Transaction) -> Transaction:
    """What is made anew is told from what was before it, by whom it was found or remembered."""
    count = max(current.transitions, said.transitions)
    return replace(state, transitions=count, trail=said.trail.over(current.trail))


def last_said(
    ours: Transaction | None, alive: Iterable[Group], known: Transaction | None
) -> Transaction | None:
    """What is to be remembered of the pool's Lease: what it said last, whatever became of it.

    Where no engine runs, one that says nothing is as good as the first.  Groups are set up without
    that anything begins.  One that was put back is remembered as it was until the operator's own
    step stands there, however often its write fails.
    """
    if ours is None:
        return known
    if known is None or not (_run(alive) or known.turn):
        return ours
    if lost_lease.was_begun(ours) and not lost_lease.is_put_back(ours, known):
        return ours
    return replace(known, groups=ours.groups or known.groups)


def told(said: Transaction | None, after: Transaction) -> Transaction:
    """What is published of the Lease; ``after``: what it says once our own step stands there.

    Until then it is what it said last, where it has lost that: whoever replaces this operator right
    then knows nothing else of what was under way.
    """
    return said if said is not None and lost_lease.was_begun(said) else after


def _is_torn(gate: WeightsGate, alive: Sequence[Group], said: Transaction | None) -> bool:
    """Whether nobody knows what engines hold, now that the Lease says nothing of it.

    Gates that open by a commit need one that covers them; the others stay, unless it was under
    way that engines were written, or slept.  Where nothing tells what it said, gates that were
    closed for that do.
    """
    of_pods = [each for group in alive if (each := group.gate) is not None]
    reasons = {each.reason for each in of_pods if not each.is_open}
    if Phase.SLEEPING.value in reasons:
        return True
    if not (said and lost_lease.was_begun(said)) and reasons.intersection(UNTIL_A_COMMIT):
        return True
    known = {Phase.IDLE}
    if gate is not WeightsGate.COMMITTED:
        known |= {Phase.COMMITTED}
    elif of_pods:
        return True
    return said is not None and said.phase not in known and _run(alive)


def _run(alive: Iterable[Group]) -> bool:
    """Whether there is an engine that anybody could write into."""
    return any(group.may_run for group in alive)


def _as_long(operator: steps.Trainer, said: Transaction | None) -> steps.Trainer:
    """The operator, which holds the Lease for as long as the one who lost it counts on it."""
    if said is None or not (said.holder or said.vacant):
        return operator
    return replace(operator, duration=max(operator.duration, said.duration))


def sleeps(group: Group) -> bool:
    """Whether the pod's gate is closed because it sleeps, or is about to."""
    gate = group.gate
    return gate is not None and not gate.is_open and gate.reason == Phase.SLEEPING.value


def forgotten(
    message: str,
    current: Transaction,
    alive: Iterable[Group],
    said: Transaction | None,
    operator: steps.Trainer,
    now: float,
) -> Transaction:
    """What a Lease that has forgotten is to say: gates remember who slept, and on what.

    Where a gate says nothing it is what the Lease said last; of engines without one, also what was
    about to be released then: of others no trainer releases before they are marked.  What this
    operator has read in the Lease since counts more.  A mark that was not taken away yet is older;
    and whoever was named sleeps, though another operator, which decided by an earlier state, has
    taken its mark off late: over one that was the same again.
    """
    last = said or Transaction()
    read_since = bool(last.id or last.acquired)  # else it is what was published before this began
    asleep: dict[str, frozenset[str] | None] = {}
    for group in alive:
        run = group.last_instance
        if not run:
            continue
        if group.gate is None:
            known = last.sleeps if group.gated else last.may_sleep
            if tags := known(run):
                asleep[run] = tags
            continue
        marked = group.gate.released if sleeps(group) else frozenset[str]()
        if read_since:
            may = last.may_sleep(run)
            marked = may if marked is None else marked & may | last.sleeps(run)
        if marked is None or marked:
            asleep[run] = marked
    holder = _as_long(operator, said)
    state = lost_lease.forgotten(
        current,
        holder,
        asleep=asleep,
        message=message,
        now=now,
        groups=last.groups,
        torn=last.torn,
        # Who was at work may have died, and no Lease in place of his can say that he was.
        unclear=frozenset(asleep) if rules.unsure(last) else last.unclear,
        turn=last.turn,
    )
    return _counting_on(state, current, last)
