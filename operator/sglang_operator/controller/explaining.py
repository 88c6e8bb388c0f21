"""Looks up what nothing that is watched explains, after acting and before telling.

It never delays a decision: engines come back whether or not anybody knows why they went.
"""

from dataclasses import replace

from sglang_operator.cluster.lookups import Lookups
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import Memory
from sglang_operator.planner import capacity, inquiries
from sglang_operator.planner import plan as planner
from sglang_operator.planner.observed import Observed, ObservedPod
from sglang_operator.planner.plan import Plan
from sglang_operator.planner.pool import Pool


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


async def explained(
    lookups: Lookups,
    key: PoolKey,
    memory: Memory,
    pool: Pool,
    plan: Plan,
    observed: Observed,
    now: float,
) -> Plan:
    """The plan, with what was learnt about causes; it decides the same."""
    told = await _capacity(lookups, pool, plan, observed)
    if await _learn_events(lookups, key, memory, pool, plan, now):
        observed = replace(observed, pods=with_events(memory, observed.pods))
        plan = planner.plan(pool, observed, now)
    return replace(plan, capacity=told) if told else plan


async def _learn_events(
    lookups: Lookups, key: PoolKey, memory: Memory, pool: Pool, plan: Plan, now: float
) -> bool:
    """Ask for the events that explain something; each end once, a slow start now and then."""
    never = (0.0, -1, ())
    wanted = {
        pod.uid: pod
        for pod in inquiries.unexplained_ends(pool, plan)
        if memory.events.get(pod.uid, never)[1] != pod.restarts
    }
    for pod in inquiries.slow_to_create(plan, now):
        if now - memory.events.get(pod.uid, never)[0] >= inquiries.CREATING_SECONDS:
            wanted[pod.uid] = pod
    if not wanted:
        return False
    found = await lookups.events(key.namespace, wanted)
    for uid, events in found.items():
        memory.events[uid] = (now, wanted[uid].restarts, events)
    return bool(found)


async def _capacity(lookups: Lookups, pool: Pool, plan: Plan, observed: Observed) -> str:
    """Why no node has room for an engine, where nodes may be seen."""
    if observed.nodes is None or not inquiries.lacks_room(plan):
        return ""
    resource = pool.spec.placement.resource_name
    having = [node.name for node in observed.nodes.values() if node.resources.get(resource)]
    holders = await lookups.census(resource, having)
    every = pool.active * pool.gpus
    return capacity.explain(resource, pool.gpus, observed.nodes.values(), holders, every)
