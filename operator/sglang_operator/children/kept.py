"""The objects of a pool whose spec is refused: what chooses pods and addresses is put right.

That follows from what is still known of the pool.  What else only the spec tells stays as it is
found, and is not made anew.
"""

from collections.abc import Iterator
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import disruption_budget, kept_registry, services
from sglang_operator.children.last_known import LastKnown
from sglang_operator.observed import groups


def kept_services(known: LastKnown) -> Iterator[dict[str, Any]]:
    """The Service for clients; the one that names engines where there is one."""
    port = known.port
    for make in (services.client_service, services.engines_service):
        body = make(known.owner, port or 0)
        found = known.spec_of("Service", body["metadata"]["name"])
        if found is None and (port is None or make is services.engines_service):
            continue  # nobody knows how it should be made, or whether
        if port is None:
            ports = (found or {}).get("ports")
            if not ports:
                continue
            body["spec"]["ports"] = ports
        yield body


def kept_budget(known: LastKnown) -> Iterator[dict[str, Any]]:
    """The PodDisruptionBudget that is there, for as many engines as it says."""
    name = names.disruption_budget_name(known.owner.name)
    found = known.spec_of("PodDisruptionBudget", name)
    if found is not None and "minAvailable" in found:
        several = [group for group in groups.of(known.observed.pods) if group.size > 1]
        away = [group.engine for group in several if disruption_budget.is_away(group.leader)]
        yield disruption_budget.of_least(
            known.owner, found["minAvailable"], spans=bool(several), away=away
        )


def kept_registry_if_told(known: LastKnown) -> Iterator[dict[str, Any]]:
    """The registry that is there, as its engines stand now."""
    registry = kept_registry.kept(known)
    if registry is not None:
        yield registry


def nothing(known: LastKnown) -> Iterator[dict[str, Any]]:
    """All of such a kind stay as they are found, and none is made."""
    return iter(())
