"""Turns between a trainer and engines on its own GPUs (placement Shared).

The Lease says which GPUs the trainer has (``weights.turn``).  No engine is started there: the
operator names those that wait, and starts them once they are given back.  So who wakes engines
waits until those stand, and who takes the memory waits until none can come up any more.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sglang_operator.client import beside, contention, turn_texts
from sglang_operator.client import devices as ids
from sglang_operator.client.confirming import confirmed
from sglang_operator.client.errors import (
    ClusterError,
    EngineError,
    Expired,
    Held,
    NotReady,
    PoolError,
    StaleEpoch,
)
from sglang_operator.client.freed import Freed
from sglang_operator.client.lease import LeaseObservation
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.weights import lease_state, parts, turn
from sglang_operator.weights.lease_state import Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

LOADING_SECONDS = 600.0  # in which an engine that is started anew has to be up
LOOK_SECONDS = 0.5
RETRY_SECONDS = 1.0
PATIENCE = 10.0  # seconds to go on trying without an API server
ACKNOWLEDGE_SECONDS = 30.0
_SLEPT = (Phase.SLEEPING, Phase.AWAKE, Phase.SYNCING)


def takes(registry: Registry, devices: Collection[int]) -> turn.Turn | None:
    """The GPUs that a sleep takes; None where engines and trainer have their own."""
    return turn.of(devices) if registry.weights.turns else None


async def out_of_the_way(
    pool: "AsyncPool", part: ids.Part, slept: Collection[str | None], seconds: float
) -> None:
    """Every engine of the part sleeps, or waits by the operator's word.  Raises NotReady.

    One that was about to be made as the sleep began would come up amid the trainer's turn; and
    on a node that is silent one may run on, or start.  An edit that groups the GPUs anew meanwhile
    makes of such a one an engine beside those that wait then.
    """
    begun = time.monotonic()
    while True:
        registry = part(await pool.fresh())
        every = (*registry.engines, *registry.unlisted)
        left = [e for e in every if not e.waits and e.instance not in slept]
        if not left and not registry.holders:
            return
        if (waited := time.monotonic() - begun) > seconds:
            if not left:
                raise held(registry, waited)
            words = turn_texts.NOT_OUT_OF_THE_WAY
            raise NotReady(words.format(engines=beside.named(left), seconds=waited))
        await asyncio.sleep(LOOK_SECONDS)


def held(registry: Registry, seconds: float) -> NotReady:
    """The error that tells of pods which may hold memory, after so long."""
    pods = ", ".join(each.pod for each in registry.holders)
    return NotReady(turn_texts.HELD.format(pods=pods, seconds=seconds))


async def stand(pool: "AsyncPool", part: ids.Part, current: Transaction, seconds: float) -> None:
    """Wait until those engines of the part are up whose GPUs are theirs again.

    Raises NotReady, which names those that are not.
    """
    begun = time.monotonic()
    down: Sequence[Engine] = ()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for every in pool.changes():
                registry = part(every)
                if not registry.weights.turns:
                    return
                theirs = (e for e in registry.engines if not current.trainers.has(e.devices))
                down = [engine for engine in theirs if not engine.up or engine.waits]
                if not down:
                    return
    latest = part(await pool.fresh())
    contention.nobody_else(latest, latest.engines)
    waited = time.monotonic() - begun
    named = beside.named(down)
    raise NotReady(turn_texts.NOT_STANDING.format(engines=named, seconds=waited, pool=pool.name))


async def only_awaited(
    pool: "AsyncPool", part: ids.Part, devices: Collection[int]
) -> Transaction | None:
    """The state, where nothing sleeps and engines only wait, or come up: nobody is to be resumed.

    They get their GPUs back.  None where there is something to wake, or nobody takes turns.
    """
    if not (await pool.registry()).weights.turns:
        return None
    state = await pool.transaction()
    if state.phase in _SLEPT:
        return None
    registry = part(await pool.fresh())
    # Of GPUs without an engine a wake of all clears the record: nobody else would.
    left = not devices and bool(state.trainers)
    if left or any(state.trainers.has(engine.devices) for engine in registry.engines):
        await contention.nobody_else_soon(pool, lambda found: part(found).engines)
        return await _given_back(pool, devices, wait=0.0)
    return state if any(not engine.up for engine in registry.engines) else None


async def let_in(pool: "AsyncPool", part: ids.Part, transaction: str) -> None:
    """The operator has seen this transaction, and lets the engines of the part have their GPUs.

    Raises NotReady, also where another pool has them.
    """
    registry = await confirmed(pool, transaction)
    if registry.weights.turns:
        await contention.nobody_else_soon(pool, lambda it: part(it).present, transaction)


async def before_a_sync(pool: "AsyncPool", wait: float) -> None:
    """The trainer has let go of its memory: engines that have waited for that come up first.

    A sync is about all engines.  Where these have GPUs of their own, the new ones of a pool that
    was regrouped wait for those that sleep, which are woken.  Raises Held, NotReady, ClusterError,
    EngineError.
    """
    registry = await pool.registry()
    if not registry.weights.turns:
        if registry.weights.phase == Phase.SLEEPING.value and await _old_ones_sleep(pool):
            await pool.wake()
            await pool.wait_ready(LOADING_SECONDS)
        return
    registry, state = await pool.fresh(), await pool.transaction()
    down = any(engine.waits or not engine.up for engine in registry.engines)
    # In a pool that is awake one that has ended is no turn's matter.
    if down and (state.trainers or state.phase is Phase.SLEEPING):
        await contention.nobody_else_soon(pool, lambda found: found.engines)
        after = await _given_back(pool, (), wait=wait) if state.trainers else state
        await stand(pool, ids.whole, after, LOADING_SECONDS)


async def _old_ones_sleep(pool: "AsyncPool") -> bool:
    """Whether engines are missing, and others sleep that are wanted no more: no rollout takes these
    away before they are woken."""
    registry = await pool.fresh()
    if all(engine.instance for engine in registry.engines):
        return False
    return any(_wanted_no_more(registry, await pool.transaction()))


def _wanted_no_more(registry: Registry, state: Transaction) -> Iterable[Engine]:
    """Those that sleep, and whose names are none of the pool's engines' by now."""
    known = {engine.engine for engine in registry.engines}
    return (e for e in registry.unlisted if e.engine not in known and state.sleeps(e.instance))


async def make_way(
    pool: "AsyncPool",
    part: ids.Part,
    tags: Iterable[str],
    devices: Collection[int],
    seconds: float,
) -> None:
    """Engines of the part whose GPUs others sleep on, in another grouping, come up before a wake.

    The operator ends those once the trainer has given these GPUs back: nobody else wakes them.
    Raises Held, NotReady, ClusterError.
    """
    if not devices or not (await pool.registry()).weights.turns:
        return  # a wake of all wakes these too
    every = await pool.fresh()
    state = await pool.transaction()
    if state.phase is not Phase.SLEEPING:
        return
    registry, old = part(every), _wanted_no_more(every, state)
    missing = {d for e in registry.engines if not e.instance for d in e.devices}
    if {*state.released} <= {*tags} and any(missing & {*e.devices} for e in old):
        await contention.nobody_else_soon(pool, lambda found: part(found).engines)
        await stand(pool, part, await _given_back(pool, devices, wait=0.0), seconds)


async def _given_back(pool: "AsyncPool", devices: Collection[int], *, wait: float) -> Transaction:
    trainer = pool.trainer(lease_state.LEASE_SECONDS)

    def step(state: Transaction, sight: LeaseObservation) -> Transaction:
        state, back = pool.sleeper.idle(state), devices or None
        return parts.give_back(state, trainer, devices=back, now=sight.now, seen=sight.seen)

    return (await pool.lease.step_when_free(step, wait=wait, patience=PATIENCE)).state


async def take(
    pool: "AsyncPool",
    tags: Iterable[str],
    devices: Collection[int],
    *,
    settle: float,
    timeout: float,
) -> Freed:
    """See ``AsyncPool.take_turn``."""
    begun = time.monotonic()
    part: Callable[[Registry], Registry] = ids.overlapping(devices) if devices else ids.whole
    while True:
        left = begun + timeout - time.monotonic()
        try:
            await _come(pool, part)
            # Also where all wait: an earlier process has left it, or another trainer has it.
            freed = await pool.sleep(
                tags,
                devices=devices or None,
                settle=settle,
                timeout=max(1.0, min(ACKNOWLEDGE_SECONDS, left)),
                loading=max(1.0, left),
            )
            registry = part(await pool.fresh())
            contention.nobody_else(registry, registry.engines)
            return freed
        except (NotReady, Held, Expired, EngineError, StaleEpoch, ClusterError) as error:
            why: PoolError = error
        waited = time.monotonic() - begun
        if waited + RETRY_SECONDS > timeout:
            raise NotReady(turn_texts.NOT_TAKEN.format(seconds=waited, why=why)) from why
        await asyncio.sleep(RETRY_SECONDS)


async def _come(pool: "AsyncPool", part: ids.Part) -> None:
    """The engines of the part are up, or those that are not wait for the trainer already."""
    state = await pool.transaction()
    if state.phase is Phase.SYNCING:
        raise NotReady(turn_texts.AMID_A_SYNC.format(holder=state.holder or "nobody"))
    registry = part(await pool.fresh())
    contention.nobody_else(registry, registry.engines)
    missing = [engine for engine in registry.engines if not (engine.up or engine.waits)]
    if missing or not registry.engines:
        registry.of(engine for engine in registry.engines if not engine.waits).require_up()
