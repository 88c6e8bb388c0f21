"""One pass over one pool: read, decide, act, tell.  It ignores what woke it.

``parse → plan → desired → diff → act → status``; everything before "act" is pure.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sglang_operator import actions, status
from sglang_operator.api import names, spec, stored
from sglang_operator.clocks import Moment, moment, steady
from sglang_operator.cluster.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.outcome import Confirmation, Outcome
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.stores import ChildStore, PodStore, PoolKey, PoolStore
from sglang_operator.cluster.trial import Trials
from sglang_operator.cluster.wire import CustomResource
from sglang_operator.controller import explaining, leaving, logs, planning, trying
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.memory import CONFIRMED_SECONDS, CONFLICT_BACKOFF, Memory
from sglang_operator.controller.meters import PoolMeter
from sglang_operator.controller.reading import Reader
from sglang_operator.controller.telling import Teller
from sglang_operator.desired import engine_pod, objects
from sglang_operator.engine import arguments
from sglang_operator.fleet.poller import Poller
from sglang_operator.planner import ends, inquiries, tuning, weights
from sglang_operator.planner import plan as planner
from sglang_operator.planner.observed import Observed, ObservedPod
from sglang_operator.planner.plan import Plan
from sglang_operator.planner.pool import Owner, Pool, Refused
from sglang_operator.planner.weights import WeightsPlan

# A pass performs pod actions for so long at most; what is left is planned again.
ACTING_SECONDS = 20.0

log = logging.getLogger(__name__)


class StaleViewError(Exception):
    """A pass found nothing as it had been seen."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The stores of one cluster."""

    pools: PoolStore
    pods: PodStore
    children: Mapping[str, ChildStore]
    nodes: NodeStore
    reads: Callable[[str], bool] = lambda namespace: True  # whether it is of the present


class Reconciler:
    """Runs passes.  The queue sees to it that a pool has one at a time."""

    def __init__(
        self,
        view: View,
        executor: Executor,
        recorder: Recorder,
        poller: Poller | None,  # None: engines are not asked
        explainer: explaining.Explainer,
        trials: Trials,
        *,
        publish_interval: float,
        engine_host: str = arguments.ANY_ADDRESS,
        holder: str = "",  # of weights Leases, while engines load their checkpoint
    ) -> None:
        self._view = view
        self._executor = executor
        self._recorder = recorder
        self._asker = Asker(poller, holder)
        self._explainer = explainer
        self._trials = trials
        self._reader = Reader()
        self._publish_interval = publish_interval
        self._engine_host = engine_host
        self._memories: dict[PoolKey, Memory] = {}
        self._teller = Teller(view.pools, executor, recorder, interval=publish_interval)

    async def reconcile(self, key: PoolKey) -> float | None:
        """One pass; seconds until the next is needed without any event, or None."""
        record = self._view.pools.get(key)
        if record is None:
            self._memories.pop(key, None)
            self._view.pods.forget_losses(key)
            self._recorder.forget(key)
            self._asker.nothing(key)
            return None
        if not self._view.reads(key.namespace):
            return None  # it is woken once it can be read again
        if leaving.orphans(record):
            self._asker.nothing(key)
            return None
        memory = self._memory(key, record)
        with logs.about(record.metadata):
            if self._view.pools.to_be_read(key):
                return await self._teller.read_again(key, memory, record)
            pool = self._planned(memory, record)
            if isinstance(pool, Refused):
                return await self._refuse(key, memory, record, pool)
            if not self._view.pools.planned(record, len(pool.engines)):
                return 0.0
            return await self._run(key, memory, record, pool)

    # --- what is counted

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

    # --- read

    def _memory(self, key: PoolKey, record: CustomResource) -> Memory:
        uid = names.Uid(record.metadata.uid)
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memories[key] = Memory(uid=uid)
        return memory

    def _planned(self, memory: Memory, record: CustomResource) -> Pool | Refused:
        """The pool of this generation, as it is tuned; judged once."""
        meta, tuned = record.metadata, tuning.read(record.status)
        judged = (meta.generation, record.unreadable)
        changed = memory.judged != judged
        if memory.planned is None or changed or memory.tuning != tuned:
            owner = Owner(
                name=meta.name,
                namespace=meta.namespace,
                uid=memory.uid,
                generation=meta.generation,
            )
            memory.planned = planning.judge(owner, record, tuned, self._engine_host)
            memory.ignored = spec.ignored_fields(record.spec)
            memory.judged, memory.tuning = judged, tuned
            memory.template = None
            if changed:
                # A changed spec deserves a fresh try of what was refused before.
                memory.blocked_until, memory.refusals, memory.refused = 0.0, 0, None
        return memory.planned

    def planning_seconds(self, key: PoolKey) -> float:
        """What reading and deciding cost in the last pass of this pool."""
        memory = self._memories.get(key)
        return memory.planning_seconds if memory else 0.0

    def _observe(self, key: PoolKey, memory: Memory, at: Moment) -> Observed:
        own: list[ObservedPod] = []
        strays: list[ObservedPod] = []
        reached: list[str] = []
        taken, orphans = dict(memory.aside), dict[str, names.GroupName]()
        for entry in self._view.pods.of(key):
            if entry.owner == memory.uid and not entry.aside:
                own.append(entry.pod)
                continue
            lives = not (entry.pod.ended or entry.pod.deleting)
            if lives and not entry.owner:
                orphans[entry.pod.name] = entry.pod.group
            gate = entry.pod.gate if lives and entry.owner != memory.uid else None
            if gate is not None and gate.is_open and not entry.aside:
                reached.append(entry.pod.name)
            group = names.group_of(entry.pod.name, key.name)
            if lives and entry.owner == memory.uid:
                strays.append(entry.pod)
            taken[group] = max(taken.get(group, -1), names.attempt_of(entry.pod.name))
        record = self._view.pools.get(key)
        children = memory.out_of_sight() | {
            (store.kind, name): child
            for store in self._view.children.values()
            for name, child in store.of(key, at.wall)
        }
        memory.recorded &= {pod.uid for pod in own}
        memory.forget_expired(len(own), at.steady)
        pods, unread = ends.as_read(own)
        return Observed(
            pods=explaining.with_events(memory, pods),
            unread=unread,
            taken=taken,
            orphans=orphans,
            aside=tuple(strays),
            reached=tuple(sorted(reached)),
            nodes=self._view.nodes.known,
            silence=self._view.nodes.silence(at.steady),
            falls=self._view.nodes.falls(),
            children=children,
            said=memory.last_said(children, record),
            reports=self._asker.reports(key, at),
            recorded=frozenset(memory.recorded),
            creates_blocked_until=memory.blocked_until,
            refused_revision=memory.trial.refused(at.steady),
            doubted_revision=memory.trial.doubted,
            last_gone=self._view.pods.lost_at(key),
            leaving=leaving.why(record, namespace_ends=memory.namespace_ends(at.steady)),
        )

    # --- decide, act, tell

    async def _refuse(
        self, key: PoolKey, memory: Memory, record: CustomResource, refused: Refused
    ) -> float | None:
        at = moment()
        observed = self._observe(key, memory, at)
        # Its engines run on, and so does their trainer.
        policy = spec.Weights(gate=stored.gate_of(record.status))
        weights_plan = weights.decide(
            refused.owner, policy, (), observed, at.wall, self._asker.holder
        )
        memory.said = weights_plan.said
        self._asker.permit(key, memory, weights_plan)
        moved, again = await self._act_on_weights(key, memory, refused.owner, weights_plan, at)
        if moved:
            return 0.0
        new = status.compute_refused(
            refused,
            observed,
            ignored=memory.ignored,
            previous=record.status,
            now=moment().wall,
        )
        later = await self._teller.tell(key, memory, record, new, waits=True)
        return min((wait for wait in (again, later) if wait is not None), default=None)

    async def _run(
        self, key: PoolKey, memory: Memory, record: CustomResource, pool: Pool
    ) -> float | None:
        doubt = await self._clear_doubts(key, memory)
        all_read = await self._reader.read(self._view.pods.of(key))
        at = moment()
        now = at.steady
        memory.note_vanished(self._view.pods.vanished(key), len(pool.running), now)
        observed, plan, weights_plan = self._decide(key, memory, pool, at)
        # Gates first: what must be kept from clients cannot wait for pods.
        moved, look_again = await self._act_on_weights(key, memory, pool.owner, weights_plan, at)
        outcome, long = await self._act_and_tell(key, memory, record, pool, plan)
        outcome.failed = outcome.failed or doubt
        if outcome.gone:
            self._view.pools.gone(key, memory.uid)
            return None
        complete = not plan.creates and all(engine.created for engine in plan.engines)
        memory.learn(outcome, len(observed.pods), now, complete=complete)
        again = self._next_tries(key, memory, outcome, now)
        if moved or long or (memory.namespace_ends(now) and not observed.leaving):
            # What is told is what stands once gates are seen to have moved, and pods to be there.
            return min(again, default=0.0) if long else 0.0
        told = await self._publish(key, memory, record, pool, plan, weights_plan, observed)
        for wake_at in (plan.wake_at, inquiries.next_look(plan, now)):
            if wake_at is not None:
                again.append(max(0.0, wake_at - steady()))
        again.extend([] if all_read else [0.0])
        again.extend(memory.next_tries(steady()))
        again.extend(wait for wait in (told, look_again) if wait is not None)
        return min(again, default=None)

    async def _clear_doubts(self, key: PoolKey, memory: Memory) -> Exception | None:
        """Learn what became of creates that had no answer; why not, if that cannot be learnt."""
        try:
            for group, name in list(memory.unsure.items()):
                await self._executor.look_for(key, name)
                del memory.unsure[group]
        except (ApiError, ApiUnreachableError) as error:
            return error
        return None

    def _decide(
        self, key: PoolKey, memory: Memory, pool: Pool, at: Moment
    ) -> tuple[Observed, Plan, WeightsPlan]:
        begun = time.perf_counter()
        observed = self._observe(key, memory, at)
        plan = planner.plan(pool, observed, at.steady)
        policy = spec.Weights(gate=pool.gate, recovery=pool.spec.weights.recovery)
        weights_plan = weights.decide(
            pool.owner, policy, plan.engines, observed, at.wall, self._asker.holder
        )
        memory.said = weights_plan.said
        memory.planning_seconds = time.perf_counter() - begun
        memory.meter.planned(pool, plan, at.steady)
        memory.meter.weighed(weights_plan, at.steady)
        self._asker.ask(key, memory, pool, plan, weights_plan, observed)
        return observed, plan, weights_plan

    async def _act_and_tell(
        self, key: PoolKey, memory: Memory, record: CustomResource, pool: Pool, plan: Plan
    ) -> tuple[Outcome, bool]:
        """Create and delete; what came of it, and whether it took so long that the plan is old.

        While it does, gates are moved and the status is told.
        """
        stop = asyncio.Event()
        acting = asyncio.create_task(self._act(key, memory, pool, plan, stop))
        asked = {create.engine.group for create in plan.creates}
        long = False
        try:
            while not (await asyncio.wait({acting}, timeout=self._publish_interval))[0]:
                long = True
                record = self._teller.latest(key, record)
                is_read = self._view.reads(key.namespace)  # else it is of the past
                if record is not self._view.pools.get(key) or not is_read:
                    stop.set()  # another spec, or none
                    continue
                await self._reader.read(self._view.pods.of(key))
                at = moment()
                observed, fresh, weights_plan = self._decide(key, memory, pool, at)
                if fresh.removals or not {c.engine.group for c in fresh.creates} <= asked:
                    stop.set()  # there is more to do than was known: plan it anew
                moved, _ = await self._act_on_weights(key, memory, pool.owner, weights_plan, at)
                if not moved:
                    await self._publish(
                        key, memory, record, pool, fresh, weights_plan, observed, creating=True
                    )
            return acting.result(), long
        finally:
            acting.cancel()

    async def _act_on_weights(
        self, key: PoolKey, memory: Memory, owner: Owner, plan: WeightsPlan, at: Moment
    ) -> tuple[int, float | None]:
        """How many gates moved, and seconds until the next look without an event.

        ``at``: the moment for which this was decided.
        """
        batch = actions.weights_actions(owner, plan)
        waits = [] if plan.wake_at is None else [at.left(plan.wake_at)]
        if not batch:
            memory.gating.succeeded()
        batch, held = memory.rewrites.split(batch)
        waits += held
        if not batch:
            return 0, min(waits, default=None)
        sent = steady()
        outcome = await self._executor.weights(key, owner.uid, batch)
        memory.heed(outcome.failed)
        if outcome.stepped:
            memory.stepped_at = sent  # others count from when they see it, which is later
        for conflict in outcome.conflicts:
            memory.conflicts[conflict] = steady() + CONFLICT_BACKOFF
        if outcome.done:
            memory.gating.succeeded()
            memory.rewrites.wrote(batch)
        else:
            error = outcome.failed or StaleViewError("what was seen is old")
            waits.append(memory.gating.failed(error))
            log.warning("%s: gates: %s; next try in %.1f s", key, error, waits[-1])
        return outcome.moved, min(waits, default=None)

    def _next_tries(
        self, key: PoolKey, memory: Memory, outcome: Outcome, now: float
    ) -> list[float]:
        """Seconds until what could not be done is tried again; ever longer if nothing moves."""
        error = outcome.failed or outcome.refused_delete
        if error is not None:
            delay = memory.acting.failed(error)
            log.warning("%s: %s; next try in %.1f s", key, error, delay)
            return [delay]
        memory.acting.succeeded()
        if outcome.done or memory.blocked_until > now:
            memory.again.succeeded()
            return []
        if outcome.created or outcome.deleted or outcome.stale:
            memory.again.succeeded()
            return [0.0]
        return [memory.again.failed(StaleViewError("what was seen is old"))]

    async def _act(
        self, key: PoolKey, memory: Memory, pool: Pool, plan: Plan, stop: asyncio.Event
    ) -> Outcome:
        if not plan.creates and not plan.removals:
            return Outcome()
        if trying.is_due(memory.trial, pool, plan):
            memory.trial = await trying.attempt(self._trials, key, memory.trial, pool, plan)
            if memory.trial.refusal or memory.trial.doubted:
                return Outcome(done=False)  # planned anew, with that known
        if memory.template is None:
            memory.template = engine_pod.template(pool)
        batch = [
            action
            for action in actions.pod_actions(pool, plan, memory.template)
            if ("Pod", action.name) not in memory.conflicts and not _doubtful(action, memory)
        ]
        for action in batch:
            log.debug("%s: %s %s: %s", key, type(action).__name__, action.name, action.reason)

        generation = pool.owner.generation

        async def confirm() -> Confirmation:
            answer = await self._executor.confirm_pool(key, memory.uid, generation)
            unchanged = answer is Confirmation.UNCHANGED
            memory.confirmed_at = steady() if unchanged else float("-inf")
            return answer

        # Pods that go may be the first that is heard of the end of their pool.
        asked = memory.confirmed_at > max(
            self._view.pods.lost_at(key), steady() - CONFIRMED_SECONDS
        )
        deadline = time.monotonic() + ACTING_SECONDS
        return await self._executor.pods(
            key,
            memory.uid,
            batch,
            generation=generation,
            confirm=None if asked and not plan.removals else confirm,
            go_on=lambda: not stop.is_set() and time.monotonic() < deadline,
            proven=steady() < memory.proven_until,
        )

    async def _publish(
        self,
        key: PoolKey,
        memory: Memory,
        record: CustomResource,
        pool: Pool,
        plan: Plan,
        weights_plan: WeightsPlan,
        observed: Observed,
        *,
        creating: bool = False,
    ) -> float | None:
        """Registry, Services and status, each only if it changed, and not too often.

        What a trainer waits for does not wait for that.
        While many first pods are created and come up, what selects them waits.
        """
        awaited = weights_plan.awaited(memory.awaited)
        wait = memory.published_at + self._publish_interval - time.monotonic()
        if wait > 0 and awaited == memory.awaited:
            return wait
        memory.awaited = awaited
        children = objects.children(pool, weights_plan)
        waits = memory.selecting_waits(plan.coming, creating=creating)
        wanted = [
            action
            for action in actions.child_actions(pool, children, observed, unselecting=waits > 0)
            if (action.kind, action.name) not in memory.conflicts
        ]
        wanted, held = memory.rewrites.split(wanted)
        outcome = await self._executor.children(key, memory.uid, wanted)
        if outcome.failed is None:
            memory.rewrites.wrote(wanted)
        for conflict in outcome.conflicts:
            memory.conflicts[conflict] = steady() + CONFLICT_BACKOFF
        retry = memory.learn_of_children(outcome)
        plan = await self._explainer.explained(key, memory, pool, plan, observed, steady())
        new = status.compute(
            pool,
            plan,
            weights_plan,
            ignored=memory.ignored,
            troubles=memory.troubles(
                actions.foreign(pool, children, observed),
                key,
                observed.crowded,
                observed.leaving,
            ),
            previous=record.status,
            now=moment().wall,
            reports=observed.reports,
        )
        later = await self._teller.tell(key, memory, record, new)
        if later is None and retry is None:
            memory.telling.succeeded()
        ended = {pod.uid for pod in plan.ended} | {hung.pod.uid for hung in plan.hung}
        if later is None and not ended <= memory.recorded:
            memory.recorded |= ended
            later = 0.0  # they may be deleted now
        if later is None and plan.tuning != pool.tuning:
            later = 0.0  # it is in force now
        if wanted or later is not None:
            memory.published_at = time.monotonic()
        again = (later, retry, waits or None, *held)
        return min((wait for wait in again if wait is not None), default=None)


def _doubtful(action: actions.PodAction, memory: Memory) -> bool:
    return isinstance(action, actions.CreatePod) and action.group in memory.unsure
