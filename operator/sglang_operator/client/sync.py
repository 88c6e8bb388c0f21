"""One sync of weights as a transaction over the engines of one epoch.

The order, and why (explanation/weights.md):

1. *begin* in the Lease, and wait until the operator has told of the engines since.  Gates stay as
   they are.
2. *pause* every engine, before the first byte is written: a request that comes through an open
   gate, or over a connection opened earlier, waits in the engine.
3. the trainer's own updates.
4. *continue* every engine, while the Lease is still held.  Were it given back first, the next
   trainer could have paused the same engines already, and this would set its half-written weights
   free.  Every engine holds the whole new version here, so what it answers is right already.
   Where gates were open before, clients have the first such answer before the commit.
5. *commit*: the operator opens the gates of the covered instances; with the gate ``Committed`` it
   closes all others.

An error *aborts*: gates close, unless nothing was sent yet (``abort``).  Before 4, **engines stay
paused**: what they hold may be half of two versions, and requests that wait in them would be
answered from it.  They wait on; the next sync writes everything anew and lets them go.  The same
holds where the trainer dies: nobody continues its engines, the Lease expires, and the operator
closes the gates.  From 4 on those that were let go on run, and hold the whole new version behind
the gates that close.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sglang_operator import supervision
from sglang_operator.client import beside, pausing, texts, turns
from sglang_operator.client.confirming import confirmed
from sglang_operator.client.errors import (
    ClusterError,
    EngineError,
    Expired,
    PoolError,
    StaleEpoch,
    Unsupported,
    told,
)
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.lease import LeaseObservation
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.client.reaching import as_said, forgets_images, reach
from sglang_operator.client.registry import Engine, Registry, changes
from sglang_operator.client.updates import Updates
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

PATIENCE = 10.0  # seconds to go on trying without an API server
ABORT_PATIENCE = 2.0  # an abort that cannot be told by then stays owed to the Lease
# How long an engine that does not answer is waited for to be seen to have ended: a kubelet told of
# containers killed outright after 1.0 s, and of their pods' phase after 2.1 s.
BLAME_SECONDS = 5.0
# How long a sync goes on while nobody can see whether its engines are the same.
BLIND_SECONDS = 10.0
BLIND_POLL_SECONDS = 0.5

T = TypeVar("T")


class _WaitedError(Exception):
    """Another held the Lease meanwhile, and the engines were looked at before."""


class AsyncSync(Updates):
    """A sync; an asynchronous context manager that commits at the end, or aborts on an error.

    Once the registry tells that an engine has restarted under it, or the Lease is lost, every call
    raises :class:`StaleEpoch` or :class:`Expired`, one that waits at once; in a task, the body of
    ``async with`` is interrupted too.  While no operator writes the registry an end is not seen:
    such a commit covers an engine that is gone, and the gate of the next one stays closed.
    """

    def __init__(
        self,
        pool: "AsyncPool",
        version: str,
        options: SyncOptions,
        *,
        epoch: str | None = None,
        interrupts: bool = True,
    ) -> None:
        super().__init__()
        self._pool = pool
        pool.syncs.add(self)
        self._fresh = pool.fresh  # the registry, with the engines of this sync
        self._options = options
        self._given_epoch = epoch
        self._interrupts = interrupts
        self.version = version
        self.engines: tuple[Engine, ...] = ()
        self.registry: Registry | None = None
        self._hold: LeaseHold | None = None
        self._before = Transaction()  # as this sync found the Lease
        self._state = Transaction()  # as this sync left the Lease: nobody else may change it
        self._watch: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._body: asyncio.Task[Any] | None = None
        self._touched = False  # whether anything may have been sent to an engine
        self._shared = False  # whether other processes write too
        self._interrupted = False
        self._over = False

    # --- the transaction

    async def begin(self) -> None:
        """Take the Lease over the engines that are up now, and pause them.

        Raises NotReady, StaleEpoch, Held, Unsupported, EngineError or ClusterError.
        """
        if self._over or self._hold is not None:
            raise Unsupported(texts.BEGUN_BEFORE)
        await turns.before_a_sync(self._pool, self._options.wait)
        await self._find()
        try:
            await self._begin()
            self._watch = asyncio.create_task(self._stale(), name="stale epoch")
            await self._confirmed()
            await self._pause()
            await self._resume({lease_state.WEIGHTS} & set(self._state.released))
        except BaseException as error:
            await self.abort(told(error))
            raise

    async def _find(self) -> None:
        """The engines that are up now.  Raises as ``begin``."""
        registry = await self._fresh()
        registry.require_for_sync()
        if self._given_epoch is not None and self._given_epoch != registry.epoch:
            words = texts.STALE_BEFORE.format(given=self._given_epoch, epoch=registry.epoch)
            raise StaleEpoch(words)
        self.registry, self.engines = registry, registry.engines
        for version, features in registry.features.items():
            pausing.check(self._options.pause, features, version)
        await reach(self._pool, registry)

    async def _begin(self) -> None:
        """Over the engines that are up once the Lease is free: others may be, after a wait."""
        assert self.registry is not None
        until = time.monotonic() + self._options.wait
        while True:
            try:
                left = max(0.0, until - time.monotonic())
                self._state = await self._take(self.registry, left)
            except _WaitedError:
                await self._find()
            else:
                return

    async def _confirmed(self) -> None:
        """The engines are still where the registry says; from here on they may be changed."""
        assert self._hold is not None and self.registry is not None
        transaction, epoch = self._hold.trainer.transaction, self.registry.epoch
        found = await self._guarded(confirmed(self._pool, transaction, self.engines, epoch))
        # Who runs beside them may be others by now, and an address another pool's.
        self.registry = found
        await self._guarded(as_said(self._pool, self._mine(), keyless=False))
        await self._guarded(forgets_images(self._pool, self.engines))
        self._touched = True

    async def _take(self, registry: Registry, wait: float) -> Transaction:
        """The Lease, taken.  Raises ``_WaitedError`` once it is free, if it was not at first."""
        trainer = self._pool.trainer(self._options.duration)
        hold = LeaseHold(self._pool.lease, trainer, self._lose)
        waited: list[bool] = []

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            self._pool.turn.check()
            if self._over:
                raise Expired(texts.OVER)
            beside.all_clear(registry.present, state)
            try:
                state = self._with_groups(state, sight.now)
                if state.id != trainer.transaction:  # else it was written, and nobody said so
                    self._before = state
                begun = steps.begin(
                    self._pool.sleeper.idle(state),
                    trainer,
                    epoch=registry.epoch,
                    version=self.version,
                    now=sight.now,
                    seen=sight.seen,
                    engines=[e.instance for e in registry.engines if e.instance],
                    running=registry.running,
                    shared=self._shared,
                )
            except steps.RefusedError:
                waited.append(True)
                raise
            if waited:
                raise _WaitedError
            return begun

        try:
            state = await hold.take(step, wait=wait, patience=PATIENCE)
        except (asyncio.CancelledError, ClusterError):
            self._hold = hold  # its write may have come through: it is aborted
            raise
        self._hold = hold
        await self._pool.sleeper.stop()  # its Lease, if it had one, is this sync's now
        hold.start()
        return state

    async def finish(self) -> None:
        """Let the engines go on, and commit.  Raises PoolError; then the sync is aborted.

        Waits for updates under way; one that failed and was not made good aborts: see Ledger.
        """
        try:
            await self._guarded(self._settled())
            await self._guarded(self._pool.calls.delivered())  # what was cancelled and made again
            await self.end_weight_update()
            await self._resume(set(self._state.released))
            if self._options.label:
                payload = {"new_version": self.version, "abort_all_requests": False}
                names_it = [e for e in self.engines if e.features.weight_version_flag]
                await self.call("/update_weight_version", payload, engines=names_it)
            # The trainer may have let something run in between: the commit vouches for caches too.
            # What runs for a moment now has the new weights, and their name.
            calls, mode, may = self._pool.calls, self._options.pause, self._may_write
            whole = [engine.instance for engine in self.engines]
            drained = pausing.drain(calls, self.engines, mode=mode, whole=whole, allowed=may)
            await self._guarded(drained)
            assert self._hold is not None
            # The Lease is asked, not only the clock: another may hold it already.  It cannot be the
            # commit that asks: others would hold the Lease while these engines are let go on.
            self._unopposed(await self._guarded(self._hold.renew()))
            self._writes.vouch(self._mine())
            # However the pause came: a sleep or an abort before pauses them too.
            goes_on = [engine for engine in self.engines if engine.features.pause]
            limit = self._hold.left()
            await self.call("/continue_generation", {}, timeout=limit, engines=goes_on)
            await self._guarded(self._commit())
        except BaseException as error:
            await self.abort(told(error))
            raise
        await self._close()

    async def _settled(self) -> None:
        """Every update is made: none is under way, none failed, none is missing."""
        await self._writes.settled(self._mine())

    def _unopposed(self, state: Transaction) -> None:
        """Nobody objects in the Lease, as it is when the engines are to go on."""

    async def _commit(self) -> None:
        assert self._hold is not None
        trainer = self._hold.trainer
        covered = [engine.instance for engine in self.engines if engine.instance]
        wrote = [e.instance for e in self._writes.written(self.engines) if e.instance]

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            path, now, state = self.checkpoint, sight.now, self._with_groups(state, sight.now)
            return steps.commit(
                state, trainer, instances=covered, wrote=wrote, now=now, checkpoint=path
            )

        await self._hold.step(step, patience=self._hold.left())

    async def abort(self, message: str) -> None:
        """End the sync without a commit: gates close, paused engines stay so.  Never raises.

        Before it has sent anything to them, all stays as it was (``steps.withdraw``), unless
        engines slept, somebody else had begun, or other processes share it: then it is an abort.
        """
        if self._over:
            return
        self._over = True
        with contextlib.suppress(PoolError):  # it is owed
            if self._hold is not None:
                await self._pool.to_its_end(self._given_up(self._hold, message))
        await self._close()

    async def _given_up(self, hold: LeaseHold, message: str) -> None:
        """Others may begin once nothing of this sync can reach an engine any more."""
        await self._pool.calls.delivered()
        await self._close()
        end = hold.abort if self._touched else partial(hold.withdraw, self._before)
        await end(message, patience=ABORT_PATIENCE)

    # --- across processes: one begins, another ends

    async def detach(self) -> None:
        """Leave the sync as it is, to be ended by ``attach`` before its duration is over.

        Updates that failed, or do not end, abort it as in ``finish``.  Raises Expired if somebody
        has ended it: there is nothing to attach to.
        """
        try:
            await self._guarded(self._writes.settled())
            await self._guarded(self._pool.calls.delivered())
            await self.end_weight_update()  # the process that goes on knows nothing of it
            assert self._hold is not None
            await self._guarded(self._hold.renew())  # what is owed passes with its transaction
            await self._guarded(self._hold.rest(patience=PATIENCE))
        except BaseException as error:
            await self.abort(told(error))
            raise
        await self._close()

    async def attach(self) -> None:
        """Go on with the sync that this holder began and left, in a transaction of its own.

        Raises Expired if there is none, or its process died at it; Held while another is at it;
        StaleEpoch if engines restarted since: then it is aborted.
        """
        found = self._begun(await self._pool.lease.read())
        registry = await self._pool.fresh()
        if registry.epoch == found.epoch:
            await reach(self._pool, registry, texts.UNREACHED_LATER)
        trainer = self._pool.trainer(found.duration, given=False)
        hold = LeaseHold(self._pool.lease, trainer, self._lose)

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            # Who stood still meanwhile may find another sync of its holder than it was to end.
            if self._over or self._begun(state).id != found.id:
                raise Expired(texts.ANOTHER_BEGUN.format(holder=state.holder, found=found.id))
            return steps.attach(state, trainer, now=sight.now, seen=sight.seen)

        self._touched = True
        self._state = state = await hold.take(step, wait=0, patience=PATIENCE)
        self._hold = hold
        # The checkpoint in the Lease is that of the last commit, of other weights.
        self.version, self.checkpoint = state.target_version, ""
        self._writes.elsewhere = True
        self.registry, self.engines = registry, registry.engines
        hold.start()
        self._watch = asyncio.create_task(self._stale(), name="stale epoch")
        try:
            if registry.epoch != state.epoch:
                words = texts.STALE_BEFORE.format(given=state.epoch, epoch=registry.epoch)
                raise StaleEpoch(words)
            await self._confirmed()
        except BaseException as error:
            await self.abort(told(error))
            raise

    def _begun(self, state: Transaction) -> Transaction:
        """This state, if a sync of this holder stands in it; else raises Expired."""
        if state.holder == self._pool.holder and state.phase is Phase.SYNCING:
            if lease_state.WEIGHTS in state.released:
                raise Unsupported(texts.ATTACH_ASLEEP.format(holder=state.holder))
            return state
        phase, found = state.phase.value, state.holder or "nobody"
        raise Expired(texts.NOT_BEGUN.format(holder=self._pool.holder, phase=phase, found=found))

    async def __aenter__(self) -> Self:
        await self.begin()
        self._body = asyncio.current_task() if self._interrupts else None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        body, self._body = self._body, None
        # As asyncio.timeout: our own interruption becomes its reason, anybody else's stays.
        ours = self._interrupted and body is not None and body.uncancel() == 0
        if kind is None:
            await self.finish()
        elif ours and kind is asyncio.CancelledError:
            reason = self._lost.exception()
            assert reason is not None
            await self.abort(told(reason))
            raise reason from error
        else:
            await self.abort(told(error))

    async def _close(self) -> None:
        self._over = True
        if self._watch is not None:
            self._watch.cancel()
        if self._hold is not None:
            await self._hold.stop()

    # --- whether it still holds

    def check(self) -> None:
        """Raises StaleEpoch or Expired if the sync is over: call it between long steps."""
        if self._lost.done():
            reason = self._lost.exception()
            assert reason is not None
            raise reason
        if self._over or self._hold is None:
            raise Expired(texts.OVER)
        if self._hold.over is not None:
            raise self._hold.over
        if not self._hold.alive():
            seconds, detail = self._hold.margin, "this process stood still"
            raise Expired(texts.NOT_RENEWED.format(seconds=seconds, detail=detail))

    def _may_write(self) -> bool:
        """The fence, asked as each request to an engine leaves."""
        hold = self._hold
        return hold is not None and hold.alive() and not self._over and not self._lost.done()

    async def lost(self) -> None:
        """Wait until the sync is lost, and raise why: for trainers with waits of their own."""
        await asyncio.shield(self._lost)

    def when_lost(self, call: Callable[[PoolError], None]) -> None:
        """Call this once, in the loop's thread, if the sync is lost."""

        def tell(lost: asyncio.Future[None]) -> None:
            reason = None if lost.cancelled() else lost.exception()
            if isinstance(reason, PoolError):
                try:
                    call(reason)
                except Exception as error:
                    supervision.failed("on_lost", error)

        self._lost.add_done_callback(tell)

    def _lose(self, reason: PoolError) -> None:
        if self._lost.done():
            return
        self._lost.set_exception(reason)
        self._lost.exception()  # whoever asks gets it; nobody has to
        if self._body is not None and not self._over:
            self._interrupted = True
            self._body.cancel()

    async def _stale(self) -> None:
        """Watch the registry until a covered engine is not the same any more."""
        seen, trouble = time.monotonic(), ""
        while True:
            try:
                async for registry in self._pool.changes():
                    if self._compare(registry):
                        return
                    seen = time.monotonic()
            except Exception as error:
                detail = f"{type(error).__name__}: {error}"
                if detail != trouble:
                    supervision.failed("stale epoch", error)
                trouble = detail
            blind = time.monotonic() - seen
            if blind > BLIND_SECONDS:
                words = texts.BLIND.format(seconds=blind, detail=trouble, version=self.version)
                self._lose(StaleEpoch(words))
                return
            await asyncio.sleep(BLIND_POLL_SECONDS)

    def _compare(self, registry: Registry) -> bool:
        """Whether the sync is lost, because the registry names other engines than it covers."""
        changed = changes(self.engines, registry)
        if changed:
            what = "; ".join(changed[:4])
            self._lose(StaleEpoch(texts.STALE_DURING.format(what=what, version=self.version)))
        return bool(changed)

    async def _guarded(self, awaitable: Awaitable[T]) -> T:
        """Await it, unless the sync is lost before: then that is raised, and it is cancelled."""
        task = asyncio.ensure_future(awaitable)
        try:
            self.check()
            either: set[asyncio.Future[Any]] = {task, self._lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.check()
            return await task
        except EngineError as error:
            await self._blame(error)
            raise
        except Expired:
            self.check()  # why it is over
            raise
        finally:
            if not task.done():
                task.cancel()

    async def _blame(self, error: EngineError) -> None:
        """An engine that does not answer has probably ended: say so, if that is seen soon.

        The registry is read once more in the end: the watch may have broken meanwhile.
        """
        if error.status != 0:
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._lost), BLAME_SECONDS)
        except TimeoutError:
            with contextlib.suppress(PoolError):
                self._compare(await self._pool.fresh())
            if self._lost.done():
                self.check()
        except PoolError as reason:
            raise reason from error
