"""A step that the Lease does not allow, as the error that a trainer gets."""

from sglang_operator.client.errors import Expired, Held, NotReady, PoolError, Unsupported
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import steps

_HELD = (steps.Refusal.HELD, steps.Refusal.RECOVERING, steps.Refusal.AT_WORK)


def typed(refused: steps.RefusedError) -> PoolError:
    """The error for it."""
    state, words = refused.state, str(refused)
    if refused.reason in (steps.Refusal.FORMING, steps.Refusal.IN_USE):
        return _in_groups(refused)
    if refused.reason in _HELD:
        return Held(
            words,
            holder=state.holder,
            since=state.acquired,
            until=state.renewed + state.duration,
            recovering=refused.reason is steps.Refusal.RECOVERING,
            at_work=refused.reason is steps.Refusal.AT_WORK,
        )
    if refused.reason is steps.Refusal.NOT_HELD:
        return Expired(words)
    if refused.reason is steps.Refusal.NOT_WRITTEN:
        return NotReady(words)
    return Unsupported(words)


def _in_groups(refused: steps.RefusedError) -> Held:
    owner = refused.state.groups
    assert owner is not None
    forms = refused.reason is steps.Refusal.FORMING
    lasts = weights_groups.FORMING_SECONDS if forms else refused.state.duration
    return Held(
        str(refused),
        holder=owner.holder,
        since=owner.since,
        until=owner.seen + lasts,
        forming=forms,
    )
