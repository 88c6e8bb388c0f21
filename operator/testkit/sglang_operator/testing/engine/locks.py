"""The lock between requests and updates of weights: many readers or one writer, writers first.

As SGLang's srt/utils/aio_rwlock.py: an update waits for the requests that run, and requests that
come later wait for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class ReadWriteLock:
    """Readers are requests, writers are updates."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @property
    def held(self) -> bool:
        """Whether anybody has it."""
        return self._writing or self._readers > 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """For the time of a request."""
        async with self._changed:
            await self._changed.wait_for(lambda: not (self._writing or self._writers_waiting))
            self._readers += 1
        try:
            yield
        finally:
            async with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """For the time of an update."""
        async with self._changed:
            self._writers_waiting += 1
            try:
                await self._changed.wait_for(lambda: not (self._writing or self._readers))
            finally:
                self._writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            async with self._changed:
                self._writing = False
                self._changed.notify_all()
