"""One pass over one pool: read, decide, act, tell.  It ignores what woke it.

Each stage has a module: ``observing``, ``deciding``, ``acting`` (pods and gates) and ``publishing``
(children and status).  Who wants another pass says so in its ``Requeue``.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sglang_operator.api import names, spec
from sglang_operator.ask import events
from sglang_operator.clocks import steady
from sglang_operator.cluster.dry_runs import DryRuns
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import explaining, judging, leaving, logs
from sglang_operator.controller.acting import Acting, Actor
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.deciding import Decider, Decision, PoolDecision
from sglang_operator.controller.memory import Memory, Pass
from sglang_operator.controller.meters import PoolMeter
from sglang_operator.controller.observing import Observer, View
from sglang_operator.controller.publishing import Publisher
from sglang_operator.controller.requeue import Reason, Requeue
from sglang_operator.controller.telling import Teller
from sglang_operator.engine import arguments
from sglang_operator.fleet.poller import Poller
from sglang_operator.observed import health
from sglang_operator.observed.wire import CustomResource
from sglang_operator.plan import seating
from sglang_operator.pool.resolve import Pool, Refused

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Beside writes the pool is decided upon again for at most so small a part of the time.
_REST_FOR_LOOKS = 40.0


class Reconciler:
    """Runs passes.  The queue sees to it that a pool has one at a time."""

    def __init__(
        self,
        view: View,
        executor: Executor,
        recorder: Recorder,
        poller: Poller | None,  # None: engines are not asked
        explainer: explaining.Explainer,
        trials: DryRuns,
        *,
        publish_interval: float,
        engine_host: str = arguments.ANY_ADDRESS,
        allowed_resources: Collection[str] = (),
        host_folders: Collection[str] = (),
        holder: str = "",  # of weights Leases, while engines load their checkpoint
    ) -> None:
        self._view = view
        self._executor = executor
        self._recorder = recorder
        self._publish_interval = publish_interval
        self._engine_host = engine_host
        self._allowed = frozenset(allowed_resources), frozenset(host_folders)
        self._memories: dict[PoolKey, Memory] = {}
        self._asker = Asker(poller, holder, executor.look_for)
        self._observer = Observer(view, self._asker)
        self._decider = Decider(self._observer, self._asker)
        self._actor = Actor(view, executor, trials)
        self._teller = Teller(view.pools, executor, recorder)
        self._publisher = Publisher(executor, self._teller, explainer, interval=publish_interval)

    async def reconcile(self, key: PoolKey) -> Requeue:
        """One pass; who wants the next one without any event, and when."""
        record = self._view.pools.get(key)
        if record is None:
            self._forget(key)
        elif not self._view.reads(key.namespace):
            pass  # it is woken once it can be read again
        elif leaving.orphans(record):
            self._asker.nothing(key)
        else:
            this = Pass(key=key, record=record, memory=self._memory(key, record))
            with logs.about(record.metadata):
                await self._pass(this)
                log.debug("%s: the next pass: %s", key, this.requeue)
            return this.requeue
        return Requeue()

    async def _pass(self, this: Pass) -> None:
        if self._view.pools.to_be_read(this.key):
            await self._teller.read_again(this)
            return
        pool = judging.resolved(this.memory, this.record, self._engine_host, *self._allowed)
        if isinstance(pool, Refused):
            await self._refuse(this, pool)
        elif self._view.pools.planned(this.record, len(pool.engines)):
            await self._run(this, pool)
        else:
            this.requeue.now(Reason.NO_ROOM)

    async def _refuse(self, this: Pass, refused: Refused) -> None:
        def decide(now: Pass) -> Decision:
            return self._decider.decide_refused(now, refused)

        if this.memory.in_doubt:
            doubt = await self._beside_gates(this, decide, self._actor.clear_doubts(this))
            if doubt is not None:
                this.requeue.after(Reason.PODS_FAILED, seating.LOOK_SECONDS)
        decision = decide(this)
        _look_for_others(this, decision)
        at, pods = decision.at.steady, decision.observed.pods
        nodes = health.believed(decision.observed, at)
        this.requeue.at(Reason.PLAN, health.next_loss(pods, nodes, spec.Restart(), at))
        if await self._actor.gates(this, decision):
            this.requeue.now(Reason.GATES_MOVED)
            return
        if behind := seating.left_behind(decision.observed, at):
            await self._beside_gates(this, decide, self._actor.remove(this, behind))
        publishing = self._publisher.publish_refused(this, decision, refused)
        await self._beside_gates(this, decide, publishing)

    async def _run(self, this: Pass, pool: Pool) -> None:
        """Read, decide, act, tell; and who wants to look again."""
        decide = partial(self._decider.decide, pool=pool)
        doubt = None
        if this.memory.in_doubt:
            doubt = await self._beside_gates(this, decide, self._actor.clear_doubts(this))
        all_read = await self._observer.read_ends(this.key)
        if self._by_now(this) is None:
            return  # whatever it is now has a pass of its own
        vanished = self._view.pods.vanished(this.key)
        this.memory.note_vanished(vanished, len(pool.running), steady())
        decision = decide(this)
        # Gates first: what must be kept from clients cannot wait for pods.
        moved = await self._actor.gates(this, decision)
        self._observer.making(this.key, this.memory.in_doubt or bool(decision.plan.creates))
        outcome, long = await self._act_and_tell(this, decision)
        outcome.failed = outcome.failed or doubt
        if outcome.gone:
            self._view.pools.gone(this.key, this.memory.uid)
            return
        self._actor.learn(this, decision, outcome)
        self._observer.making(this.key, this.memory.in_doubt)
        if self._decides_anew(this, decision, moved=moved, long=long):
            return  # what is told is what stands once that is seen
        if stays := decision.plan.to_go - outcome.taken:
            decide = partial(decide, stays=stays)
            decision = decide(this)
        await self._beside_gates(this, decide, self._publisher.publish(this, decision))
        this.requeue.at(Reason.PLAN, decision.plan.wake_at)
        _look_for_others(this, decision)
        this.requeue.at(Reason.CLAIMS, this.memory.claims.due)
        looked_at = events.next_look(decision.plan, decision.at.steady)
        this.requeue.at(Reason.LOOKUP, looked_at)
        if not all_read:
            this.requeue.now(Reason.ENDS_UNREAD)
        this.memory.try_again(this.requeue, decision.at.steady)

    async def _act_and_tell(self, this: Pass, decision: PoolDecision) -> tuple[Outcome, bool]:
        """Create and delete; what came of it, and whether it took so long that the plan is old.

        While it does, gates are moved and the status is told.
        """
        acting, long = Acting(decision.plan), False

        def compare(now: Pass | None) -> None:
            if now is None or now.record is not self._view.pools.get(this.key):
                acting.stop()  # another spec, or none

        def decide(now: Pass) -> PoolDecision:
            compare(now)
            fresh = self._decider.decide(now, decision.pool)
            acting.look(fresh.plan)
            return fresh

        async def look() -> None:
            nonlocal long
            long = True
            # The pass that goes on asks for the next one itself.
            now = self._by_now(replace(this, requeue=Requeue()))
            compare(now)
            if now is None:
                return
            await self._observer.read_ends(this.key)
            fresh = decide(now)
            if not await self._actor.gates(now, fresh) and not acting.stopped:
                stays = fresh.plan.to_go  # their deletes are yet to be taken
                told = self._decider.decide(now, decision.pool, stays) if stays else fresh
                # What is being made nobody sees yet: of no engine is said that it waits.
                told = replace(told, weights=replace(told.weights, occupied=None))
                publishing = self._publisher.publish(now, told, creating=True)
                await self._beside_gates(now, decide, publishing)

        pods = self._actor.pods(this, decision, acting)
        return await self._beside(pods, look, self._publish_interval), long

    async def _beside_gates(
        self, this: Pass, decide: Callable[[Pass], Decision], work: Coroutine[Any, Any, Result]
    ) -> Result:
        """What came of the work, which may wait for the API server; the pool's gates do not."""

        async def look() -> None:
            now = self._by_now(this)
            if now is not None and await self._actor.gates(now, decide(now)):
                this.requeue.now(Reason.GATES_MOVED)

        # To write about a large pool takes a second or so: a look each time would double its cost.
        at_rest = _REST_FOR_LOOKS * this.memory.planning_seconds
        interval = min(max(at_rest, self._publish_interval), 2 * self._publish_interval)
        return await self._beside(work, look, interval)

    async def _beside(
        self,
        work: Coroutine[Any, Any, Result],
        look: Callable[[], Awaitable[None]],
        interval: float,
    ) -> Result:
        """What came of the work; while it goes on, the pool is looked at after each interval."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=interval))[0]:
                await look()
            return task.result()
        finally:
            task.cancel()

    def _by_now(self, this: Pass) -> Pass | None:
        """The pass over its pool as that is known by now.

        None if it cannot be seen, or its engines are to stay without it as they are: their Lease
        and pods have no owner any more, and look like somebody else's.
        """
        known = self._view.pools.get(this.key)
        if known is None or known.metadata.uid != this.memory.uid or leaving.orphans(known):
            return None
        if not self._view.reads(this.key.namespace):
            return None  # what is seen is of the past
        return replace(this, record=self._teller.latest(this.key, this.record))

    def _decides_anew(self, this: Pass, decision: PoolDecision, *, moved: bool, long: bool) -> bool:
        """Whether what was decided is old: gates moved, it took long, or the namespace goes."""
        leaves = this.memory.namespace_ends(decision.at.steady) and not decision.observed.leaving
        if long:
            if not {Reason.PODS_FAILED, Reason.STALE_VIEW} & this.requeue.reasons().keys():
                this.requeue.now(Reason.PLAN_OLD)
        elif moved:
            this.requeue.now(Reason.GATES_MOVED)
        elif leaves:
            this.requeue.now(Reason.NAMESPACE)
        return moved or long or leaves

    # --- what is remembered of a pool

    def _memory(self, key: PoolKey, record: CustomResource) -> Memory:
        uid = names.Uid(record.metadata.uid)
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memories[key] = Memory(uid=uid)
        return memory

    def _forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._memories.pop(key, None)
        self._view.pods.forget_losses(key)
        for store in self._view.children.values():
            store.forget_losses(key)
        self._recorder.forget(key)
        self._asker.nothing(key)
        self._observer.forget(key)

    # --- what is counted

    def planning_seconds(self, key: PoolKey) -> float:
        """What reading this pool's spec, if it was new, and deciding cost in its last pass."""
        memory = self._memories.get(key)
        return memory.judging_seconds + memory.planning_seconds if memory else 0.0

    def meters(self) -> Iterator[tuple[PoolKey, PoolMeter]]:
        """The meter of each pool that is there, as far as that can be read."""
        for key in self._view.pools.known():
            memory = self._memories.get(key)
            if memory is not None and self._view.reads(key.namespace):
                yield key, memory.meter

    @property
    def window_size(self) -> int:
        """Writes that may be under way at a time."""
        return self._executor.window.size

    @property
    def events_told(self) -> Counter[str]:
        """What became of Events, by result."""
        return self._recorder.told


def _look_for_others(this: Pass, decision: Decision) -> None:
    """No pool is told of the end of pods that are not its own."""
    if decision.observed.departing:
        this.requeue.after(Reason.PLAN, seating.LOOK_SECONDS)
