"""Engines that a trainer was at as it died: whether they have their memory is in no record.

The Lease names who is about to sleep before they are asked to, and who has resumed its memory once
it answered: of a process that died in between they may be awake though they are on record as
asleep.  Who takes their GPUs then would meet them there.  So they are woken first: whoever was
awake ends by that, behind a closed gate, and has no memory either.  Where a part of the pool is in
question, the trainer may have the GPUs of the rest: nobody is woken there, and of those the Lease
says from then on that nobody knows (``unclear``).
"""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any

from sglang_operator.client import devices as ids
from sglang_operator.client.errors import EngineError, NotReady
from sglang_operator.client.hold import LeaseHold
from sglang_operator.weights import rules, steps
from sglang_operator.weights.lease_state import Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

LOOK_SECONDS = 0.5

Taken = Callable[[Callable[..., Transaction]], Awaitable[tuple[LeaseHold, Transaction]]]
Woken = Callable[[LeaseHold, Transaction], Coroutine[Any, Any, Transaction]]


class SettledError(Exception):
    """Whoever was at work has come to its end."""


def take_over(
    state: Transaction,
    trainer: steps.Trainer,
    *,
    now: float,
    seen: float,
    only: Collection[str | None] | None = None,
) -> Transaction:
    """The step by which they are taken over, to be woken; ``only`` these, or all of them.

    Raises SettledError if nobody is in question any more, RefusedError while whoever is at work
    lives.
    """
    rules.free(state, trainer, now, seen)
    if state.phase is Phase.SYNCING or not rules.unsure(state):
        raise SettledError
    # After a sync that died as it woke them nobody vouches for anything: as in a sleep.
    aborted = state.phase is Phase.ABORTED
    asleep = dataclasses.replace(state, phase=Phase.SLEEPING) if aborted else state
    taken = steps.take_on(asleep, trainer, now=now, seen=seen)
    rest = [] if only is None else [run for run in state.asleep if run not in only]
    return dataclasses.replace(taken, unclear=taken.unclear | frozenset(rest))


async def settled(
    pool: "AsyncPool", part: ids.Part, taken: Taken, woken: Woken, seconds: float
) -> None:
    """Nobody of the part is on record as asleep of whom that is not sure.

    ``taken`` takes the Lease by a step, ``woken`` wakes the engines in question.  Raises Held while
    whoever is at work lives, EngineError for one that ends by it, and that the registry still tells
    of after so many seconds, NotReady, ClusterError.
    """
    try:
        said = await pool.transaction()
    except NotReady:
        return  # there is no Lease: whoever takes it knows what it said, and tells
    said = pool.sleeper.idle(said)
    if said.phase is Phase.SYNCING or not rules.unsure(said):
        return  # who is at a sync, or died at one, is told of by the sleep itself

    registry = part(await pool.fresh())
    only = None if part is ids.whole else {e.instance for e in registry.present}
    try:
        hold, state = await taken(functools.partial(take_over, only=only))
    except SettledError:
        return
    try:
        await pool.to_its_end(woken(hold, state))
    except EngineError:
        if not await _ended(pool, part, seconds):
            raise


async def _ended(pool: "AsyncPool", part: ids.Part, seconds: float) -> bool:
    """Whether the registry tells of none of the part any more whose memory nobody knows of."""
    deadline = time.monotonic() + seconds
    while True:
        registry, state = part(await pool.fresh()), await pool.transaction()
        if not any(engine.instance in state.unclear for engine in registry.present):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)
