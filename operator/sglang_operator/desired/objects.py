"""All children of a pool but its pods, in the order they are applied."""

from typing import Any

from sglang_operator.desired import disruption_budget, registry, service, weights_lease
from sglang_operator.planner.pool import Pool
from sglang_operator.planner.weights import WeightsPlan


def children(pool: Pool, weights: WeightsPlan) -> list[dict[str, Any]]:
    """Services, PodDisruptionBudget, the weights' Lease and the registry as they should be."""
    wanted = [service.client_service(pool), disruption_budget.disruption_budget(pool)]
    if pool.spec.network.headless_service:
        wanted.append(service.engines_service(pool))
    wanted.append(weights_lease.weights_lease(pool.owner, weights.restore))
    wanted.append(registry.registry(pool, weights))
    return wanted
