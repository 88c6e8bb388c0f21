"""The PodDisruptionBudget: a node drain takes no more engines away than a rollout would."""

from collections.abc import Collection, Sequence
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engines import EngineStatus, span
from sglang_operator.observed.model import ObservedPod
from sglang_operator.pool.resolve import Owner, Pool


def disruption_budget(pool: Pool, weights: GatePlan | None = None) -> dict[str, Any]:
    """An integer ``minAvailable``; engines that are not Ready may always be evicted.

    It counts pods, and of an engine that spans nodes each pod that is evicted takes the engine
    with it.  So no more pods may go at once than engines may, and after the first the others of
    its engine are missing too: the next waits until that is back.  Each engine counts as the pods
    that it runs in, whatever the spec asks for by now.

    Followers have no gate and are Ready behind their leader's closed one.  So the budget does not
    choose the pods of an engine that is not Ready; while clients reach none at all, any may go.
    """
    engines = weights.engines if weights is not None else ()
    own = {engine.name for engine in engines}
    beside = weights.unlisted if weights is not None else ()
    earlier = [each for each in beside if each.reachable and each.name not in own]
    least = _pods(pool, engines, earlier) - pool.max_unavailable
    spans = pool.nodes > 1 or span((*engines, *beside))
    if not spans or weights is None:
        return of_least(pool.owner, max(0, least), spans=spans)
    if not (weights.synced or earlier):
        return of_least(pool.owner, 0, spans=True)
    opening = {change.pod.uid for change in weights.gates if change.is_open}
    several = (each for each in (*engines, *earlier) if each.exists and each.engine.pods > 1)
    closed = [each for each in several if each.uid not in opening and is_away(each.leader)]
    # Each is one that is out of service, however many pods it has.
    least -= sum(each.engine.pods - 1 for each in closed)
    # Of one that comes up beside another (maxSurge) they stand in for none of the pool's pods.
    least += sum(
        pod.ready
        for each in beside
        if each.name in own
        for pod in each.members
        if pod.node_rank and not pod.deleting
    )
    away = [each.name for each in closed]
    return of_least(pool.owner, max(0, least), spans=True, away=away)


def _pods(pool: Pool, engines: Sequence[EngineStatus], earlier: Sequence[EngineStatus]) -> int:
    """How many the pool is, or was while engines of an ``earlier`` grouping hold others' GPUs."""
    if not engines:
        return pool.active * pool.nodes
    wanted = sum(each.engine.pods for each in engines)
    if all(each.exists for each in engines):
        return wanted  # those of before are only to go
    return max(wanted, sum(each.engine.pods for each in (*engines, *earlier) if each.exists))


def is_away(leader: ObservedPod | None) -> bool:
    """Whether clients are not sent to the engine of this leader, and not for a missed probe."""
    if leader is None or not leader.let_in:
        return True
    return not (leader.ready or leader.answered or leader.started)


def of_least(
    owner: Owner, least: Any, *, spans: bool, away: Collection[str] = ()
) -> dict[str, Any]:
    """The budget that leaves so many pods; ``spans``: of engines that are several pods each.

    Those of the engines that are ``away`` may go.
    """
    chosen: dict[str, Any] = {"matchLabels": names.selector(owner.name)}
    if spans:
        members = {"key": names.LABEL_COMPONENT, "operator": "In"}
        chosen = {
            "matchLabels": {names.LABEL_POOL: owner.name},
            "matchExpressions": [{**members, "values": [names.ENGINE, names.FOLLOWER]}],
        }
        if away:
            but = {"key": names.LABEL_ENGINE, "operator": "NotIn", "values": sorted({*away})}
            chosen["matchExpressions"].append(but)
    return metadata.child(
        owner,
        "policy/v1",
        "PodDisruptionBudget",
        names.disruption_budget_name(owner.name),
        "engines",
        spec={
            "minAvailable": least,
            "selector": chosen,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
