"""The operator has told of the engines since a step was begun, before one is asked to change.

The registry names engines by their address.  While nobody renews it, as no operator runs, a pod may
go and its address be given to another: an engine of another pool would be written to, and get this
pool's keys, or join a group that never comes together.  Nothing that an engine says of itself tells
it from one of the same model.  So what is begun has its own name in the Lease, and the operator
writes that into the registry, together with the engines as it sees them then.  Process groups that
are set up outside of a transaction have the name of their owner, and the number of its claim.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError, Expired, NotReady, StaleEpoch
from sglang_operator.client.registry import Engine, Registry, WeightsSection, changes
from sglang_operator.weights.lease_state import GroupsOwner, Phase

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

# Longer than another operator takes to come in place of one that is gone.
CONFIRM_SECONDS = 30.0
_RETRY_SECONDS = 0.5


async def confirmed(
    pool: "AsyncPool", transaction: str, engines: Iterable[Engine] = (), epoch: str = ""
) -> Registry:
    """The registry, written since this transaction stands in the Lease.

    Raises NotReady if nobody writes one, StaleEpoch if it names others than these ``engines``,
    which were those of ``epoch``.
    """
    covered = tuple(engines)

    def told(found: Registry) -> bool:
        if changes(covered, found):
            raise StaleEpoch(texts.STALE_BEFORE.format(given=epoch, epoch=found.epoch))
        seen = found.weights.seen == transaction
        if seen and found.weights.phase == Phase.ABORTED.value:
            raise Expired(texts.ENDED_BY_OPERATOR)
        return seen

    return await _told(pool, told, texts.CONFIRMED_TRANSACTION)


async def confirmed_groups(
    pool: "AsyncPool", owner: GroupsOwner, engines: Iterable[Engine] = ()
) -> Registry:
    """The registry, written since the Lease says this claim of the engines' process groups.

    That of an operator of an earlier release, which does not tell, is taken as it is.  Raises
    NotReady if nobody writes one, StaleEpoch if it names others than these ``engines``.
    """
    covered = tuple(engines)

    def told(found: Registry) -> bool:
        if what := changes(covered, found):
            raise StaleEpoch(texts.ROLL_STALE.format(what="; ".join(what)))
        return shows(found.weights, owner)

    return await _told(pool, told, texts.CONFIRMED_GROUPS)


def shows(weights: WeightsSection, owner: GroupsOwner) -> bool:
    """Whether the operator had seen this claim, as far as it tells such things at all."""
    if weights.groups is None:
        return True
    return weights.groups == owner.id and weights.claims >= owner.claims


async def _told(pool: "AsyncPool", told: Callable[[Registry], bool], has: str) -> Registry:
    """The first registry that tells it; ``has``: how to say what one has that does not."""
    trouble = ""
    found: Registry | None = None
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            while True:
                try:
                    async for found in pool.changes():
                        if told(found):
                            return found
                except ClusterError as error:
                    trouble = f"; {error}"
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        pass
    weights = found.weights if found else WeightsSection()
    has = has.format(
        transaction=weights.seen or "-",
        phase=weights.phase or "-",
        groups=weights.groups or "-",
        claims=weights.claims,
    )
    raise NotReady(texts.NOT_CONFIRMED.format(seconds=CONFIRM_SECONDS, has=has, trouble=trouble))
