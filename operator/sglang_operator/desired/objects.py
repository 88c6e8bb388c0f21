"""All children of a pool but its pods, in the order they are applied."""

from collections.abc import Sequence
from typing import Any

from sglang_operator.desired import disruption_budget, registry, service
from sglang_operator.planner.plan import EngineView
from sglang_operator.planner.pool import Pool


def children(pool: Pool, engines: Sequence[EngineView]) -> list[dict[str, Any]]:
    """The Services, the PodDisruptionBudget and the registry as they should be."""
    wanted = [service.client_service(pool), disruption_budget.disruption_budget(pool)]
    if pool.spec.network.headless_service:
        wanted.append(service.engines_service(pool))
    wanted.append(registry.registry(pool, engines))
    return wanted
