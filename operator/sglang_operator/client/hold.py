"""The Lease, held: renewed in the background, and the fence that follows from that."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from sglang_operator import supervision
from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError, Expired, NotReady, PoolError
from sglang_operator.client.lease import (
    RETRY_SECONDS,
    LeaseObservation,
    Step,
    WeightsLease,
    Written,
    counted,
)
from sglang_operator.clocks import steady
from sglang_operator.weights import lease_state, lost_lease, steps, unslept
from sglang_operator.weights.lease_state import Transaction


class LeaseHold:
    """The Lease, held: renewed in the background until ``stop``.

    ``lost`` is told once, with the reason, when the transaction counts as over: it is another's,
    was aborted, or could not be renewed for most of its duration.  Who learns it by another step of
    its own has that told by the next renewal.  From the end on ``alive`` is false; nothing may be
    written to an engine.
    """

    def __init__(
        self, lease: WeightsLease, trainer: steps.Trainer, lost: Callable[[PoolError], None]
    ) -> None:
        self.trainer = trainer
        self._lease = lease
        self._lost = lost
        self._renewed = steady()
        self.over: Expired | None = None  # once the Lease has said so
        self._uid: str | None = None  # of the Lease that was taken; None: not known yet
        self._pool = ""  # the UID of its pool
        self._shared = False  # whether other processes write in it too
        self._count = -1  # of the Lease's transactions, with this one
        # Who slept before this sleep, as long as it has named no engine: none released anything.
        self.before: Transaction | None = None
        self._noted: list[Step] = []  # who has which memory, as far as it is on record
        self._task: asyncio.Task[None] | None = None

    @property
    def margin(self) -> float:
        """Seconds for which the holder counts on its last renewal: less than others wait."""
        return counted(self.trainer.duration)

    def alive(self) -> bool:
        """Whether this trainer may write to the engines at this moment: the fence.

        By the steady clock: a process that was stopped and goes on finds its fence down.  It is
        down, too, from when the Lease has said that the transaction is over.
        """
        return self.over is None and steady() < self._renewed + self.margin

    def left(self) -> float:
        """Seconds until the fence comes down."""
        return max(0.0, self._renewed + self.margin - steady())

    async def take(self, step: Step, *, wait: float, patience: float) -> Transaction:
        """Take the Lease by this step, for ``wait`` seconds while another holds it.

        Who does not learn whether it was taken sends nothing to engines, and owes the Lease that:
        else others of its name would wait for it.  Raises Held, NotReady without a Lease,
        ClusterError.
        """

        def take(state: Transaction, sight: LeaseObservation) -> Transaction:
            self._pool = sight.pool  # what is owed if no answer comes is owed to this one
            return step(state, sight)

        try:
            taken = await self._lease.step_when_free(take, wait=wait, patience=patience)
        except (asyncio.CancelledError, ClusterError):
            with contextlib.suppress(PoolError):  # it is owed
                await supervision.to_its_end(self.rest(patience=0))
            raise
        return self._took(taken)

    async def step(self, step: Step, *, patience: float) -> Transaction:
        """Take the next step of this transaction, which renews it too.

        A Lease that was deleted is nobody's any more, and the one that the operator makes in its
        place is another: Expired, as of a transaction that is over.  Raises ClusterError.
        """

        def own(state: Transaction, sight: LeaseObservation) -> Transaction:
            if self._anew(state, sight):
                raise Expired(texts.LEASE_ANEW, deleted=True)
            return step(state, sight)

        try:
            return self._took(await self._lease.step(own, patience=patience))
        except NotReady as error:
            self.over = Expired(texts.LEASE_DELETED, deleted=True)
            await self._note_again()
            raise self.over from error
        except Expired as error:
            self.over = error
            if error.deleted:
                await self._note_again()
            raise

    async def woke(
        self,
        done: Iterable[tuple[str, Iterable[str]]],
        *,
        unclear: Iterable[str] = (),
        patience: float,
    ) -> None:
        """Record which instances have their memory of these tags; see ``WeightsLease.record``.

        And of which of them it is ``unclear`` whether they have it.

        That is no renewal, and it counts after the transaction is over, too, and in a Lease that
        was made in place of a deleted one: it says by what was known before who sleeps.  Raises
        ClusterError.
        """

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            self._require_known(state, sight)
            for instance, tags in (*done, (None, ())):
                state = steps.woke(
                    state,
                    self.trainer,
                    instances=[instance] if instance else (),
                    tags=tags,
                    count=self._count,
                    unclear=unclear,
                )
            return state

        self._noted.append(step)
        await self._lease.record(None, step, patience=patience)

    def _require_known(self, state: Transaction, sight: LeaseObservation) -> None:
        """What is owed to the next Lease, too, belongs there: of this pool, and made by now."""
        if sight.pool != self._pool:
            raise Expired(texts.LEASE_ANEW, deleted=True)  # of other engines
        if _says_nothing(state):
            raise NotReady(texts.LEASE_ANEW)  # the operator is about to write it anew

    async def _note_again(self) -> None:
        """It was on record in a Lease that is lost: the next one may be made without it."""
        noted, self._noted = self._noted, []
        for step in noted:
            with contextlib.suppress(PoolError):  # it is owed
                await self._lease.record(None, step, patience=0)

    async def rest(self, *, patience: float) -> None:
        """Nothing that was sent to engines is under way any more.  Raises as ``record``.

        Of a sleep that has named no engine the Lease that was made in place of a deleted one
        learns, too, that none released anything.
        """
        before = self.before

        def rests(state: Transaction, sight: LeaseObservation) -> Transaction:
            if before is None:
                return steps.rests(state, self.trainer)
            self._require_known(state, sight)
            return unslept.unslept(state, self.trainer, before, count=self._count)

        lease, words = self._uid if before is None else None, texts.OWED_REST
        await self._lease.record(lease, rests, patience=patience, words=words, passes=True)

    async def give_back(self, step: Step, *, patience: float) -> None:
        """The last step of a transaction that is not a sync; tried on.  Raises as ``record``."""
        words = texts.OWED_REST
        await self._lease.record(self._uid, step, patience=patience, words=words, passes=True)

    def _took(self, written: Written) -> Transaction:
        self._uid, self._pool = written.lease, written.pool
        self._shared, self._count = written.state.shared, written.state.transitions
        self._renewed = max(self._renewed, written.at)
        return written.state

    async def renew(self, *, works: bool = False, patience: float | None = None) -> Transaction:
        """Renew now; ``works``: to change engines in this transaction.  Raises PoolError."""
        step = steps.works if works else steps.renew

        def renewal(state: Transaction, sight: LeaseObservation) -> Transaction:
            return step(state, self.trainer, now=sight.now)

        return await self.step(renewal, patience=self.left() if patience is None else patience)

    async def withdraw(self, before: Transaction, message: str, *, patience: float) -> None:
        """Nothing was sent to an engine: what the Lease said before counts.  Raises PoolError."""

        def end(state: Transaction, sight: LeaseObservation) -> Transaction:
            return steps.withdraw(state, self.trainer, before, message=message, now=sight.now)

        words = texts.OWED_ABORT
        await self._lease.record(self._uid, end, patience=patience, words=words, passes=True)

    async def abort(self, message: str, *, patience: float) -> None:
        """All gates close, unless the transaction is over anyway; see ``WeightsLease.record``.

        Under a Lease that was deleted too, as soon as the operator has made another one for this
        pool.  Raises PoolError once patience ends; it is tried on.
        """

        def end(state: Transaction, sight: LeaseObservation) -> Transaction:
            # Who never knew that it had the Lease has written into no engine.
            if self._uid is None or not self._anew(state, sight):
                return steps.abort(state, self.trainer, message=message)
            if sight.pool != self._pool:
                raise Expired(texts.LEASE_ANEW, deleted=True)  # other engines than it wrote to
            now, shared = sight.now, self._shared
            return lost_lease.disclaim(state, self.trainer, message=message, now=now, shared=shared)

        await self._lease.record(None, end, patience=patience, words=texts.OWED_ABORT, passes=True)

    def _anew(self, state: Transaction, sight: LeaseObservation) -> bool:
        """Whether the Lease is another one than was taken, or was emptied."""
        empty = state.phase is lease_state.Phase.IDLE and not state.id
        return empty or sight.lease != (sight.lease if self._uid is None else self._uid)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lease renewal")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        # However long it counts on the Lease: whoever deletes it knows nothing of that.
        every = min(self.trainer.duration / 3, self.margin / 2, lease_state.LEASE_SECONDS / 3)
        wait, detail = every, ""
        while self.alive():
            await asyncio.sleep(min(wait, self.left()))
            try:
                async with asyncio.timeout(self.left()):
                    # A part of it: what stands in the way is known before the fence comes down.
                    await self.renew(patience=self.left() / 2)
                wait, detail = every, ""
            except ClusterError as error:
                wait, detail = RETRY_SECONDS, str(error)
            except TimeoutError:
                detail = detail or texts.NO_ANSWER
            except PoolError as error:
                if self.before is not None:  # whoever begins by the next Lease is to know it
                    with contextlib.suppress(PoolError):  # it is owed
                        await self.rest(patience=0)
                self._tell(error)
                return
            except Exception as error:  # not this alone may keep the Lease from being renewed
                wait, told = RETRY_SECONDS, f"unexpected {type(error).__name__}: {error}"
                if told != detail:
                    supervision.failed("lease renewal", error)
                detail = told
        self._tell(_not_renewed(steady() - self._renewed, detail))

    def _tell(self, reason: PoolError) -> None:
        try:
            self._lost(reason)
        except Exception as error:
            supervision.failed("a lost transaction", error)


def _says_nothing(state: Transaction) -> bool:
    """Whether it was emptied, and no operator has seen it yet."""
    return state.phase is lease_state.Phase.IDLE and not (state.id or state.fence)


def _not_renewed(seconds: float, detail: str) -> Expired:
    return Expired(texts.NOT_RENEWED.format(seconds=seconds, detail=detail))
