"""A trainer on the engines' own GPUs, as a process of its own: it takes turns with them.

The memory that it has it writes down as fake engines do (``testing.engine.held``), which tells who
came to hold memory of a GPU that somebody else has.  As of other trainers, it can be held at each
of its requests, and besides amid its own step, which it has the memory for.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from sglang_operator.client import AsyncPool, Unsupported
from sglang_operator.testing.engine import held
from tests.weights_real import trainer
from tests.weights_real.trainer import SETTLE_SECONDS, Order, Place

TRAINS = "trains"  # the point at which the memory is its own
TAKE_SECONDS = 25.0  # for engines to be up, and out of the way
STAND_SECONDS = 20.0  # for those that have waited to be up
EARLY_SECONDS = 1.5  # that a commit is ahead of what it is of

# What a trainer may not do: each has to be found.
TAKES_EARLY = "trains before the engines sleep"
COMMITS_EARLY = "commits before it writes"


@dataclass(frozen=True, kw_only=True)
class TurnOrder(Order):
    """An order for a trainer that takes turns; ``devices`` are those that it takes."""

    folder: str  # in which it says what it holds
    gpus: tuple[str, ...]  # UUIDs, by id
    train_seconds: float = 0.5
    defect: str = ""


@dataclass(kw_only=True)
class Job:
    """A trainer at work."""

    pool: AsyncPool
    order: TurnOrder
    point: Callable[[str], None]
    memory: list[held.Held] = field(default_factory=list)

    def take(self) -> None:
        """All memory of the GPUs that it takes: also of those that no engine is on."""
        ids = self.order.devices or range(len(self.order.gpus))
        uuids = [self.order.gpus[each] for each in ids]
        self.memory.append(held.Held(self.order.folder, uuids, held.TRAINER))
        self.memory[-1].tell(held.by_tags(()))

    def let_go(self) -> None:
        """Of all of it."""
        while self.memory:
            self.memory.pop().close()


def main(place: Place, order: TurnOrder, talk: Connection) -> None:
    """Carry out the order; tells as ``trainer.main`` does."""
    point = trainer.prepare(order, talk)
    if order.defect == COMMITS_EARLY:
        trainer.never_send("/update_weights_from_tensor")

    async def carry_out() -> None:
        async with trainer.attached(place, order) as pool:
            job = Job(pool=pool, order=order, point=point)
            try:
                for step in PROGRAMS[order.program]:
                    await step(job)
            finally:
                job.let_go()

    trainer.tell(place, carry_out, talk)


async def _turn(job: Job) -> None:
    """Take the memory, train, and let go of it."""
    order = job.order
    if order.defect == TAKES_EARLY:
        job.take()
    await job.pool.take_turn(TAKE_SECONDS, devices=order.devices or None, settle=SETTLE_SECONDS)
    if not job.memory:
        job.take()
    job.point(TRAINS)
    await asyncio.sleep(order.train_seconds)
    job.let_go()


async def _wake(job: Job) -> None:
    await job.pool.wake(devices=job.order.devices or None, loading=STAND_SECONDS)


async def _wake_all(job: Job) -> None:
    """Whoever sleeps or waits, if anybody does, whatever part this trainer is about."""
    with contextlib.suppress(Unsupported):
        await job.pool.wake(loading=STAND_SECONDS)


async def _sync(job: Job) -> None:
    """An update of all engines, which wakes whoever sleeps."""
    if job.order.ready:
        await job.pool.wait_ready(STAND_SECONDS)
    await trainer.sync(job.pool, job.order)
    if job.order.defect == COMMITS_EARLY:
        await asyncio.sleep(EARLY_SECONDS)
        await _write_late(job)


async def _write_late(job: Job) -> None:
    engines = (await job.pool.fresh()).engines
    for index in range(job.order.buckets):
        body = {"flush_cache": False, **trainer.bucket(job.order, index)}
        for engine in engines:
            await job.pool.calls.post_any(engine, "/update_weights_from_tensor", body)


Step = Callable[[Job], Awaitable[None]]
PROGRAMS: dict[str, tuple[Step, ...]] = {
    "turn": (_turn,),
    "turn and wake": (_turn, _wake),
    "turn and sync": (_turn, _sync),
    "step": (_turn, _wake, _sync),
    "two steps": (_turn, _wake, _sync, _turn, _wake_all, _sync),
    "wake": (_wake,),
    "sync": (_sync,),
    "wake all and sync": (_wake_all, _sync),
}
