"""LimitRanges as ``doctor`` sees them: amounts that a namespace gives to whoever names none."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import syntax
from sglang_operator.cli import texts
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError
from sglang_operator.pool import shared_memory
from sglang_operator.pool.resolve import Pool
from sglang_operator.view.cluster_view import ClusterView

NAME = "limits"
_GIB = 2**30
_FEW_CPUS = 2  # below, the processes of one engine wait for each other, and probes fail

Json = Mapping[str, Any]


def check(scope: str, answer: bytes | ClusterError, pools: ClusterView | None) -> Iterator[Check]:
    """What each LimitRange of a namespace means for engines."""
    if isinstance(answer, ClusterError):
        return
    own = _pools(scope, pools)
    for item in json.loads(answer)["items"]:
        name = item["metadata"]["name"]
        for limit in item["spec"].get("limits", []):
            for resource in ("memory", "cpu"):
                yield from _judged(name, scope, limit, resource, own)


def _pools(scope: str, pools: ClusterView | None) -> list[Pool]:
    seen = (pool.resolved for pool in pools.pools) if pools is not None else ()
    return [pool for pool in seen if isinstance(pool, Pool) and pool.owner.namespace == scope]


def _judged(
    name: str, scope: str, limit: Json, resource: str, pools: list[Pool]
) -> Iterator[Check]:
    """By kind: the most that a pod may have, and what a container gets that names nothing."""
    least = _least(resource, pools)
    most = limit.get("max", {}).get(resource)
    told = {"name": name, "scope": scope, "resource": resource}
    if limit.get("type") in ("Container", "Pod") and _is_below(most, least):
        what = texts.LIMIT_MOST.format(amount=most, needed=_shown(resource, least), **told)
        yield Check(name=NAME, grade=Grade.BAD, what=what, do=texts.DO_LIMIT_MOST)
        return
    # Without a default the most is one: so the API server has it.
    given = limit.get("default", {}).get(resource, most)
    if limit.get("type") != "Container" or not _is_below(given, least):
        return
    without = sorted(pool.owner.name for pool in pools if not _has_limit(pool, resource))
    if pools and not without:
        return  # every pool here names its own
    what = texts.LIMIT_GIVEN.format(amount=given, needed=_shown(resource, least), **told)
    if without:
        what += texts.LIMIT_FOR.format(pools=", ".join(without[:4]) + ("…" * (len(without) > 4)))
    do = texts.DO_LIMIT_GIVEN.format(resource=resource)
    yield Check(name=NAME, grade=Grade.WARNING, what=what, do=do)


def _least(resource: str, pools: list[Pool]) -> int:
    """What no engine lives below: its /dev/shm alone may hold that much memory."""
    if resource == "cpu":
        return _FEW_CPUS
    own = (pool for pool in pools if pool.parts.shm is None)
    sizes = (shared_memory.size(pool.template, pool.gpus_per_pod) for pool in own)
    return min(filter(None, sizes), default=shared_memory.gib(1) * _GIB)


def _is_below(amount: object, least: int) -> bool:
    value = syntax.quantity(amount) if amount is not None else None
    return value is not None and value < least


def _shown(resource: str, least: int) -> str:
    if resource == "cpu":
        return texts.LIMIT_NEEDS_CPU.format(least=least)
    return texts.LIMIT_NEEDS_MEMORY.format(least=least // _GIB)


def _has_limit(pool: Pool, resource: str) -> bool:
    limits = pool.template.container.get("resources", {}).get("limits", {})
    return resource in limits
