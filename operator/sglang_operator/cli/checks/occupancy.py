"""The pools of a cluster as ``doctor`` sees them: who has the GPUs, and which are not well."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.api import conditions, names
from sglang_operator.cli import texts
from sglang_operator.cli.checks.check import Check, Grade, unknown
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import ClusterError, Why
from sglang_operator.kube import paths
from sglang_operator.observed import wire
from sglang_operator.pool.resolve import Pool
from sglang_operator.view import texts as view_texts
from sglang_operator.view.cluster_view import ClusterView, PoolView, cluster_view

QUESTIONS = {
    "pools": (paths.pools(""), {}),
    "engines": (paths.pods(""), {"labelSelector": f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"}),
}
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Use:
    """GPUs of one resource: those that engines have, by node, and those that pools ask for."""

    held: Mapping[str, int]
    wanted: int
    unplaced: int  # of engines that no node takes


def seen(found: Mapping[str, bytes | ClusterError], now: float) -> ClusterView | ClusterError:
    """The pools and their pods; the refusal where they may not be seen."""
    pools, pods = found["pools"], found["engines"]
    if isinstance(pools, ClusterError):
        return pools
    if isinstance(pods, ClusterError):
        return pods
    records = look.items(pools, wire.CustomResource)
    return cluster_view(records, look.items(pods, wire.Pod), None, now=now)


def use(pools: ClusterView, resource: str) -> Use:
    """What all pools do with this resource."""
    held: Counter[str] = Counter()
    wanted = unplaced = 0
    for pool in pools.pools:
        joins = isinstance(pool.resolved, Pool) and pool.resolved.placement.seats
        if pool.resource != resource or joins:
            continue  # who joins a trainer asks for none
        wanted += pool.desired * pool.gpus
        for engine in pool.plan.engines:
            has = engine.held(resource, pool.gpus)
            held.update(has)
            if engine.unschedulable and not engine.placed:
                unplaced += engine.gpus(resource, pool.gpus) - sum(has.values())
        for pod in pool.leaving:
            held[pod.node] += pod.gpus(resource, pool.gpus // pod.nodes)
    return Use(held=held, wanted=wanted, unplaced=unplaced)


def check(pools: ClusterView | ClusterError) -> Check | None:
    """How many pools are Ready, and what keeps the others; None without a definition."""
    name = "pools"
    if isinstance(pools, ClusterError):
        return None if pools.why is Why.NOT_FOUND else unknown(name, pools)
    if not pools.pools:
        return Check(name=name, grade=Grade.GOOD, what=texts.POOLS_NONE)
    bad = [pool for pool in pools.pools if not pool.ready]
    total = len(pools.pools)
    what = texts.POOLS_READY.format(ready=total - len(bad), total=total)
    if not bad:
        return Check(name=name, grade=Grade.GOOD, what=what)
    told = [f"{pool.namespace}/{pool.name} {_reason(pool)}" for pool in bad[:_SHOWN]]
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    what += f": {', '.join(told)}{more}"
    return Check(name=name, grade=Grade.WARNING, what=what, do=texts.DO_STATUS_ALL)


def _reason(pool: PoolView) -> str:
    said = pool.condition(conditions.READY).get("reason", "") if pool.observed else ""
    return said or view_texts.NOT_SEEN_YET
