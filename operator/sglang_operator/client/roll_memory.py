"""The memory of the engines, as ROLL's workers have the pool sleep and wake.

Worker 0 does it, for all of them, and the others wait until it is done.
"""

import logging
from collections.abc import Sequence
from typing import Any

from sglang_operator.client import job, roll_config, roll_parts, texts
from sglang_operator.client.following import Follower
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.roll_groups import READY_SECONDS
from sglang_operator.weights.lease_state import Phase

log = logging.getLogger(__name__)


class RollMemory:
    """What one worker knows of it, and does about it."""

    def __init__(self, worker: Any, pool: AsyncPool, follower: Follower) -> None:
        self._worker = worker
        self._pool = pool
        self._follower = follower
        self.loaded = True  # that of the worker's own engine
        self._part_sleeps = False  # or may: some ranks, whether it is the worker's own or not

    @property
    def _leads(self) -> bool:
        return int(self._worker.rank) == 0

    def is_loaded(self, loaded: bool) -> None:
        """All engines have their memory, or none has."""
        self.loaded = loaded
        self._part_sleeps = False

    async def load(self) -> None:
        """Wake the pool, if it sleeps.  Raises as ``AsyncPool.wake``."""
        if self.loaded and not self._part_sleeps:
            return
        if self._leads:
            if roll_parts.any_asleep(await self._pool.transaction()):
                await self._pool.wake(loading=READY_SECONDS)
        else:
            await self._follower.until(lambda state: not roll_parts.any_asleep(state))
        self.is_loaded(True)

    async def end_turn(self) -> None:
        """Wake all, whatever the others wait for: worker 0 alone.  Raises as ``AsyncPool.wake``.

        Of a sync that was aborted amid its turn the next one resumes what is released.
        """
        if (await self._pool.transaction()).phase is Phase.SLEEPING:
            await self._pool.wake()

    async def offload(self) -> None:
        """Put the pool to sleep, where ROLL's file says that its trainer needs the memory.

        Raises NotReady, and as ``AsyncPool.sleep``.
        """
        if not ((self.loaded or self._part_sleeps) and await self._offloads()):
            return
        if self._leads:
            tags = roll_config.sleep_tags(self._worker)
            await roll_parts.again(lambda: self._pool.sleep(tags, loading=READY_SECONDS))
        else:  # whichever engines there are by now
            await self._follower.until(roll_parts.all_at_rest, READY_SECONDS)
        self.is_loaded(False)

    async def _offloads(self) -> bool:
        """Whether the engines are to sleep where ROLL offloads them, and can."""
        if not self._worker.pipeline_config.is_actor_infer_colocated:
            return False
        if await job.has_trainer(self._worker) is False:
            return False  # nobody needs the memory, and nobody would bring weights anew
        if (await self._pool.registry()).memory_saver is False:
            log.warning(texts.NO_MEMORY_SAVER)
            return False
        return True

    async def offload_part(self, ranks: Sequence[int]) -> None:
        """The same of the engines of these ranks, while the others serve on."""
        if not await self._offloads():
            return
        mine = int(self._worker.rank) in ranks
        self._part_sleeps = True
        if self._leads:
            tags = roll_config.sleep_tags(self._worker)
            await roll_parts.sleep(self._pool, ranks, tags, loading=READY_SECONDS)
        elif mine:
            await self._follow(sleeps=True)
        if mine:
            self.loaded = False

    async def load_part(self, ranks: Sequence[int]) -> None:
        """Wake the engines of these ranks.  Raises NotReady, and as ``AsyncPool.wake``."""
        mine = int(self._worker.rank) in ranks
        self._part_sleeps = True
        if self._leads:
            await roll_parts.wake(self._pool, ranks, loading=READY_SECONDS)
        elif mine:
            await self._follow(sleeps=False)
        if mine:
            self.loaded = True

    async def _follow(self, *, sleeps: bool) -> None:
        rank, follower, seconds = int(self._worker.rank), self._follower, READY_SECONDS
        await roll_parts.follow(self._pool, follower, rank, sleeps=sleeps, seconds=seconds)
