"""A queue of pools to look at: each at most once, never twice at a time, some not before a time."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.meters import QUEUE_BUCKETS, Histogram

SPARE = 64  # entries of no use that may stand in the queue, beside as many as are of use


class WorkQueue:
    """Keys with the time from which they are due (monotonic seconds)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, PoolKey]] = []
        self._due: dict[PoolKey, float] = {}
        self._working: dict[PoolKey, float] = {}  # since when
        self._again: dict[PoolKey, float] = {}  # asked for while being worked on
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self.adds = 0
        self.waited = Histogram(QUEUE_BUCKETS)  # from being due to being in work
        self.worked = Histogram(QUEUE_BUCKETS)

    def __len__(self) -> int:
        return len(self._due) + len(self._working)

    def add(self, key: PoolKey, delay: float = 0.0) -> None:
        """Look at this pool after ``delay`` seconds, or earlier if it was to be anyway."""
        self.adds += 1
        self._add_at(key, self._clock() + max(0.0, delay))

    def _add_at(self, key: PoolKey, when: float) -> None:
        if key in self._working:
            self._again[key] = min(when, self._again.get(key, when))
            return
        if self._due.get(key, float("inf")) <= when:
            return
        self._due[key] = when
        heapq.heappush(self._heap, (when, next(self._order), key))
        if len(self._heap) > SPARE + 2 * len(self._due):
            self._tidy()
        self._changed.set()

    def _tidy(self) -> None:
        """Leave out entries whose place an earlier time took: theirs may be a week away."""
        self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)

    async def get(self) -> PoolKey:
        """The next key that is due; it is in work until ``done``."""
        while True:
            self._changed.clear()
            while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)  # an earlier time took its place
            if not self._heap:
                await self._changed.wait()
                continue
            when, _, key = self._heap[0]
            wait = when - self._clock()
            if wait <= 0:
                heapq.heappop(self._heap)
                del self._due[key]
                self._working[key] = self._clock()
                self.waited.observe(-wait)
                return key
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    def done(self, key: PoolKey) -> None:
        """The key is no longer in work; what was asked for meanwhile is due again."""
        begun = self._working.pop(key, None)
        if begun is not None:
            self.worked.observe(self._clock() - begun)
        when = self._again.pop(key, None)
        if when is not None:
            self._add_at(key, when)

    def oldest(self) -> float:
        """Seconds by which the most overdue key waits for its turn."""
        return max(0.0, self._clock() - min(self._due.values(), default=self._clock()))

    def due(self) -> int:
        """How many keys could be in work now, and wait for their turn."""
        now = self._clock()
        return sum(when <= now for when in self._due.values())

    def working_seconds(self) -> list[float]:
        """For how long each key has been in work."""
        now = self._clock()
        return [now - begun for begun in self._working.values()]
