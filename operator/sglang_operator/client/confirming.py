"""The operator has told of the engines since a step was begun, before one is asked to change.

The registry names engines by their address.  While nobody renews it, as no operator runs, a pod may
go and its address be given to another: an engine of another pool would be written to, and get this
pool's keys.  Nothing that an engine says of itself tells it from one of the same model.  So what is
begun has its own name in the Lease, and the operator writes that into the registry, together with
the engines as it sees them then.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError, NotReady, StaleEpoch
from sglang_operator.client.registry import Engine, Registry, changes

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
    covered, trouble = tuple(engines), ""
    found: Registry | None = None
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            while True:
                try:
                    async for found in pool.changes():
                        if changes(covered, found):
                            words = texts.STALE_BEFORE.format(given=epoch, epoch=found.epoch)
                            raise StaleEpoch(words)
                        if found.weights.seen == transaction:
                            return found
                except ClusterError as error:
                    trouble = f"; {error}"
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        pass
    weights = found.weights if found else None
    raise NotReady(
        texts.NOT_CONFIRMED.format(
            seconds=CONFIRM_SECONDS,
            transaction=(weights and weights.seen) or "-",
            phase=(weights and weights.phase) or "-",
            trouble=trouble,
        )
    )
