"""Engines that a trainer was at as it died: whether they have their memory is in no record.

The Lease names who is about to sleep before they are asked to, and who has resumed its memory once
it answered: of a process that died in between they may be awake though they are on record as
asleep.  Who takes their GPUs then would meet them there.  So they are woken first, all of them:
whoever was awake ends by that, behind a closed gate, and has no memory either.
"""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

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


def unsure(state: Transaction) -> bool:
    """Whether somebody is at work with engines that are on record as asleep, or died so.

    Who has named none yet has changed none.
    """
    slept = state.phase in (Phase.SLEEPING, Phase.AWAKE, Phase.ABORTED) and bool(state.asleep)
    return slept and state.at_work and not state.releases


def take_over(
    state: Transaction, trainer: steps.Trainer, *, now: float, seen: float
) -> Transaction:
    """The step by which they are taken over, to be woken.

    Raises SettledError if nobody is in question any more, RefusedError while whoever is at work
    lives.
    """
    rules.free(state, trainer, now, seen)
    if not unsure(state):
        raise SettledError
    # After a sync that died as it woke them nobody vouches for anything: as in a sleep.
    aborted = state.phase is Phase.ABORTED
    asleep = dataclasses.replace(state, phase=Phase.SLEEPING) if aborted else state
    return steps.take_on(asleep, trainer, now=now, seen=seen)


async def settled(pool: "AsyncPool", taken: Taken, woken: Woken, seconds: float) -> None:
    """Nobody is on record as asleep of whom that is not sure.

    ``taken`` takes the Lease by a step, ``woken`` wakes the engines in question.  Raises Held while
    whoever is at work lives, EngineError for one that ends by it, and that the registry still tells
    of after so many seconds, NotReady, ClusterError.
    """
    try:
        said = await pool.transaction()
    except NotReady:
        return  # there is no Lease: whoever takes it knows what it said, and tells
    if not unsure(pool.sleeper.idle(said)):
        return

    try:
        hold, state = await taken(take_over)
    except SettledError:
        return
    try:
        await pool.to_its_end(woken(hold, state))
    except EngineError:
        if not await _ended(pool, seconds):
            raise


async def _ended(pool: "AsyncPool", seconds: float) -> bool:
    """Whether the registry tells of none any more of which it is not known what it has."""
    deadline = time.monotonic() + seconds
    while True:
        registry, state = await pool.fresh(), await pool.transaction()
        if not any(engine.instance in state.unclear for engine in registry.present):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)
