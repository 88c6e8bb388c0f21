"""What a change of groups will come to on the nodes, played to its end before it is made.

Whether larger engines find room, and whether those of a gated pool can wait for syncs at all.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.cli import texts
from sglang_operator.observed import groups
from sglang_operator.observed.model import Observed, ObservedNode, ObservedPod
from sglang_operator.plan import plan as plans
from sglang_operator.plan.plan import CreateEngine, Plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import rollout_waits

MOST_ENGINES = 512  # of a pool that is played
MOST_STEPS = 200


def warnings(pool: Pool, pods: tuple[ObservedPod, ...], now: float) -> Iterator[str]:
    """What the change would come to wait for, on the nodes where the pool's pods stand now."""
    sizes = {len(group.devices) for group in groups.of(pods) if group.devices}
    grows = bool(sizes) and min(sizes) < pool.gpus
    wanted = {engine.name for engine in pool.running}
    # Those that trainers give weights to: clients reach no new one before the next sync.
    watched = pool.gated and any(pod.engine not in wanted for pod in pods)
    if not (grows or watched) or max(len(pods), pool.active) > MOST_ENGINES:
        return
    least = (pool.active - pool.max_unavailable) * pool.gpus
    least = min(least, _serving(pods))
    resource = pool.resource
    held = _held(pods)
    nodes = {
        name: ObservedNode(
            name=name, resources={resource: max(pool.spec.num_gpus_per_node, held[name])}
        )
        for name in held
    }
    for _ in range(MOST_STEPS):
        step = plans.plan(pool, Observed(pods=pods, nodes=nodes), now)
        if step.waiting is not None and step.waiting.what is Waits.FOR_ROOM:
            yield texts.DIFF_NO_ROOM.format(message=rollout_waits.message(pool, step.waiting))
            return
        if step.creates or step.removals:
            pods = _after(pool, pods, step, nodes)
        elif all(pod.ready for pod in pods) or not (pods := _synced(wanted, pods)):
            return
        if watched and _serving(pods) < least:
            yield texts.DIFF_NO_SYNC.format(budget=pool.spec.rollout.max_unavailable)
            if not grows:
                return
            watched = False


def _serving(pods: tuple[ObservedPod, ...]) -> int:
    return sum(len(pod.devices) for pod in pods if pod.ready)


def _synced(
    wanted: set[names.EngineName], pods: tuple[ObservedPod, ...]
) -> tuple[ObservedPod, ...]:
    """The pods after the next sync; none where it cannot begin."""
    if wanted - {pod.engine for pod in pods if pod.containers_ready}:
        return ()
    return tuple(
        dataclasses.replace(pod, ready=True) if pod.engine in wanted else pod for pod in pods
    )


def _held(pods: tuple[ObservedPod, ...]) -> Counter[str]:
    held: Counter[str] = Counter()
    for pod in pods:
        if pod.node and not pod.ended:
            held[pod.node] += len(pod.devices)
    return held


def _after(
    pool: Pool,
    pods: tuple[ObservedPod, ...],
    step: Plan,
    nodes: dict[str, ObservedNode],
) -> tuple[ObservedPod, ...]:
    """The pods once those that go have gone, and those that come serve where they fit."""
    going = {removal.pod.uid for removal in step.removals}
    left = [pod for pod in pods if pod.uid not in going]
    for create in step.creates:
        for node_rank in create.node_ranks:
            held = _held(tuple(left))
            resource = pool.resource
            free = {name: node.resources[resource] - held[name] for name, node in nodes.items()}
            fitting = [name for name, count in free.items() if count >= pool.gpus_per_pod]
            node = min(fitting, key=lambda name: (free[name], name), default="")
            left.append(_pod(pool, create, node_rank, node))
    return tuple(left)


def _pod(pool: Pool, create: CreateEngine, node_rank: int, node: str) -> ObservedPod:
    name = engine_pod.member_name(pool, create.engine, create.attempt, node_rank)
    lacking = "" if node else f"Insufficient {pool.resource}"
    return ObservedPod(
        name=name,
        uid=names.Uid(name),
        resource_version=0,
        engine=create.engine.name,
        attempt=create.attempt,
        revision=pool.revision,
        nodes=create.engine.pods,
        node_rank=node_rank,
        devices=engine_pod.devices(create.engine, node_rank),
        node=node,
        phase="Running" if node else "Pending",
        containers_ready=bool(node),
        ready=bool(node) and not pool.gated,
        gated=pool.gated,
        unschedulable=lacking,
    )
