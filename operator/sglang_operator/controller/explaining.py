"""Looks up what nothing that is watched explains, beside the passes.

It never delays a decision: engines come back whether or not anybody knows why they went.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from sglang_operator import supervision
from sglang_operator.api.names import Uid
from sglang_operator.ask import capacity
from sglang_operator.ask import events as inquiries
from sglang_operator.cluster.lookups import CENSUS_SECONDS, Lookups
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import Memory
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import plan as plans
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool

# For so long a pass waits for the cause of an end, which is told only once.
MOMENT_SECONDS = 0.3


def with_events(memory: Memory, pods: tuple[ObservedPod, ...]) -> tuple[ObservedPod, ...]:
    """The pods with what was looked up of them so far."""
    if not memory.events:
        return pods
    present = {pod.uid for pod in pods}
    memory.events = {uid: known for uid, known in memory.events.items() if uid in present}
    return tuple(
        replace(pod, events=memory.events[pod.uid][2]) if pod.uid in memory.events else pod
        for pod in pods
    )


class Explainer:
    """Looks up beside the passes; ``wake`` is called with a pool's key when one is to look again.

    What is known by then is told.  A pass that held on would hold the pool's gates too.
    """

    def __init__(self, lookups: Lookups, wake: Callable[[PoolKey], None]) -> None:
        self._lookups = lookups
        self._wake = wake

    async def explained(
        self, key: PoolKey, memory: Memory, pool: Pool, plan: Plan, observed: Observed, now: float
    ) -> Plan:
        """The plan, with what was learnt about causes; it decides the same."""
        told = self._capacity(key, memory, pool, plan, observed)
        if await self._events(key, memory, pool, plan, now):
            observed = replace(observed, pods=with_events(memory, observed.pods))
            plan = plans.plan(pool, observed, now)
        return replace(plan, capacity=told) if told else plan

    async def _events(
        self, key: PoolKey, memory: Memory, pool: Pool, plan: Plan, now: float
    ) -> bool:
        """Ask for the events that explain something; each end once, a slow start now and then.

        Whether they are there already: an end is told once, so its cause is given a moment.
        """
        never = (float("-inf"), -1, ())
        wanted = {
            pod.uid: pod
            for pod in inquiries.unexplained_ends(pool, plan)
            if memory.events.get(pod.uid, never)[1] != pod.restarts
        }
        for pod in inquiries.slow_to_create(plan, now):
            if now - memory.events.get(pod.uid, never)[0] >= inquiries.CREATING_SECONDS:
                wanted[pod.uid] = pod
        if not wanted or _is_under_way(memory.asking):
            return False
        work = self._learn_events(key, memory, wanted, now)
        memory.asking = asking = supervision.begun("events of pods", work)
        done, _ = await asyncio.wait({asking}, timeout=MOMENT_SECONDS)
        if done:
            return bool(asking.result())
        asking.add_done_callback(lambda task: self._woken(key, task))
        return False

    async def _learn_events(
        self, key: PoolKey, memory: Memory, wanted: Mapping[Uid, ObservedPod], now: float
    ) -> bool:
        found = await self._lookups.events(key.namespace, wanted)
        for uid, events in found.items():
            memory.events[uid] = (now, wanted[uid].restarts, events)
        return bool(found)

    def _capacity(
        self, key: PoolKey, memory: Memory, pool: Pool, plan: Plan, observed: Observed
    ) -> str:
        """Why no node has room for an engine, where nodes may be seen."""
        if observed.nodes is None or not inquiries.lacks_room(plan):
            return ""
        resource = pool.resource
        having = [node.name for node in observed.nodes.values() if node.resources.get(resource)]
        known, holders = memory.counted
        fresh = memory.counted_until > time.monotonic() and known == resource
        if not fresh and not _is_under_way(memory.counting):
            counting = supervision.begun("census", self._count(memory, resource, having))
            memory.counting = counting
            counting.add_done_callback(lambda task: self._woken(key, task))
        if known != resource:
            holders = None  # of that nothing is known yet
        every = pool.active * pool.gpus
        return capacity.explain(
            resource,
            pool.gpus_per_pod,
            observed.nodes.values(),
            holders,
            namespace=key.namespace,
            pool=every,
        )

    async def _count(self, memory: Memory, resource: str, nodes: list[str]) -> bool:
        """Whether it brought news."""
        holders = await self._lookups.census(resource, nodes)
        before, memory.counted = memory.counted, (resource, holders)
        memory.counted_until = time.monotonic() + CENSUS_SECONDS
        return memory.counted != before

    def _woken(self, key: PoolKey, task: asyncio.Task[bool | None]) -> None:
        if not task.cancelled() and task.result():
            self._wake(key)


def _is_under_way(task: asyncio.Task[bool | None] | None) -> bool:
    return task is not None and not task.done()
