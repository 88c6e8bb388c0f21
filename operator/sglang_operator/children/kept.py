"""The objects of a pool whose spec is refused: what chooses pods and addresses is put right.

That follows from the pool's name and from its registry, which says how the spec was last
understood.  What else only the spec tells stays as it is found, and is not made anew.
"""

from collections.abc import Iterator
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import disruption_budget, kept_registry, services
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.model import Observed
from sglang_operator.pool.resolve import Owner


def children(owner: Owner, plan: GatePlan, observed: Observed, now: float) -> list[dict[str, Any]]:
    """All that is known of the pool's objects beside its pods, as they should be at ``now``."""
    registry = kept_registry.kept(owner, plan, observed, now)
    known = [*_services(owner, observed), *_budget(owner, observed)]
    return [
        body
        for body in (*known, *([] if registry is None else [registry]))
        if body["kind"] not in observed.absent_kinds
    ]


def _services(owner: Owner, observed: Observed) -> Iterator[dict[str, Any]]:
    """The Service for clients; the one that names engines where there is one."""
    port = kept_registry.port(owner, observed)
    for make in (services.client_service, services.engines_service):
        body = make(owner, port or 0)
        found = _found(owner, "Service", body["metadata"]["name"], observed)
        if found is None and (port is None or make is services.engines_service):
            continue  # nobody knows how it should be made, or whether
        if port is None:
            ports = (found or {}).get("ports")
            if not ports:
                continue
            body["spec"]["ports"] = ports
        yield body


def _budget(owner: Owner, observed: Observed) -> Iterator[dict[str, Any]]:
    name = names.disruption_budget_name(owner.name)
    found = _found(owner, "PodDisruptionBudget", name, observed)
    if found is not None and "minAvailable" in found:
        yield disruption_budget.of_least(owner, found["minAvailable"])


def _found(owner: Owner, kind: str, name: str, observed: Observed) -> dict[str, Any] | None:
    """The spec of the pool's object of this name; None if there is none."""
    child = observed.children.get((kind, name))
    if child is None or child.owner != owner.uid:
        return None
    return dict(child.body.get("spec") or {})
