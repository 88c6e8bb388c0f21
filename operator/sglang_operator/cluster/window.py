"""How many requests may be under way at once: as many as the API server takes gladly.

Grows by one for each full window of successes, halves when the server is overloaded (429, 5xx,
no answer) down to a few, never above the point where more in flight gained nothing
(``runtime.md`` A8.7).  One window for all pools, first come first served, so that no pool starves
another.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# An API server that has nothing else to do gains nothing from more than 32 in flight
# (``runtime.md`` B3); one that scheduler, controllers and kubelets keep busy creates a tenth more
# pods with 64 (``make bench``).  Each costs a connection.  A pool's own creates begin with one.
START = LIMIT = 64.0
# However overloaded the server: one request that is never answered must not hold up all pools.
LEAST = 4.0


class Window:
    def __init__(self, start: float = START, limit: float = LIMIT) -> None:
        self._size = start
        self._limit = limit
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = 0.0
        self._shrunk_at = 0.0

    @property
    def size(self) -> int:
        """Requests that may be under way now."""
        return int(self._size)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place in the window for one request; not before a pause that was asked for is over."""
        if self._in_flight >= self.size:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._hand_on()
                raise
        else:
            self._in_flight += 1
        try:
            while (pause := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            yield
        finally:
            self._hand_on()

    def _hand_on(self) -> None:
        """Give the freed place to whoever waited longest, and more if the window grew."""
        self._in_flight -= 1
        while self._waiting and self._in_flight < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    def succeeded(self) -> None:
        """A request went through."""
        self._size = min(self._limit, self._size + 1 / self._size)

    def congested(self, retry_after: float | None) -> None:
        """The server is overloaded; one halving for the whole window that was under way."""
        now = time.monotonic()
        if retry_after:
            self._paused_until = max(self._paused_until, now + min(retry_after, 30.0))
        if now - self._shrunk_at > 1.0:
            self._size = max(LEAST, self._size / 2)
            self._shrunk_at = now
