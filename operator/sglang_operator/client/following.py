"""A process's part in a sync that another process of its job leads (``shared``).

It follows the leader's sync and no other's: the processes of a job have one name as holder, which
no other job has (``job``).  A bucket leaves only while that very transaction stands in the Lease
and is renewed, as far as this process has seen: it looks every LOOK_SECONDS, and renews one itself
that it did not see begin.  After an abort the leader's Lease stays held against other jobs for
longer than that.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from sglang_operator import supervision
from sglang_operator.client import pausing, texts
from sglang_operator.client.calls import Json
from sglang_operator.client.confirming import confirmed
from sglang_operator.client.errors import (
    Expired,
    NotReady,
    PoolError,
    StaleEpoch,
    told,
)
from sglang_operator.client.lease import MARGIN, WATCHED_SECONDS, LeaseObservation
from sglang_operator.client.ledger import Asked, Ledger
from sglang_operator.client.registry import Engine
from sglang_operator.client.updates import open_session
from sglang_operator.weights import steps, whole
from sglang_operator.weights.lease_state import LEASE_SECONDS, WEIGHTS, Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

FOLLOW_SECONDS = 60.0  # that the leader may take to do its part
LOOK_SECONDS = 3.0  # between two looks at the Lease during a sync
# Between the processes' steps: of two at once one has to be taken again.
STAGGER_SECONDS = 0.01
PATIENCE = 10.0  # seconds to go on trying without an API server
_OBJECT_PATIENCE = 2.0  # who cannot object does not vouch either
_POLL_SECONDS = (0.05, 0.5)  # between two looks while the leader is waited for, growing


# Its payload, as soon as it may be sent.
Bucket = Callable[[], Awaitable[Json]]


class Follower:
    """One that writes into an engine of its own, in its leader's syncs."""

    def __init__(self, pool: "AsyncPool", state: Transaction) -> None:
        self._pool = pool
        self._id = ""  # the transaction that it takes part in
        self._left = state.id  # the last one that it takes part in no more
        self._changed = ""  # the last one in which it may have changed the form of weights
        self._pausing = 0  # attempts that are at it: of one that was given up something may arrive
        self._writes = Ledger()
        self._objected = ""  # the transaction in which it did, last
        self._objections: set[str] = set()  # its own there, until they are retracted
        self._attempt = Asked()  # at a model update; see give_up
        self._joining = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    @property
    def takes_part(self) -> bool:
        """Whether it has joined a sync of the leader that it has not vouched for yet."""
        return bool(self._id)

    @property
    def attempt(self) -> Asked:
        """That which goes on: what is asked for now is a part of it, and of no later one."""
        return self._attempt

    # --- what it does in a sync

    async def write(
        self, engine: Engine, epoch: str, path: str, what: object, bucket: Bucket, *, attempt: Asked
    ) -> None:
        """Write a bucket into its engine, once the leader's sync over these engines stands: those
        of this epoch, or those and what came since.

        ``what`` is equal for one that is sent again.  Raises EngineError, Expired, NotReady,
        StaleEpoch, and as ``bucket``.  The caller has entered it in the attempt, so that what is
        lost stands in the way of the commit, unless the attempt was given up.
        """
        try:
            transaction = await self._joined(engine, epoch, attempt)
        except Exception as error:
            self.require(attempt, error)
            raise

        async def payload() -> Json:
            found = await bucket()
            self.require(attempt)
            return found

        def may() -> bool:
            return attempt is self._attempt and self._over(transaction) is None

        try:
            with self._writes.update(path, what, (engine,)):
                await self._write(transaction, engine, path, await payload(), may)
        except Expired:
            raise
        except Exception as error:
            self.require(attempt, error)
            await self._object(transaction, told(error))
            raise
        self.require(attempt)

    async def made_good(self, attempt: Asked) -> None:
        """A bucket of this attempt was written: nothing may be left of what was objected to."""
        if self._id and self._objections and not attempt.lacking:
            await self._retract(self._id)

    async def vouch(self, engine: Engine) -> bool:
        """All that was to be written into the engine has arrived; whether anything was.

        Raises what is in the way of that, and Expired if the sync is over.  Whoever got no bucket
        objects: its engine holds what it held before.
        """
        attempt = self._attempt
        try:
            await attempt.settled()
        except BaseException as error:
            with contextlib.suppress(PoolError):
                await self._object_to_any(told(error))
            await self.leave()
            raise
        transaction = self._id
        if not transaction:
            with contextlib.suppress(PoolError):
                await self._object_to_any(_no_bucket(engine))
            return False
        try:
            await self._writes.settled((engine,))
        except Exception as error:
            await self._object(transaction, told(error))
            raise
        finally:
            await self.leave()
        await asyncio.sleep(engine.rank * STAGGER_SECONDS)
        try:
            attempt.vouch()
            await self._retract(transaction, vouched=[engine.instance or ""])
            attempt.vouch()
        except Expired:
            with contextlib.suppress(PoolError):  # the leader may have begun again meanwhile
                await self._object_to_any(_no_bucket(engine))
            raise
        except Exception as error:  # a bucket that came too late, as a rule
            await self._object(transaction, told(error))
            raise
        return True

    def end(self, attempt: Asked) -> None:
        """The update is over, whatever became of it: what is asked for now is part of the next."""
        if attempt is self._attempt:
            self._attempt = Asked()
            self._joining = asyncio.Lock()  # one of those that are left may have it

    async def give_up(self) -> None:
        """Take part no more, with any call of this attempt: each ends, if it still waits.

        Those who made them may have gone on with another attempt, and other engines.
        """
        self.end(self._attempt)
        await self.leave()

    def require(self, attempt: Asked, cause: Exception | None = None) -> None:
        """Raises Expired in a call of an attempt that is over."""
        if attempt is not self._attempt:
            raise Expired(texts.ROLL_GIVEN_UP, sent=cause is not None) from cause

    async def leave(self) -> None:
        """Take part no more."""
        self._left, self._id = self._id or self._left, ""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})

    async def until(
        self,
        check: Callable[[Transaction], bool],
        seconds: float | None = None,
        *,
        known: Transaction | None = None,
    ) -> Transaction:
        """Wait until the Lease, of which this is ``known``, says so.  Raises NotReady."""
        deadline = time.monotonic() + (FOLLOW_SECONDS if seconds is None else seconds)
        wait, most = _POLL_SECONDS
        state = known or await self._pool.transaction()
        while not check(state):
            left = deadline - time.monotonic()
            if left < 0:
                holder = state.holder or "nobody"
                words = texts.ROLL_FOLLOW.format(phase=state.phase.value, holder=holder)
                raise NotReady(words)
            state = await self._pool.lease.newer(state, wait, most=left)
            wait = min(wait * 2, most)
        return state

    # --- which sync

    async def _joined(self, engine: Engine, epoch: str, attempt: Asked) -> str:
        """The transaction to write in: it stands in the Lease, and the engine is paused."""

        def begun(state: Transaction) -> bool:
            self.require(attempt)
            self._pool.groups.owned(state)
            return self._begun(state)

        self.require(attempt)
        async with self._joining:
            self.require(attempt)
            if self._id and await self._goes_on():
                return self._id
            await self.leave()
            await self._writes.ended()  # nothing of an earlier sync lands on what comes now
            self._pool.lease.watch.start()
            known = await self._known()  # a sync that this does not show is a new one
            try:
                state = await self.until(begun, known=known)
            except PoolError as error:
                self.require(attempt, error)
                # Also to the one that it has vouched in: this bucket is not in it.
                with contextlib.suppress(PoolError):
                    await self._object_to_any(told(error), left=True)
                raise
            try:
                state = await self._fresh(state)
                if state.epoch not in (epoch, (await self._pool.registry()).epoch):
                    what = texts.STALE_BEFORE.format(given=epoch, epoch=state.epoch)
                    raise StaleEpoch(texts.ROLL_STALE.format(what=what))
                if WEIGHTS in state.sleeps(engine.instance):
                    state = await self._resumed(state.id, engine)
                await confirmed(self._pool, state.id, (engine,), state.epoch)
                self.require(attempt)
                await self._pause(state, engine, attempt)
            except PoolError as error:
                self.require(attempt, error)
                await self._object(state.id, told(error))
                raise
            self.require(attempt)
            self._id, self._writes = state.id, Ledger()
            if self._objected != state.id:
                self._objections.clear()
            attempt.begins()
            self._looking = self._pool.beside("the leader's Lease", self._look())
            return self._id

    async def _known(self) -> Transaction | None:
        with contextlib.suppress(PoolError):
            return await self._pool.transaction()
        return None

    def _begun(self, state: Transaction) -> bool:
        """Whether a sync of the leader stands in the Lease that this process has not left."""
        return self._stands(state) and state.id != self._left

    def _stands(self, state: Transaction) -> bool:
        own = state.holder == self._pool.holder
        return state.phase is Phase.SYNCING and state.shared and own

    async def _resumed(self, transaction: str, engine: Engine) -> Transaction:
        """The state in which the leader's sync says that the engine has memory for weights.

        The leader resumes it, after a sleep; whatever touches released memory ends the engine.
        Raises Expired if the sync is over before.
        """

        def settled(state: Transaction) -> bool:
            over = state.id != transaction or not self._begun(state)
            return over or WEIGHTS not in state.sleeps(engine.instance)

        state = await self.until(settled)
        if state.id != transaction or not self._begun(state):
            raise Expired(texts.ROLL_OVER.format(transaction=transaction, phase=state.phase.value))
        return state

    async def _fresh(self, state: Transaction) -> Transaction:
        """The state as somebody renewed it a moment ago: this process, where none was seen to.

        It may have stood there for long, its leader gone, and its time almost over for those who
        wait.  So that it is not, it is renewed in the Lease: what is written since then has as long
        as after any other renewal.  Raises Expired if the sync is over.
        """

        often = LEASE_SECONDS / 3  # as the leader renews

        def step(current: Transaction, sight: LeaseObservation) -> Transaction:
            if current.id == state.id and self._pool.lease.age() <= often:
                return current  # another follower was quicker
            return steps.joins(current, self._trainer(state.id), now=sight.now)

        if self._pool.lease.age() <= often:
            return state
        return (await self._pool.lease.step(step, patience=PATIENCE)).state

    async def _goes_on(self) -> bool:
        """Whether the transaction is still that of the leader.

        The Lease is asked only where it is not watched, and the registry has another one.
        """
        acted = (await self._pool.registry()).weights
        watched = self._pool.lease.watch.alive
        if not watched and (acted.transaction, acted.phase) != (self._id, Phase.SYNCING.value):
            with contextlib.suppress(PoolError):  # its age tells, before each bucket
                await self._pool.transaction()
        seen = self._pool.lease.seen
        return seen is not None and seen.id == self._id and self._begun(seen)

    async def _pause(self, state: Transaction, engine: Engine, attempt: Asked) -> None:
        """Nobody else does: see ``SharedSync``."""

        def may() -> bool:
            return attempt is self._attempt and self._over(state.id) is None

        calls = self._pool.calls
        run = engine.instance
        asleep = [run] if state.sleeps(run) else []
        held = [run] if state.id != self._changed and whole.still_whole(run, state) else []
        if self._pausing:  # it may have let the engine run for a moment
            await calls.delivered()
        self._pausing += 1
        try:
            mode = pausing.ABORT
            await pausing.stop(calls, [engine], mode, asleep=asleep, whole=held, allowed=may)
        finally:
            self._pausing -= 1
        if engine.features.begin_end_weight_update:
            self._changed = state.id
            await open_session(partial(calls.post, engine, allowed=may))

    # --- the fence

    async def _look(self) -> None:
        """Keep the age of the leader's last renewal known."""
        while True:
            watched = self._pool.lease.watch.alive
            await asyncio.sleep(WATCHED_SECONDS if watched else LOOK_SECONDS)
            try:
                await self._pool.transaction()
            except PoolError:
                pass  # its age tells, before each bucket
            except Exception as error:
                supervision.failed("the leader's Lease", error)

    def _over(self, transaction: str) -> Expired | None:
        """Why this transaction of the leader may be over, by this process's own clock.

        A process that stood still may find that the Lease is fresh, and another's.
        """
        seen = self._pool.lease.seen or Transaction()
        own = seen.id == transaction and seen.holder == self._pool.holder
        if seen.phase is not Phase.SYNCING or not own:
            return Expired(texts.ROLL_OVER.format(transaction=transaction, phase=seen.phase.value))
        age = self._pool.lease.age()
        if age > LEASE_SECONDS * MARGIN:
            return Expired(texts.NOT_RENEWED.format(seconds=age, detail=texts.ROLL_LEADER))
        return None

    async def _write(
        self,
        transaction: str,
        engine: Engine,
        path: str,
        payload: Json,
        may: Callable[[], bool],
    ) -> None:
        if over := self._over(transaction):
            raise over
        await self._pool.calls.post(engine, path, payload, timeout=None, allowed=may)

    # --- what it tells the leader

    async def _object(self, transaction: str, message: str) -> None:
        """Stand in the way of the commit, in words.  Who cannot does not vouch either."""

        def step(state: Transaction, _: LeaseObservation) -> Transaction:
            return steps.objection(state, self._trainer(transaction), message=message)

        if self._objected != transaction:
            self._objections.clear()
        self._objected = transaction
        self._objections.add(message)
        with contextlib.suppress(PoolError):
            await self._pool.lease.step(step, patience=_OBJECT_PATIENCE)

    async def _retract(self, transaction: str, vouched: Iterable[str] = ()) -> None:
        """Take back what this process objected, if it did, and vouch for these instances."""

        def step(state: Transaction, _: LeaseObservation) -> Transaction:
            me, own = self._trainer(transaction), state.message in self._objections
            retracts = state.message if own else ""
            return steps.vouch(state, me, instances=vouched, retracts=retracts)

        await self._pool.lease.step(step, patience=PATIENCE)
        self._objections.clear()

    async def _object_to_any(self, message: str, *, left: bool = False) -> None:
        """Object to the sync that goes on, if one does, whether or not this process joined it.

        ``left``: also if it has left it.
        """
        state = await self._pool.transaction()
        if self._begun(state) or (left and self._stands(state)):
            await self._object(state.id, message)

    def _trainer(self, transaction: str) -> steps.Trainer:
        return steps.Trainer(holder=self._pool.holder, transaction=transaction)


def _no_bucket(engine: Engine) -> str:
    return texts.NO_BUCKET.format(rank=engine.rank, engine=engine.engine, url=engine.url)
