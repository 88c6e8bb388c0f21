"""The PodDisruptionBudget: a node drain takes no more engines away than a rollout would."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Owner, Pool


def disruption_budget(pool: Pool) -> dict[str, Any]:
    """An integer ``minAvailable``; engines that are not Ready may always be evicted."""
    return of_least(pool.owner, max(0, pool.active - pool.max_unavailable))


def of_least(owner: Owner, least: Any) -> dict[str, Any]:
    """The budget that leaves so many engines."""
    return metadata.child(
        owner,
        "policy/v1",
        "PodDisruptionBudget",
        names.disruption_budget_name(owner.name),
        "engines",
        spec={
            "minAvailable": least,
            "selector": {"matchLabels": names.selector(owner.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
