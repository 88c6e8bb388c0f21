"""The PodDisruptionBudget: a node drain takes no more engines away than a rollout would."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Owner, Pool


def disruption_budget(pool: Pool, reachable: int = 1) -> dict[str, Any]:
    """An integer ``minAvailable``; engines that are not Ready may always be evicted.

    It counts pods, and of an engine that spans nodes each pod that is evicted takes the engine
    with it.  So no more pods may go at once than engines may, and after the first the others of
    its engine are missing too: the next waits until that is back.  Followers have no gate and are
    Ready behind their leader's closed one: while clients reach no engine at all (``reachable``),
    any may go.
    """
    least = max(0, pool.active * pool.nodes - pool.max_unavailable)
    if pool.nodes > 1 and not reachable:
        least = 0
    return of_least(pool.owner, least, spans=pool.nodes > 1)


def of_least(owner: Owner, least: Any, *, spans: bool) -> dict[str, Any]:
    """The budget that leaves so many pods; ``spans``: of engines that are several pods each."""
    chosen: dict[str, Any] = {"matchLabels": names.selector(owner.name)}
    if spans:
        members = {"key": names.LABEL_COMPONENT, "operator": "In"}
        chosen = {
            "matchLabels": {names.LABEL_POOL: owner.name},
            "matchExpressions": [{**members, "values": [names.ENGINE, names.FOLLOWER]}],
        }
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
