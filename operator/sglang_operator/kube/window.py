"""How many requests may be under way at once: as many as the API server takes gladly.

Grows by one for each full window of successes, halves when the server is overloaded (429, 5xx,
no answer) down to a few, never above the point where more in flight gained nothing
(explanation/kubernetes.md).

Each user of it has one for all pools (their writes, their gates, Events, engines that are asked),
and each namespace has its turn in it.  An admission webhook makes the requests of one namespace
slow, or fail: that is counted where it arises.  A request that is slow gives its place to others
and is from then on its namespace's own burden, which may have few of such; failures shrink the
namespace's share, and the whole only if it is the server's fault.  Who was told to wait does so
without a place.
"""

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# An API server that has nothing else to do gains nothing from more than 32 in flight
# (explanation/kubernetes.md); one that scheduler, controllers and kubelets keep busy creates a
# tenth more pods with 64 (``make bench``).  Each costs a connection.  A pool's own creates begin
# with one.
START = LIMIT = 64.0
# However overloaded the server: one request that is never answered must not hold up all pools.
LEAST = 4.0
# A request that has no answer after so long gives its place to others.
SLOW_SECONDS = 0.5
# So many of them a namespace may have, and all namespaces together.
SLOW_OF_ONE = 4
SLOW_OF_ALL = 128
# Who had a success within so long shows that the server itself is well.
WELL_SECONDS = 5.0
SHRINK_SECONDS = 1.0
PAUSE_SECONDS = 30.0


@dataclass(slots=True)
class _Share:
    """One namespace's part of the window."""

    limit: float
    counted: int = 0  # under way, in places of the window
    slow: int = 0  # under way, beside it
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    well_at: float = float("-inf")
    shrunk_at: float = float("-inf")
    paused_until: float = float("-inf")

    @property
    def idle(self) -> bool:
        return not (self.counted or self.slow or self.waiting)


class Window:
    def __init__(self, start: float = START, limit: float = LIMIT) -> None:
        self._size = start
        self._limit = limit
        self._counted = 0
        self._slow = 0
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        # Who waits, by group, in the order of their turns: whose request goes out goes to the end.
        self._waiting: OrderedDict[str, OrderedDict[str, _Share]] = OrderedDict()
        self._paused_until = float("-inf")
        self._shrunk_at = float("-inf")
        self._alarm: asyncio.TimerHandle | None = None  # when the next pause of who waits is over

    @property
    def size(self) -> int:
        """Requests that may be under way now."""
        return int(self._size)

    @asynccontextmanager
    async def slot(self, namespace: str = "", group: str | None = None) -> AsyncIterator[None]:
        """A place in the window for one request; not before a pause that was asked for is over.

        ``group``: those that have one turn together, however many they are, such as what is one
        namespace's where ``namespace`` is a part of it; without it the namespace has its own.
        """
        share = self._share(namespace)
        if self._counted < self.size and self._has_room(share):
            self._take(share)
        else:
            await self._turn(namespace, share, namespace if group is None else group)
        waited_out = False

        def give_way() -> None:
            nonlocal waited_out
            waited_out = True
            share.slow += 1
            self._slow += 1
            self._leave(share)

        slow = asyncio.get_running_loop().call_later(SLOW_SECONDS, give_way)
        try:
            yield
        finally:
            slow.cancel()
            if waited_out:
                share.slow -= 1
                self._slow -= 1
                self._hand_on()
            else:
                self._leave(share)
            self._forget_idle(namespace)

    async def _turn(self, namespace: str, share: _Share, group: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        share.waiting.append(turn)
        self._waiting.setdefault(group, OrderedDict())[namespace] = share
        self._look_again(share)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(share)
            raise  # a turn that nobody takes any more is passed over

    def _share(self, namespace: str) -> _Share:
        share = self._shares.get(namespace)
        if share is None:
            share = self._shares[namespace] = _Share(self._limit)
        return share

    def _has_room(self, share: _Share) -> bool:
        """Whether the namespace may have one more under way."""
        if self._pause(share) > 0:
            return False
        if share.slow and (share.slow >= SLOW_OF_ONE or self._slow >= SLOW_OF_ALL):
            return False
        return share.counted + share.slow < int(share.limit)

    def _take(self, share: _Share) -> None:
        self._counted += 1
        share.counted += 1

    def _leave(self, share: _Share) -> None:
        self._counted -= 1
        share.counted -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        """Give free places to who waits: a namespace after the other, and of each the first."""
        while self._counted < self.size and (turn := self._next()):
            turn.set_result(None)

    def _look_again(self, share: _Share) -> None:
        """Nobody leaves a place when the pause of one who waits ends: the clock tells."""
        pause = self._pause(share)
        if pause <= 0:
            return
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if self._alarm.when() <= loop.time() + pause:
                return  # it sees then that this one has still to wait
            self._alarm.cancel()
        self._alarm = loop.call_later(pause, self._pause_is_over)

    def _pause_is_over(self) -> None:
        self._alarm = None
        self._hand_on()
        for share in self._all_waiting():
            self._look_again(share)

    def _next(self) -> asyncio.Future[None] | None:
        """Whose turn it is; his place is taken already."""
        for group, shares in list(self._waiting.items()):
            turn = self._next_of(shares)
            if not shares:
                del self._waiting[group]
            elif turn is not None:
                self._waiting.move_to_end(group)
            if turn is not None:
                return turn
        return None

    def _next_of(self, shares: OrderedDict[str, _Share]) -> asyncio.Future[None] | None:
        for namespace, share in list(shares.items()):
            if not self._has_room(share):
                continue
            del shares[namespace]
            while share.waiting:
                turn = share.waiting.popleft()
                if not turn.done():
                    self._take(share)
                    if share.waiting:
                        shares[namespace] = share
                    return turn
        return None

    def _all_waiting(self) -> Iterator[_Share]:
        return itertools.chain.from_iterable(shares.values() for shares in self._waiting.values())

    def _pause(self, share: _Share) -> float:
        return max(self._paused_until, share.paused_until) - time.monotonic()

    def _forget_idle(self, namespace: str) -> None:
        """Nothing is to be remembered of a namespace that is well."""
        now = time.monotonic()
        self._shares.move_to_end(namespace)
        for name, other in list(itertools.islice(self._shares.items(), 2)):
            well = other.limit >= self._limit and other.well_at < now - WELL_SECONDS
            if other.idle and well and other.paused_until < now:
                del self._shares[name]
            else:
                self._shares.move_to_end(name)

    # --- what came of requests

    def succeeded(self, namespace: str = "") -> None:
        """A request went through."""
        self._size = min(self._limit, self._size + 1 / self._size)
        share = self._share(namespace)
        share.limit = min(self._limit, share.limit + 1 / share.limit)
        share.well_at = time.monotonic()

    def congested(self, retry_after: float | None) -> None:
        """The server is overloaded; one halving for the whole window that was under way."""
        now = time.monotonic()
        if retry_after:
            self._paused_until = max(self._paused_until, now + min(retry_after, PAUSE_SECONDS))
            for share in self._all_waiting():
                self._look_again(share)
        if now - self._shrunk_at > SHRINK_SECONDS:
            self._size = max(LEAST, self._size / 2)
            self._shrunk_at = now

    def failed(self, namespace: str, retry_after: float | None = None) -> None:
        """Something that the namespace's requests meet fails: a webhook, a quota's controller."""
        now, share = time.monotonic(), self._share(namespace)
        if retry_after:
            share.paused_until = max(share.paused_until, now + min(retry_after, PAUSE_SECONDS))
            if share.waiting:
                self._look_again(share)
        if now - share.shrunk_at > SHRINK_SECONDS:
            share.limit = max(LEAST, share.limit / 2)
            share.shrunk_at = now

    def unexplained(self, namespace: str, retry_after: float | None = None) -> None:
        """There was no answer, or an error that does not say whose fault it is: the server's,
        unless others have had their answers."""
        self.failed(namespace, retry_after)
        since = time.monotonic() - WELL_SECONDS
        if not any(
            share.well_at > since for name, share in self._shares.items() if name != namespace
        ):
            self.congested(retry_after)
