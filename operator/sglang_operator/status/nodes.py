"""On which node each pod of a pool was last, as the status has it.  Pure.

A replacement is faster where its engine was: the image is there, and so are compiled kernels and
the page cache of a model's files.  The status is the memory, so that it outlasts the pods, a
suspended pool and the operator.  Pods are told by a number, rank × pods of an engine + node rank,
and those of one node as ranges: a pool may have thousands.

What was of engines of another size is forgotten: their ranks were others.  So is where an engine
failed, hung, was evicted or lost its node, for it may be the node that was at fault, and where some
pods of one find no room beside the others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from typing import Any

from sglang_operator.api.names import EngineName
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import stored


def told(pool: Pool, plan: Plan, previous: Mapping[str, Any]) -> list[dict[str, str]]:
    """As it stands in the status: by node, the pods that are there or were there last."""
    if pool.placement.seats:
        return []  # where a trainer has its GPUs, and nowhere else
    known = dict(last(pool, previous))
    lost = failed(plan)
    for rank in [each.rank for each in pool.engines if each.name in lost] if lost else ():
        for node_rank in range(pool.nodes):
            known.pop(number(pool, rank, node_rank), None)
    for engine in plan.engines:
        attempts = lost.get(engine.name, ())
        for pod in engine.members if engine.engine.pods == pool.nodes else ():
            if pod.node and pod.attempt not in attempts and not (pod.deleting or pod.ended):
                known[number(pool, engine.rank, pod.node_rank)] = pod.node
    by_node: dict[str, list[int]] = defaultdict(list)
    for pod_number, node in sorted(known.items()):
        by_node[node].append(pod_number)
    return [{"name": node, "pods": _written(found)} for node, found in sorted(by_node.items())]


def failed(plan: Plan) -> Mapping[EngineName, Set[int]]:
    """The engines, with the attempts, that are not to be sent to where they were."""
    found = defaultdict[EngineName, set[int]](set)
    for pod in _failed(plan):
        found[pod.engine].add(pod.attempt)
    return found


def _failed(plan: Plan) -> Iterator[ObservedPod]:
    yield from (each.pod for each in plan.lost)
    yield from (each.pod for each in plan.hung)
    yield from (*plan.ended, *plan.disrupted, *plan.taken_over)
    for engine in plan.down:
        if engine.lost_nodes or _is_torn(engine):
            yield from engine.members


def _is_torn(engine: EngineStatus) -> bool:
    """Whether some of its pods have a node, and others find none."""
    pods = engine.members
    return any(pod.node for pod in pods) and any(pod.finds_no_node for pod in pods)


def last(pool: Pool, status: Mapping[str, Any]) -> Mapping[int, str]:
    """The node on which each pod was last, by its number, as far as a stored status tells."""
    known = stored.understood(status)
    if known.get("resolved", {}).get("numGpusPerWorker") != pool.gpus:
        return {}
    limit = len(pool.engines) * pool.nodes
    return {n: each["name"] for each in known.get("nodes", ()) for n in _read(each["pods"], limit)}


def number(pool: Pool, rank: int, node_rank: int) -> int:
    """By which a pod is told here."""
    return rank * pool.nodes + node_rank


def _written(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for each in numbers:
        if ranges and ranges[-1][1] == each - 1:
            ranges[-1][1] = each
        else:
            ranges.append([each, each])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _read(text: str, limit: int) -> Iterator[int]:
    """The numbers below the limit; nothing for what is no range."""
    for part in text.split(","):
        first, _, until = part.partition("-")
        if first.isdecimal() and (until or first).isdecimal() and len(part) < 20:
            yield from range(int(first), min(int(until or first) + 1, limit))
