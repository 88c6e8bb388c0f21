"""Watches that pass through the proxy, line by line, so that each can be broken while it runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum

from aiohttp import web

from sglang_operator.testing.faults.traffic import Request

Filter = Callable[[bytes], Iterable[bytes]]


class End(Enum):
    """How a watch ends: in good order, or by a reset connection."""

    CLEAN = "clean"
    RESET = "reset"


def error_line(code: int, reason: str = "InternalError", message: str = "injected") -> bytes:
    """The event by which the API server tells an error inside a watch."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return json.dumps({"type": "ERROR", "object": status}).encode()


EXPIRED = error_line(410, "Expired", "too old resource version")


class Stream:
    """One watch.  Its methods may be called from any thread."""

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.lines = 0
        self.ended = False
        self.stalled = False
        self.delay = 0.0
        self.filter: Filter | None = None
        self._loop = loop
        self._queue: asyncio.Queue[tuple[float, bytes | End]] = asyncio.Queue()

    def cut(self, end: End = End.CLEAN) -> None:
        """End the watch after what was already sent."""
        self._put(end)

    def inject(self, *lines: bytes) -> None:
        """Let these lines follow what was already sent."""
        for line in lines:
            self._put(line + b"\n")

    def inject_raw(self, chunk: bytes) -> None:
        """Let this follow, a line or not."""
        self._put(chunk)

    def _put(self, item: bytes | End) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (0.0, item))

    # --- the proxy's side

    def receive(self, line: bytes) -> None:
        """Take a line from the API server."""
        due = time.monotonic() + self.delay if self.delay else 0.0
        for kept in self.filter(line) if self.filter else (line,):
            self._queue.put_nowait((due, kept + b"\n"))

    def finish(self, end: End) -> None:
        """The API server has ended the watch."""
        self._queue.put_nowait((0.0, end))

    async def relay(self, response: web.StreamResponse, stopped: asyncio.Event) -> End:
        """Hand lines on until the watch ends; says how."""
        try:
            while True:
                due, item = await self._queue.get()
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                while self.stalled or stopped.is_set():
                    await asyncio.sleep(0.02)
                if isinstance(item, End):
                    return item
                self.lines += 1
                await response.write(item)
        finally:
            self.ended = True


async def split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines of an answer, of any length."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
