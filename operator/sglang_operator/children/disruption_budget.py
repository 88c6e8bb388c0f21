"""The PodDisruptionBudget: a node drain takes no more engines away than a rollout would."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Pool


def disruption_budget(pool: Pool) -> dict[str, Any]:
    """An integer ``minAvailable``; engines that are not Ready may always be evicted."""
    return metadata.child(
        pool.owner,
        "policy/v1",
        "PodDisruptionBudget",
        names.disruption_budget_name(pool.owner.name),
        "engines",
        spec={
            "minAvailable": max(0, pool.active - pool.max_unavailable),
            "selector": {"matchLabels": names.selector(pool.owner.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
