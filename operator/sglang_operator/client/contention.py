"""Other pools on the same GPUs: at most one has the memory there, by the operator's word.

The registry names the engines whose GPUs another pool has.  Who is about to have engines resume
their memory has said so in the Lease before, and reads what the operator wrote since it has seen
that: an engine that is not named then has its GPUs until it sleeps again.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sglang_operator.client import beside, turn_texts
from sglang_operator.client.errors import NotReady
from sglang_operator.client.registry import Engine, Registry

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

# In which the operator has seen that the other pool sleeps.
PATIENCE = 10.0
LOOK_SECONDS = 0.2


def nobody_else(registry: Registry, engines: Iterable[Engine]) -> None:
    """Raises NotReady where another pool has the memory of the GPUs of one of these engines, or
    what a pool has left there that was deleted may have it."""
    taken = [engine for engine in engines if engine.taken]
    if not taken:
        return
    ids = {device for engine in taken for device in engine.devices}
    left = (h for h in registry.holders if not h.devices or not ids.isdisjoint(h.devices))
    pools, pods = registry.weights.taken_by, [each.pod for each in left]
    if pods and not pools:
        words, who = turn_texts.LEFT_ON, pods
    else:
        words, who = turn_texts.TAKEN, list(pools) or ["another pool"]
    raise NotReady(words.format(engines=beside.named(taken), who=", ".join(who)))


async def nobody_else_soon(
    pool: "AsyncPool", of: Callable[[Registry], Iterable[Engine]], transaction: str = ""
) -> None:
    """The same of these engines of the registry as it is written since the operator has seen this
    transaction, if any.  Raises NotReady where it stays so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        registry = await pool.fresh()
        try:
            nobody_else(registry, of(registry))
            if not transaction or registry.weights.seen == transaction:
                return
            raise NotReady(turn_texts.UNSEEN)
        except NotReady:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOK_SECONDS)
