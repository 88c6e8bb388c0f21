"""The newest registry, kept by a watch: whoever waits for a change is woken by it."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from sglang_operator import supervision
from sglang_operator.backoff import Backoff
from sglang_operator.client import texts
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import PoolError
from sglang_operator.client.registry import Registry

RETRY = Backoff(0.2, 5.0, jitter=0.5)  # after a watch that broke

log = logging.getLogger(__name__)


class Watcher:
    """The registry as last seen.  The watch starts with the first use, and ends with ``close``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._latest: Registry | None = None
        self._changed = asyncio.Event()
        self.trouble = ""  # why the registry cannot be followed at present
        self._task: asyncio.Task[None] | None = None

    async def fresh(self) -> Registry:
        """The registry as it stands at the API server now.  Raises PoolError."""
        if await self._look():
            await self.close()  # the watch waits for what will not come again
        self._start()
        assert self._latest is not None
        return self._latest

    async def _look(self) -> bool:
        """Read the registry; whether the API server has gone back in time.

        What is read is never older than what was seen before, unless the server's data were
        restored from a backup: then that is what there is, and what the watch still told meanwhile
        is of before.  Raises PoolError.
        """
        before = self._latest
        registry = await self._cluster.registry()
        if before is None or registry.resource_version >= before.resource_version:
            self._note(registry)
            return False
        assert self._latest is not None
        if self._latest.resource_version >= before.resource_version:
            self._take(registry)
        else:  # somebody who read beside us has gone back already
            self._note(registry)
        return True

    async def latest(self) -> Registry:
        """The registry as last seen.  Raises PoolError if it was never seen and cannot be read."""
        return await self.fresh() if self._latest is None else self._latest

    async def changes(self) -> AsyncIterator[Registry]:
        """The registry now, and again after each change; what came in between may be left out."""
        seen = await self.latest()
        while True:
            yield seen
            while self._latest is seen or self._latest is None:
                await self._changed.wait()
            seen = self._latest

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _note(self, registry: Registry) -> None:
        known = self._latest
        if known is not None and registry.resource_version <= known.resource_version:
            return
        self._take(registry)

    def _take(self, registry: Registry) -> None:
        self._latest = registry
        self._changed.set()
        self._changed = asyncio.Event()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(
                supervision.kept("registry watch", self._follow), name="registry watch"
            )

    async def _follow(self) -> None:
        try:
            await self._run()
        except Exception as error:
            self._trouble(f"unexpected {type(error).__name__}: {error}")
            raise

    def _trouble(self, detail: str) -> None:
        if detail and detail != self.trouble:
            log.warning(texts.NOT_FOLLOWED.format(detail=detail))
        self.trouble = detail

    async def _run(self) -> None:
        tries, read = 0, True
        while True:
            try:
                if not read:  # what happened meanwhile is read, not assumed
                    await self._look()
                    tries = 0
                    self._trouble("")
                read = False
                assert self._latest is not None
                async for registry in self._cluster.watch(self._latest.resource_version):
                    self._note(registry)
                    tries = 0
                    self._trouble("")
            except PoolError as error:
                self._trouble(str(error))
                await asyncio.sleep(RETRY.pause(tries, random.random()))
                tries += 1
