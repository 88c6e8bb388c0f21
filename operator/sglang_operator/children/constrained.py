"""What one engine pod has of affinity and spreading beside podTemplate's: all of both holds."""

from collections.abc import Mapping
from typing import Any

from sglang_operator.children import seated
from sglang_operator.scheduling import topology


def spec(shared: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the pod's spec that are other than those of all; ``shared`` is not changed.

    In each list the operator's own come first (``children.origin``), but in ``near``.
    """
    found: dict[str, Any] = {}
    if "affinity" in added:
        affinity = shared.get("affinity") or {}
        to_pods = affinity.get("podAffinity") or {}
        own = added["affinity"]["podAffinity"]
        terms = {kind: [*own[kind], *(to_pods.get(kind) or ())] for kind in own}
        found["affinity"] = {**affinity, "podAffinity": {**to_pods, **terms}}
    if own := added.get(topology.SPREAD):
        found[topology.SPREAD] = [*own, *(shared.get(topology.SPREAD) or ())]
    return found


def near(shared: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The affinity of a pod that is rather to be on this node than on another like it.

    It comes last, and weighs the least: whatever podTemplate prefers of nodes counts more.  What is
    preferred of the places of other pods, or of spreading, is weighed apart by the scheduler: its
    best score is worth as much as the best of nodes, whatever the weights.  There it stays away.
    """
    affinity = shared.get("affinity") or {}
    of_pods = (affinity.get(kind) or {} for kind in ("podAffinity", "podAntiAffinity"))
    spreads = shared.get(topology.SPREAD) or ()
    if any(each.get(topology.PREFERRED) for each in of_pods) or any(
        each.get("whenUnsatisfiable") == "ScheduleAnyway" for each in spreads
    ):
        return {}
    to_nodes = affinity.get("nodeAffinity") or {}
    field = {"key": seated.FIELD, "operator": "In", "values": [node]}
    term = {"weight": 1, "preference": {"matchFields": [field]}}
    preferred = [*(to_nodes.get(topology.PREFERRED) or ()), term]
    return {"affinity": {**affinity, "nodeAffinity": {**to_nodes, topology.PREFERRED: preferred}}}
