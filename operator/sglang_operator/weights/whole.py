"""Which engines hold the weights that they are to be answered from, as somebody begins a step.

Those may run on for a moment while they are paused (``client.pausing``).  Of all others nothing may
be answered: what waits in them would be, from weights that are torn.
"""

from collections.abc import Iterable

from sglang_operator.weights.lease_state import Phase, Transaction


def whole(instances: Iterable[str | None], before: Transaction) -> list[str | None]:
    """Those of these instances, by the state ``before`` the step."""
    known = before.intact or before.untouched
    return [each for each in instances if known and before.covers(each)]


def all_whole(instances: Iterable[str], before: Transaction) -> bool:
    """Whether what the last commit covered is: of these instances all, where none was made yet."""
    if before.version:
        return before.intact or before.untouched
    named = frozenset(instances)
    return len(whole(named, before)) == len(named)


def still_whole(instance: str | None, state: Transaction) -> bool:
    """Whether this one is, until the process that writes into it has begun to: in a shared sync.

    Its leader has found it so, and writes into others.
    """
    over = state.instances if state.version else state.torn
    return state.phase is Phase.SYNCING and state.found_whole and instance in over
