"""A sync of one job whose processes each write into engines of their own.

One of them, the leader, holds the Lease; the others follow it (``following``).  A commit opens the
gates of all engines, and the leader cannot know what became of the others' writes.  So each of them
vouches for its engines in the Lease once all that it had to write has arrived, or objects; the step
that commits is not possible before everybody has vouched (``weights.steps``).
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError, Expired, NotReady, StaleEpoch, told
from sglang_operator.client.ledger import Asked
from sglang_operator.client.registry import Engine, Registry, changes
from sglang_operator.client.sync import AsyncSync
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pausing import SyncOptions
    from sglang_operator.client.pool import AsyncPool

VOUCH_SECONDS = 60.0  # that the others may take to vouch, from when the leader is to commit
# That who objected may take to take it back: its update may have been made again just now.
RETRACT_SECONDS = 2.0
_POLL_SECONDS = (0.05, 1.0)  # between two looks, growing


class SharedSync(AsyncSync):
    """The leader's side: a sync over all engines, of which it pauses and writes into its own.

    Each of the others is paused by the process that writes into it, which opens SGLang's session
    for that as well: it changes weights in their place.  That one may have begun to
    when a pause of the leader's comes, which then waits for the bucket (SGLang 0.5.14 and newer, in
    is_pause_cond), as the bucket waits for the leader's part in the broadcast.
    ``covers``: the engines that its processes write into, where the pool has others too.
    ``registry``: as it was read just now, if it was.  ``asked``: what the trainer asks of this
    process: what it did not get here is in the way of the commit, like what the others did not.

    All that it asks of the API server, however many buckets there are and processes, is three
    writes of the Lease, and its renewals: it begins, it renews, and it commits.  The watch tells
    who has vouched, which is certain by the write that follows: it rests on that version of the
    Lease.
    """

    def __init__(
        self,
        pool: "AsyncPool",
        version: str,
        options: "SyncOptions",
        *,
        own: Engine,
        asked: Asked | None = None,
        covers: tuple[Engine, ...] | None = None,
        registry: Registry | None = None,
    ) -> None:
        super().__init__(pool, version, options, interrupts=False)
        self._shared = self._grouped = True
        self._own = own
        self._asked = asked or Asked()
        self._covers = covers
        self._given = registry
        self._fresh = self._covered

    async def _covered(self) -> Registry:
        """The registry with the engines that somebody writes into; others stay closed.

        Raises StaleEpoch if one of them is another one now, Unsupported where nothing closes those.
        """
        self._pool.lease.watch.start()
        given, self._given = self._given, None  # another time it is not new any more
        registry = given or await self._pool.fresh()
        if self._covers is None:
            return registry
        if what := changes(self._covers, registry):
            raise StaleEpoch(texts.ROLL_STALE.format(what="; ".join(what[:4])))
        registry.require_all_or_gated(self._covers)
        return registry.of(self._covers)

    def _mine(self) -> tuple[Engine, ...]:
        return (self._own,)

    async def takes_more(self) -> bool:
        """Whether what is asked for now is part of it; if not, it has ended by this.

        Once others have vouched it is not: their words are of what was written before, and they
        take part in the next sync alone.  Raises PoolError if the sync is over.
        """
        try:
            self.check()
            vouched = await self._vouched()
            self.check()  # another bucket may have ended it meanwhile
        except BaseException as error:
            await self.abort(told(error))
            raise
        if vouched:
            await self.abort(texts.ROLL_VOUCHED)
        return not vouched

    async def _vouched(self) -> bool:
        state = await self._seen()
        if state is None:
            return False  # a follower that cannot join what comes objects
        self._goes_on(state)
        return bool(state.wrote)

    async def _settled(self) -> None:
        """Also those of the others: each has vouched.  Raises NotReady."""
        await super()._settled()
        deadline = time.monotonic() + VOUCH_SECONDS
        wait, most = _POLL_SECONDS
        state = await self._unobjected(await self._seen())
        while (missing := self._missing(state)) and time.monotonic() < deadline:
            state = await self._newer(state, wait, deadline - time.monotonic())
            wait = min(wait * 2, most)
        _require(missing)

    async def _unobjected(self, state: Transaction | None) -> Transaction | None:
        """The first state without the objection that stands in this one; else that with it."""
        until = time.monotonic() + RETRACT_SECONDS
        while state is not None and state.message and (left := until - time.monotonic()) > 0:
            state = await self._newer(state, min(left, _POLL_SECONDS[0]), left)
        return state

    def _unopposed(self, state: Transaction) -> None:
        self._asked.vouch()
        _require(self._missing(state))

    async def _newer(
        self, known: Transaction | None, seconds: float, most: float
    ) -> Transaction | None:
        if known is None:
            await asyncio.sleep(seconds)
            return await self._seen()
        return await self._told(self._pool.lease.newer(known, seconds, most=most))

    async def _seen(self) -> Transaction | None:
        return await self._told(self._pool.lease.current())

    async def _told(self, state: Awaitable[Transaction]) -> Transaction | None:
        """What the Lease says; None while nobody tells.  Raises Expired where there is none."""
        try:
            return await state
        except ClusterError:
            return None  # renewal tells when that lasts too long
        except NotReady as error:
            raise Expired(texts.LEASE_DELETED, deleted=True) from error

    def _missing(self, state: Transaction | None) -> list[Engine]:
        """The others' engines that nobody vouches for yet.

        Raises NotReady if anybody objects.  Raises Expired if the sync is over: it may have ended
        before everybody vouched, and from here on engines are let run and named.
        """
        others = [engine for engine in self.engines if engine.engine != self._own.engine]
        if state is None:
            return others
        self._goes_on(state)
        if state.message:
            raise NotReady(texts.OBJECTION.format(why=state.message))
        return [engine for engine in others if engine.instance not in state.wrote]

    def _goes_on(self, state: Transaction) -> None:
        """Raises Expired unless the Lease says this very sync."""
        assert self._hold is not None
        try:
            steps.joins(state, self._hold.trainer, now=state.renewed)
        except steps.RefusedError as refused:
            raise Expired(str(refused)) from refused
        if not state.shared:  # it was edited: nobody would have to vouch
            raise Expired(texts.OVER)


def _require(missing: list[Engine]) -> None:
    """Raises NotReady for engines that nobody vouches for."""
    if missing:
        which = ", ".join(f"engine {e.rank} ({e.engine}, {e.url})" for e in missing[:8])
        raise NotReady(
            texts.NOBODY_VOUCHES.format(count=len(missing), which=which, seconds=VOUCH_SECONDS)
        )
