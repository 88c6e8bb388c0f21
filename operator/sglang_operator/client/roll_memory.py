"""The memory of the engines, as ROLL's workers have the pool sleep and wake.

Worker 0 does it, for all of them, and the others wait until it is done.
"""

import logging
from collections.abc import Sequence
from typing import Any

from sglang_operator.client import roll_config, texts
from sglang_operator.client.errors import NotReady
from sglang_operator.client.following import Follower
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.roll_groups import READY_SECONDS
from sglang_operator.weights.lease_state import Phase, Transaction

log = logging.getLogger(__name__)


class RollMemory:
    """What one worker knows of it, and does about it."""

    def __init__(self, worker: Any, pool: AsyncPool, follower: Follower) -> None:
        self._worker = worker
        self._pool = pool
        self._follower = follower
        self.loaded = True  # that of the worker's own engine

    @property
    def _leads(self) -> bool:
        return int(self._worker.rank) == 0

    def is_loaded(self, loaded: bool) -> None:
        """All engines have their memory, or none has."""
        self.loaded = loaded

    async def load(self) -> None:
        """Wake the pool, if it sleeps.  Raises as ``AsyncPool.wake``."""
        if self.loaded:
            return
        if self._leads:
            if (await self._pool.transaction()).released:
                await self._pool.wake()
        else:
            await self._follower.until(lambda state: not state.released)
        self.is_loaded(True)

    async def offload(self) -> None:
        """Put the pool to sleep, where ROLL's file says that its trainer needs the memory.

        Raises NotReady, and as ``AsyncPool.sleep``.
        """
        if not (self._worker.pipeline_config.is_actor_infer_colocated and self.loaded):
            return
        if (await self._pool.registry()).memory_saver is False:
            log.warning(texts.NO_MEMORY_SAVER)
            return
        if self._leads:
            await self._sleep(roll_config.sleep_tags(self._worker))
        else:  # whichever engines there are by now
            await self._follower.until(_at_rest, READY_SECONDS)
        self.is_loaded(False)

    async def _sleep(self, tags: Sequence[str]) -> None:
        """Also of an engine that came back meanwhile: it sleeps once it has loaded its model."""
        for last in (False, False, True):
            try:
                await self._pool.sleep(tags, loading=READY_SECONDS)
                return
            except NotReady as error:
                if last:
                    raise
                log.warning("%s", error)


def _at_rest(state: Transaction) -> bool:
    """Whether the pool sleeps, and nothing is on its way to an engine any more."""
    return state.phase is Phase.SLEEPING and not state.at_work
