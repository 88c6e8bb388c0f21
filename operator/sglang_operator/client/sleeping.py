"""Sleep and wake: gates close before memory goes, because a request to a sleeping engine kills it.

Sleep: the Lease says Sleeping; the operator closes every gate; once it has said so, and no engine
is in service any more, Services get a moment to forget the engines.  Then the engines are paused,
so that a late request over an old connection waits instead of reaching them, and only then is
memory released.  The Lease keeps which instances sleep: waking one that restarted would kill it.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sglang_operator import supervision
from sglang_operator.client import beside, freed, left_at_work, pausing, texts, turns
from sglang_operator.client import devices as ids
from sglang_operator.client.errors import (
    EngineError,
    Expired,
    NotReady,
    PoolError,
    Unsupported,
    undone,
)
from sglang_operator.client.freed import Freed
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.lease import LeaseObservation
from sglang_operator.client.reaching import reach
from sglang_operator.client.registry import (
    GATE_COMMITTED,
    IN_SERVICE,
    NO_RANK,
    OPEN,
    Engine,
    Registry,
)
from sglang_operator.client.waking import PATIENCE, note_awake, resume, woken
from sglang_operator.weights import lease_state, parts, steps, whole
from sglang_operator.weights.lease_state import Phase, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

SETTLE_SECONDS = 1.0
ACKNOWLEDGE_SECONDS = 30.0
REST_PATIENCE = 2.0
ANSWER_SECONDS = 0.5  # between two looks at engines that do not answer yet
SIGHT_SECONDS = 5.0  # that a sleeper may be out of sight before it is missed

log = logging.getLogger(__name__)


def _whole(engines: Iterable[Engine], state: Transaction) -> list[str | None]:
    """The instances of these whose weights are those that they are to be answered from."""
    return whole.whole((engine.instance for engine in engines), state)


def _serves(engine: Engine, part: ids.Part) -> bool:
    """Whether clients may reach it through its gate.

    Of a part each gate is looked at: one that was out of sight as the sleep began is not named in
    it, and opens once its pod is ready.
    """
    is_open = engine.gate == OPEN and part is not ids.whole
    return engine.gate is not None and (is_open or engine.state == IN_SERVICE)


def _going_on(
    registry: Registry, state: Transaction, reached: Sequence[Engine]
) -> Sequence[Engine]:
    """The engines that go on once the weights that they kept have all of their memory.

    Where a commit alone opens gates, those that it covers; others wait, paused, for the next one.
    Anywhere else, and without a gate, clients reach them all again, as they did before.  Whoever is
    covered and runs was paused, whether it got as far as to sleep or not.
    """
    known = {engine.engine for engine in reached}
    if registry.weights.gate == GATE_COMMITTED and state.version:
        known = {engine.engine for engine in reached if engine.gate is None}
    covered, woken_up = state.instances, {engine.instance for engine in reached}
    return [
        e
        for e in registry.present
        if e.runs or (e.holds and e.instance in woken_up)
        if e.instance in covered or (e.engine in known and _has_weights(e, state))
    ]


def _has_weights(engine: Engine, state: Transaction) -> bool:
    """Whether what it holds is what it served: a sync leaves who runs beside the pool's as it is.

    Their memory is back then, and their weights may be gone with an earlier sleep.  Of the pool's
    own, those may be torn that an edit had left out of the commit, and has brought back.
    """
    if engine.rank == NO_RANK:
        return state.covers(engine.instance)
    return engine.instance not in state.torn


class Sleeper:
    """The part of a pool that puts engines to sleep, and stays their holder meanwhile."""

    def __init__(self, pool: "AsyncPool") -> None:
        self._pool = pool
        self._hold: LeaseHold | None = None

    async def stop(self) -> None:
        """Renew no more."""
        hold, self._hold = self._hold, None
        if hold is not None:
            await hold.stop()

    def idle(self, state: Transaction) -> Transaction:
        """The state as this process goes by it, in whose turn no call of it is under way.

        A sleep that was interrupted keeps others waiting, and not the process itself.
        """
        own = self._hold is not None and state.id == self._hold.trainer.transaction
        return replace(state, at_work=False) if own else state

    async def _rest(self, hold: LeaseHold) -> None:
        with contextlib.suppress(PoolError):  # it is owed
            await self._pool.to_its_end(self._rested(hold))

    async def _rested(self, hold: LeaseHold) -> None:
        await self._pool.calls.delivered()
        await hold.rest(patience=REST_PATIENCE)

    @contextlib.asynccontextmanager
    async def _at_work(self, hold: LeaseHold) -> AsyncIterator[None]:
        """While engines are changed, by a hold whose Lease says so, until nothing is under way."""
        try:
            yield
        except BaseException:
            await self._rest(hold)
            raise

    async def sleep(
        self,
        tags: tuple[str, ...],
        *,
        settle: float,
        timeout: float,
        loading: float,
        devices: Collection[int] = (),
    ) -> Freed:
        """See ``AsyncPool.sleep``; without ``devices`` it is about all engines."""
        part = ids.overlapping(devices) if devices else ids.whole
        with self._pool.turn.taken("sleep()"):
            woken = functools.partial(self._woken, lease_state.MEMORY_TAGS, part, devices)
            await left_at_work.settled(self._pool, part, self._taken, woken, timeout)
            return await self._sleep(part, devices, tags, settle, timeout, loading)

    async def _sleep(
        self,
        part: ids.Part,
        devices: Collection[int],
        tags: tuple[str, ...],
        settle: float,
        timeout: float,
        loading: float,
    ) -> Freed:
        await self._renewed()
        registry = part(await self._pool.fresh())
        freed.known_tags(tags, registry)
        await reach(self._pool, registry)
        await freed.can_release(self._pool, registry.present)
        await self._answering(loading, part, tags)
        hold, before = await self._take(tags, part, devices)
        async with self._at_work(hold):
            slept, gain = await self._put_to_sleep(hold, before, part, tags, settle, timeout)
            await self._rest(hold)
        registry = part(await beside.gone(self._pool, slept, loading))
        beside.all_known(registry)
        if left := [e for e in registry.present if e.holds and e.instance not in slept]:
            raise NotReady(texts.NOT_ALL_ASLEEP.format(engines=beside.named(left)))
        if registry.weights.turns:
            await turns.out_of_the_way(self._pool, part, slept, loading)
        return gain

    async def _put_to_sleep(
        self,
        hold: LeaseHold,
        before: Transaction,
        part: ids.Part,
        tags: tuple[str, ...],
        settle: float,
        timeout: float,
    ) -> tuple[set[str | None], Freed]:
        """The instances that were, and what it freed; see the module for the order."""
        registry = await self._closed(hold.trainer.transaction, timeout, part)
        await asyncio.sleep(settle)
        # Whoever came up since all others went to sleep releases what they did.
        alone = part is not ids.whole or before.serving
        wanted = {*tags} if alone else {*before.released, *tags}
        off = beside.off(registry.present, before, wanted)
        engines = [e for e in registry.present if e.holds and e not in off]
        await pausing.stop(
            self._pool.calls,
            engines,
            pausing.ABORT,
            asleep=[e.instance for e in engines if before.sleeps(e.instance)],
            whole=_whole(engines, before),
            allowed=hold.alive,
        )
        gain = await self._pool.to_its_end(self._release(hold, engines, before, wanted))
        return {engine.instance for engine in (*engines, *off)}, gain

    async def _answering(self, timeout: float, part: ids.Part, tags: Collection[str]) -> None:
        """Wait until every engine with a process answers, ready or not; else raises NotReady.

        Whoever is told that the pool sleeps takes the memory.  One that only misses a probe
        releases it like the others; one that loads its model cannot, and would have the trainer
        run out of memory.  Who is on the way out is gone first.
        """
        deadline = time.monotonic() + timeout
        while True:
            registry = part(await beside.gone(self._pool, (), timeout))
            asked = await beside.not_up(self._pool, registry, tags)
            outcomes = await asyncio.gather(
                *(self._pool.calls.find(engine) for engine in asked), return_exceptions=True
            )
            silent = [e for e, outcome in zip(asked, outcomes, strict=True) if outcome is not None]
            if not (silent or registry.unreached or registry.hidden or registry.holders):
                return
            if time.monotonic() > deadline:
                beside.all_in_sight(registry, timeout)
                if silent:
                    engines = beside.named(silent)
                    raise NotReady(texts.NOT_TO_SLEEP.format(engines=engines, seconds=timeout))
                raise turns.held(registry, timeout)
            await asyncio.sleep(ANSWER_SECONDS)

    async def _release(
        self, hold: LeaseHold, engines: list[Engine], before: Transaction, wanted: set[str]
    ) -> Freed:
        """The Lease is told which engines are about to sleep, then they release what they have.

        In this order, because a trainer may die in between: an engine that sleeps and is not on
        record would be written to, and die of its first request behind an open gate.  One that is
        on record and did not sleep dies of being woken, and comes back closed.
        """
        # Releasing what is released already is the end of an engine, too.
        todo = [(engine, sorted(wanted - before.sleeps(engine.instance))) for engine in engines]
        todo = [(engine, tags) for engine, tags in todo if tags]
        release = [engine for engine, _ in todo]
        held = await freed.before(self._pool, release)

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            instances = [engine.instance for engine, _ in todo if engine.instance]
            now = sight.now
            return parts.slept(state, hold.trainer, instances=instances, tags=wanted, now=now)

        try:
            await hold.step(step, patience=PATIENCE)
        except PoolError:  # it may have been written all the same
            with contextlib.suppress(PoolError):
                await note_awake(hold, todo, patience=0)
            raise
        hold.before = None
        outcomes = await supervision.all_to_their_end(
            self._let_go(hold, engine, tags, before) for engine, tags in todo
        )
        failed = [outcome for outcome in outcomes if outcome is not None]
        if not failed:
            return await freed.since(self._pool, held, release, wanted)
        both = [(e, error) for e, error in zip(todo, outcomes, strict=True) if error is not None]
        kept = [each for each, error in both if undone(error)]
        unclear = [each for each, error in both if not undone(error)]
        with contextlib.suppress(PoolError):  # it is owed
            await note_awake(hold, kept, unclear, patience=PATIENCE)
        raise failed[0]

    async def _let_go(
        self, hold: LeaseHold, engine: Engine, tags: list[str], before: Transaction
    ) -> None:
        """Release, right after a flush: what came late ends the engine (``pausing.drain``).

        One that sleeps already has nothing left to flush.
        """
        calls = self._pool.calls
        try:
            if not before.sleeps(engine.instance):
                await pausing.drain(
                    calls,
                    [engine],
                    mode=pausing.ABORT,
                    whole=_whole([engine], before),
                    allowed=hold.alive,
                )
            elif pausing.ends_quickly(pausing.ABORT, engine.features):
                await pausing.abort(calls, [engine], hold.alive)
        except EngineError as error:
            error.sent = False  # the release: whatever became of the flush, memory is there
            raise
        await self._pool.release_memory([engine], tags, hold.alive)

    async def _take(
        self, tags: Collection[str], part: ids.Part, devices: Collection[int]
    ) -> tuple[LeaseHold, Transaction]:
        """The Lease, taken to sleep on these tags, and how it stood before."""
        before, registry = Transaction(), part(await self._pool.registry())
        named = ids.named(registry) if part is not ids.whole else []
        takes = turns.takes(registry, devices)

        def step(
            state: Transaction, trainer: steps.Trainer, *, now: float, seen: float
        ) -> Transaction:
            nonlocal before
            before = state.named
            beside.all_clear(registry.present, state)
            if not named:
                return steps.sleep(state, trainer, tags=tags, now=now, seen=seen, takes=takes)
            ids.lets_serve(registry, state, tags)
            of: dict[str, Any] = {"instances": named, "tags": tags, "takes": takes}
            return parts.sleep(state, trainer, now=now, seen=seen, **of)

        hold, _ = await self._taken(step, sleeps=True)
        return hold, before

    async def _taken(
        self, take: Callable[..., Transaction], *, sleeps: bool = False
    ) -> tuple[LeaseHold, Transaction]:
        """The Lease, taken by this step in a transaction of its own."""
        trainer = self._pool.trainer(lease_state.LEASE_SECONDS)
        hold = LeaseHold(self._pool.lease, trainer, self._lost)

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            state = self.idle(state)
            hold.before = state.named if sleeps else None
            return take(state, trainer, now=sight.now, seen=sight.seen)

        state = await hold.take(step, wait=0, patience=PATIENCE)
        earlier, self._hold = self._hold, hold
        hold.start()
        if earlier is not None:
            try:
                await earlier.stop()
            except BaseException:  # it is taken, and nothing was sent by it
                await self._rest(hold)
                raise
        return hold, state

    def _lost(self, reason: PoolError) -> None:
        """Whoever takes over a sleeping pool finds in the Lease what sleeps."""
        log.warning(texts.SLEEP_LOST.format(reason=reason))

    async def _closed(self, transaction: str, timeout: float, part: ids.Part) -> Registry:
        """Wait until the operator has closed every gate of these, and says so."""
        seen: Registry | None = None
        try:
            async with asyncio.timeout(timeout):
                async for every in self._pool.changes():
                    seen = registry = part(every)
                    acted = registry.weights.transaction == transaction
                    if acted and registry.weights.phase != Phase.SLEEPING.value:
                        raise Expired(texts.ENDED_BY_OPERATOR)
                    if acted and not any(_serves(engine, part) for engine in registry.present):
                        return registry
        except TimeoutError:
            pass
        found = seen.weights if seen else None
        raise NotReady(
            texts.NOT_ACKNOWLEDGED.format(
                what="closed the gates",
                seconds=timeout,
                transaction=found.transaction if found else "-",
                phase=found.phase if found else "-",
            )
        )

    async def wake(
        self, tags: tuple[str, ...], devices: Collection[int] = (), *, loading: float
    ) -> Transaction:
        """See ``AsyncPool.wake``; without ``devices`` it is about all engines."""
        part = ids.within(devices) if devices else ids.whole
        with self._pool.turn.taken("wake()"):
            await turns.make_way(self._pool, part, tags, devices, loading)
            after = await self._pool.to_its_end(self._wake(tags, part, devices))
        if (await self._pool.registry()).weights.turns:
            await turns.stand(self._pool, part, after, loading)
        return after

    async def _wake(
        self, tags: tuple[str, ...], part: ids.Part, devices: Collection[int]
    ) -> Transaction:
        if part is not ids.whole:
            part(await self._pool.fresh())  # that there is one, before anything is taken
        if (only := await turns.only_awaited(self._pool, part, devices)) is not None:
            return only
        return await self._woken(tags, part, devices, *await self._own())

    async def _woken(
        self,
        tags: tuple[str, ...],
        part: ids.Part,
        devices: Collection[int],
        hold: LeaseHold,
        state: Transaction,
    ) -> Transaction:
        async with self._at_work(hold):
            await turns.let_in(self._pool, part, hold.trainer.transaction)
            after = await self._awaken(hold, state, tags, part, devices)
        if not after.holder:
            await self.stop()
        return after

    async def _awaken(
        self,
        hold: LeaseHold,
        state: Transaction,
        tags: tuple[str, ...],
        part: ids.Part,
        devices: Collection[int],
    ) -> Transaction:
        registry, reached = await self._seen(hold, state, tags, part)
        apart = None if part is ids.whole else ids.awake(registry, state)
        awake = apart is not None or set(state.released) <= set(tags)
        goes_on = [e for e in _going_on(registry, state, reached) if e.features.pause]
        if apart is not None:
            goes_on = [e for e in goes_on if state.sleeps(e.instance) <= set(tags)]
        if awake and state.intact and goes_on:
            await hold.renew()
            await self._pool.calls.post_all(
                goes_on, "/continue_generation", {}, timeout=hold.left(), allowed=hold.alive
            )
        return await hold.step(woken(hold, tags, apart, devices), patience=hold.left())

    async def _seen(
        self, hold: LeaseHold, state: Transaction, tags: tuple[str, ...], part: ids.Part
    ) -> tuple[Registry, Sequence[Engine]]:
        """Every engine that sleeps resumes; the registry then, and who was asked to.

        One that is out of sight would be taken for awake, and sleep on: it is waited for a little,
        and then NotReady is raised for as long as its pod is there.  It has ended where none is.
        """
        reached, deadline = list[Engine](), time.monotonic() + SIGHT_SECONDS
        while True:
            registry = part(await self._pool.fresh())
            those = state if part is ids.whole else ids.asleep(registry, state)
            if later := beside.unwoken(registry, those, reached):
                await resume(self._pool, hold, state, later, tags)
                reached += later
                continue
            lost, unclear = beside.out_of_sight(registry, those, reached, tags)
            if not lost and not unclear:
                return registry, reached
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(ANSWER_SECONDS)
        if lost or registry.hidden:
            names = ", ".join(filter(None, (beside.named(lost), *registry.hidden)))
            raise NotReady(texts.SLEEPS_OUT_OF_SIGHT.format(engines=names, seconds=SIGHT_SECONDS))
        return registry, reached

    async def _own(self) -> tuple[LeaseHold, Transaction]:
        """The hold of the sleep, at work: taken on from this process, an earlier one or another.

        In a transaction of its own, so that the operator can say that it has seen it.

        Whoever else had it learns with its next step that it is over; one of this name that is at
        work is waited for.
        """
        if not await self._renewed():
            state = await self._pool.transaction()
            if state.phase not in (Phase.SLEEPING, Phase.AWAKE, Phase.SYNCING):
                raise Unsupported(texts.NOTHING_SLEEPS.format(phase=state.phase.value))
        return await self._taken(steps.take_on)

    async def _renewed(self) -> bool:
        """Whether the hold that there is was renewed; not so if somebody went on since.

        Raises Expired if the Lease was deleted: what sleeps stood there alone.
        """
        hold = self._hold
        if hold is None:
            return False
        try:
            await hold.renew()
        except Expired as error:
            if error.deleted:
                await self.stop()
                raise
            return False
        return True
