"""Reads what engines said at their end, in turns with all other work of the loop."""

import asyncio
import time
from collections.abc import Iterable

from sglang_operator.cluster.stores import PodEntry
from sglang_operator.observed import ends

# Seconds for which ends are read without a break, of all pools; and for which one pass does.
TURN_SECONDS = 0.02
PASS_SECONDS = 0.25


class EndReader:
    """One for all pools: in each round of the loop only one of them reads."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def read(self, pods: Iterable[PodEntry]) -> bool:
        """Read the ends of these pods, for a while; whether all of them are read."""
        waiting = list(ends.unread(entry.pod for entry in pods))
        until = time.monotonic() + PASS_SECONDS
        while waiting and time.monotonic() < until:
            async with self._turn:
                pause = time.perf_counter() + TURN_SECONDS
                while waiting:
                    _ = waiting.pop().reading
                    if time.perf_counter() > pause:
                        break
                await asyncio.sleep(0)
        return not waiting
