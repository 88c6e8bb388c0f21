"""ROLL's shrink and expand: the engines of some ranks sleep, and those of the others serve on.

ROLL's agentic pipelines do so in each step (``partial_gpu_mode``; shrink_workers and expand_workers
of scheduler/router.py at 8eb27cc2).  Every worker is told of the ranks, where its router has taken
their requests away: worker 0 puts them to sleep in one transaction, the workers of those ranks wait
until that is done, and the others go on at once.  A rank is an engine, whatever ids the pool has.
The next model update wakes whoever sleeps, before the first bucket is written, as ROLL's own
strategy does.
"""

import functools
import logging
import operator
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.errors import NotReady, Unsupported
from sglang_operator.weights.lease_state import Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.following import Follower
    from sglang_operator.client.pool import AsyncPool
    from sglang_operator.client.registry import Engine

log = logging.getLogger(__name__)


def any_asleep(state: Transaction) -> bool:
    """Whether the pool sleeps, or a part: also where whoever was to sleep ended before it did.

    Its Lease is held until somebody wakes it, and its gates stay closed.
    """
    return bool(state.released) or state.phase is Phase.SLEEPING


def at_rest(state: Transaction) -> bool:
    """Whether the pool sleeps, or a part, and nothing is on its way to an engine any more."""
    return state.phase is Phase.SLEEPING and not state.at_work


def all_at_rest(state: Transaction) -> bool:
    """The same, and no engine serves on."""
    return at_rest(state) and not state.serving


async def again(step: Callable[[], Awaitable[object]]) -> None:
    """A sleep, also of an engine that came back meanwhile: once it has loaded its model."""
    for last in (False, False, True):
        try:
            await step()
            return
        except NotReady as error:
            if last:
                raise
            log.warning("%s", error)


def gpus_of(engines: Iterable["Engine"], ranks: Collection[int]) -> list[int]:
    """The ids of the GPUs that the engines of these ranks have.  Raises Unsupported without any."""
    found = [device for engine in engines if engine.rank in ranks for device in engine.devices]
    if not found:
        raise Unsupported(texts.ROLL_NO_IDS.format(ranks=", ".join(map(str, ranks))))
    return found


async def sleep(
    pool: "AsyncPool", ranks: Collection[int], tags: Sequence[str], *, loading: float
) -> None:
    """Worker 0's part.  Raises as ``AsyncPool.sleep``."""

    async def step() -> None:
        ids = gpus_of((await pool.fresh()).engines, ranks)
        await pool.sleep(tags, devices=ids, loading=loading)

    await again(step)


async def wake(pool: "AsyncPool", ranks: Collection[int], *, loading: float) -> None:
    """Worker 0's part, if any of them sleeps.  Raises as ``AsyncPool.wake``."""
    if any_asleep(await pool.transaction()):
        ids = gpus_of((await pool.fresh()).engines, ranks)
        await pool.wake(devices=ids, loading=loading)


async def follow(
    pool: "AsyncPool", follower: "Follower", rank: int, *, sleeps: bool, seconds: float
) -> None:
    """The others' part, of the engine that has their rank by now.  Raises NotReady.

    By now: at each change of the Lease.  One may end, and come back, while worker 0 waits.
    """

    def done(state: Transaction, engine: "Engine") -> bool:
        slept = bool(state.sleeps(engine.instance))
        if not sleeps:
            return not (slept or state.at_work)
        return at_rest(state) and (slept or not engine.holds)

    deadline = time.monotonic() + seconds
    state = await pool.transaction()
    while True:
        engines = (await pool.fresh()).engines
        engine = next((each for each in engines if each.rank == rank), None)
        if engine is None or done(state, engine):
            return  # without an engine there is no memory either way
        left = deadline - time.monotonic()
        state = await follower.until(functools.partial(operator.ne, state), left, known=state)
