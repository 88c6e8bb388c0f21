"""The registry of a pool whose spec is refused: its engines run on, and its trainer with them."""

import time

from sglang_operator import actions
from sglang_operator.clocks import steady
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import CONFLICT_BACKOFF, Memory
from sglang_operator.desired import registry
from sglang_operator.planner.observed import Observed
from sglang_operator.planner.pool import Owner
from sglang_operator.planner.weights import WeightsPlan


async def acknowledge(
    executor: Executor,
    key: PoolKey,
    memory: Memory,
    owner: Owner,
    plan: WeightsPlan,
    observed: Observed,
    *,
    interval: float,
) -> float | None:
    """Tell what was acted upon, and which engines are up; seconds until it is tried again.

    What a trainer waits for does not wait for the ``interval`` between two writes.
    """
    body = registry.kept(owner, plan, observed, steady())
    wanted = [] if body is None else actions.to_have(owner, [body], observed)
    wanted, held = memory.rewrites.split(
        [each for each in wanted if (each.kind, each.name) not in memory.conflicts]
    )
    if not wanted:
        return min(held, default=None)
    awaited = plan.awaited(memory.awaited)
    wait = memory.published_at + interval - time.monotonic()
    if wait > 0 and awaited == memory.awaited:
        return wait
    outcome = await executor.children(key, owner.uid, wanted)
    memory.published_at = time.monotonic()
    for conflict in outcome.conflicts:
        memory.conflicts[conflict] = steady() + CONFLICT_BACKOFF
    retry = memory.learn_of_children(outcome)
    if retry is None:
        memory.awaited = awaited
        memory.rewrites.wrote(wanted)
    return min((again for again in (retry, *held) if again is not None), default=None)
