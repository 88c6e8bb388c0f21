"""On which node each pod of a pool was last, as the status has it.  Pure.

A replacement is faster where its engine was: the image is there, and so are compiled kernels and
the page cache of a model's files.  The status is the memory, so that it outlasts the pods, a
suspended pool and the operator.  Pods are told by a number, rank × pods of an engine + node rank,
and those of one node as ranges: a pool may have thousands.

What was of engines of another size is forgotten: their ranks were others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import stored


def told(pool: Pool, plan: Plan, previous: Mapping[str, Any]) -> list[dict[str, str]]:
    """As it stands in the status: by node, the pods that are there or were there last."""
    if pool.placement.seats:
        return []  # where a trainer has its GPUs, and nowhere else
    known = dict(last(pool, previous))
    for engine in plan.engines:
        for pod in engine.members if engine.engine.pods == pool.nodes else ():
            if pod.node:
                known[number(pool, engine.rank, pod.node_rank)] = pod.node
    by_node: dict[str, list[int]] = defaultdict(list)
    for pod_number, node in sorted(known.items()):
        by_node[node].append(pod_number)
    return [{"name": node, "pods": _written(found)} for node, found in sorted(by_node.items())]


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
