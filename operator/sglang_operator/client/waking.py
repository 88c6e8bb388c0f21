"""Engines resume the memory that they released, each once: who did is put on record at once.

To tell one again ends it, and one that is taken for awake and is not dies of its first request: so
what is not known, because an answer was lost, is put on record as that.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sglang_operator import supervision
from sglang_operator.client import beside, contention
from sglang_operator.client.errors import undone
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.lease import LeaseObservation, Step
from sglang_operator.client.registry import Engine
from sglang_operator.weights import parts, steps
from sglang_operator.weights.lease_state import Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

PATIENCE = 10.0  # seconds to go on trying without an API server

_Each = Sequence[tuple[Engine, Sequence[str]]]


async def resume(
    pool: "AsyncPool",
    hold: LeaseHold,
    state: Transaction,
    engines: Iterable[Engine],
    tags: Iterable[str],
) -> None:
    """Let engines resume what of these tags each has released.

    Who did is put on record before anything else is asked of anybody: to resume an engine twice
    kills it.  Called by ``AsyncPool.to_its_end``.  Raises EngineError, PoolError; NotReady where
    an answer was lost before.
    """
    engines = tuple(engines)
    beside.all_clear(engines, state)
    todo: dict[tuple[str, ...], list[Engine]] = {}
    for engine in engines:
        released = state.sleeps(engine.instance) & set(tags)
        if released:
            todo.setdefault(tuple(sorted(released)), []).append(engine)
    await _have_their_gpus(pool, hold, [engine for group in todo.values() for engine in group])
    each = [(engine, wanted) for wanted, group in todo.items() for engine in group]
    outcomes = await supervision.all_to_their_end(
        pool.resume_memory([engine], list(wanted), hold.alive) for engine, wanted in each
    )
    done = [one for one, outcome in zip(each, outcomes, strict=True) if outcome is None]
    failed = zip(each, outcomes, strict=True)
    unclear = [one for one, error in failed if not (error is None or undone(error))]
    await note_awake(hold, done, unclear, patience=PATIENCE)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


async def _have_their_gpus(pool: "AsyncPool", hold: LeaseHold, engines: Sequence[Engine]) -> None:
    """No other pool has the memory of the GPUs of these.  Raises NotReady."""
    if not any(engine.in_turns for engine in engines):
        return
    runs = {engine.instance for engine in engines}
    await contention.nobody_else_soon(
        pool,
        lambda registry: [e for e in registry.present if e.instance in runs],
        hold.trainer.transaction,
    )


async def resume_all(
    pool: "AsyncPool",
    hold: LeaseHold,
    state: Transaction,
    engines: Sequence[Engine],
    tags: Iterable[str],
) -> None:
    """The same of these engines, and of those that sleep and that nobody writes into.

    The Lease says of none that it sleeps any more: the next flush would end one that does.  The
    others stay paused.
    """
    tags, known = set(tags), {engine.instance for engine in engines}
    if {*state.asleep} - known:
        others = beside.sleepers(await pool.fresh(), state, known)
        beside.all_clear((*others, *engines), state)
        await resume(pool, hold, state, others, tags)
    await resume(pool, hold, state, engines, tags)


def woken(
    hold: LeaseHold,
    tags: Iterable[str],
    apart: Iterable[str] | None = None,
    devices: Iterable[int] = (),
) -> Step:
    """The step by which the Lease says that what was released of these tags is resumed.

    ``apart``: by these instances alone, while others sleep on; the trainer has left ``devices``.
    """

    def step(current: Transaction, sight: LeaseObservation) -> Transaction:
        if apart is not None:
            of: dict[str, Any] = {"instances": apart, "tags": tuple(tags), "devices": devices}
            return parts.wake(current, hold.trainer, now=sight.now, **of)
        return steps.wake(current, hold.trainer, now=sight.now, tags=tags)

    return step


async def note_awake(hold: LeaseHold, done: _Each, unclear: _Each = (), *, patience: float) -> None:
    """Put on record which engines have their memory of these tags, or may have it.

    It is owed to the Lease from then on: a later step of this process does not go without it.
    Raises ClusterError.
    """
    if done or unclear:
        woke = [(engine.instance, tags) for engine, tags in done if engine.instance]
        lost = [engine.instance for engine, _ in unclear if engine.instance]
        await hold.woke(woke, unclear=lost, patience=patience)
