"""A watch of the Lease: who waits for others' steps need not ask for them again and again.

What it tells may have stood there for a while: it wakes, and shows what stands there, but that the
Lease was renewed a moment ago is only known from a request that left before (``WeightsLease.age``).
Where the identity may not watch Leases, as by a Role of before, there is none, and one asks.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from sglang_operator import supervision
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import ClusterError

RETRY_SECONDS = 0.5  # after a watch that broke, doubling
MAX_RETRY_SECONDS = 10.0
REFUSED_SECONDS = 300.0  # until the Role may be another
_REFUSED = (403, 404, 405)

log = logging.getLogger(__name__)

Told = Callable[[Mapping[str, Any]], None]


class LeaseWatch:
    """One watch, from the first time that somebody waits until ``close``."""

    def __init__(self, cluster: Cluster, told: Told, since: Callable[[], int]) -> None:
        self._cluster = cluster
        self._told = told
        self._since = since  # the newest version that is known
        self._happened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.alive = False  # whether what happens is told

    def start(self) -> None:
        """Begin, if it has not."""
        if self._task is None:
            self._task = asyncio.create_task(
                supervision.kept("lease watch", self._follow), name="lease watch"
            )

    async def happened(self, seconds: float) -> None:
        """Wait until it tells something, or that it does not any more; for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._turns(alive=False)

    async def _follow(self) -> None:
        wait = RETRY_SECONDS
        while True:
            refused = False
            try:
                async for lease in self._cluster.watch_lease(self._since(), self._begins):
                    wait = RETRY_SECONDS
                    self._told(lease)
                    self._wake()
            except ClusterError as error:
                refused = error.status in _REFUSED
                log.debug("watch of the Lease: %s", error)
            finally:
                self._turns(alive=False)
            pause = REFUSED_SECONDS if refused else wait
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            wait = min(wait * 2, MAX_RETRY_SECONDS)

    def _begins(self) -> None:
        self._turns(alive=True)

    def _turns(self, *, alive: bool) -> None:
        self.alive = alive
        self._wake()

    def _wake(self) -> None:
        self._happened.set()
        self._happened = asyncio.Event()
