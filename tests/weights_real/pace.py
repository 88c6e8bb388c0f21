"""A clock that goes as fast as the machine does: its limits are not missed because others work too.

A small piece of work is done over and over.  The least time that it has taken in this run is the
machine at rest; while it takes three times as long, the clock goes at a third of its speed.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

WORK = (sys.executable, "-I", "-S", "-c", "")  # a process begins and ends
EVERY_SECONDS = 1.0
LATEST = 15  # pieces by which it goes


class Pace:
    """An asynchronous context manager."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=LATEST)
        self._least = float("inf")
        self._at = time.monotonic()
        self._passed = 0.0  # until then
        self.slowest = 1.0  # how many times slower than at rest, at the most

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def now(self) -> float:
        """Seconds of this clock."""
        return self._passed + (time.monotonic() - self._at) / self.slower

    @property
    def slower(self) -> float:
        """How many times slower than at rest the machine is now."""
        if not self._took:
            return 1.0
        return max(1.0, sum(self._took) / len(self._took) / self._least)

    def took(self, seconds: float) -> None:
        """A piece of work has taken so long."""
        at = time.monotonic()
        self._passed += (at - self._at) / self.slower
        self._at = at
        self._took.append(seconds)
        self._least = min(self._least, seconds)
        self.slowest = max(self.slowest, self.slower)

    async def _work(self) -> None:
        while True:
            begun = time.monotonic()
            process = await asyncio.create_subprocess_exec(*WORK)
            try:
                await process.wait()
            finally:
                if process.returncode is None:  # it was cancelled
                    process.kill()
                    await process.wait()
            self.took(time.monotonic() - begun)
            await asyncio.sleep(EVERY_SECONDS)
