"""What one engine pod has for the sake of its seat: its node, and its GPUs by UUID."""

from collections.abc import Mapping
from typing import Any

from sglang_operator.api import device_variables, names
from sglang_operator.placement.seats import Seat

_CLAIM = "gpus"  # as the pod calls its claim
FIELD = "metadata.name"  # of a node, which no label stands for in every cluster


def spec(shared: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """The fields of the pod's spec that are other than those of all; ``shared`` is not changed."""
    if seat.claim:
        return _claiming(shared, seat)
    variable = {"name": device_variables.NVIDIA, "value": ",".join(seat.gpus)}
    containers = [
        {**each, "env": [*each["env"], variable]}
        if each["name"] == names.ENGINE_CONTAINER
        else each
        for each in shared["containers"]
    ]
    return {"containers": containers, "affinity": _on(seat.node, shared.get("affinity") or {})}


def _claiming(shared: Mapping[str, Any], seat: Seat) -> dict[str, Any]:
    """The claim, and in the engine's container those of its devices that are its own."""
    claims = [{"name": _CLAIM, "request": request} for request in seat.requests]
    containers = [
        {**each, "resources": {**each.get("resources", {}), "claims": claims}}
        if each["name"] == names.ENGINE_CONTAINER
        else each
        for each in shared["containers"]
    ]
    claimed = [{"name": _CLAIM, "resourceClaimName": seat.claim}]
    return {"containers": containers, "resourceClaims": claimed}


def annotations(seat: Seat) -> dict[str, str]:
    """What the pod remembers of its seat."""
    return {names.ANNOTATION_SLOT: seat.mark}


def _on(node: str, affinity: Mapping[str, Any]) -> dict[str, Any]:
    """This affinity, on this node alone: the scheduler still decides whether it has room.

    Of several terms one is enough, so that each has to name the node.
    """
    field = {"key": FIELD, "operator": "In", "values": [node]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    of_nodes = affinity.get("nodeAffinity") or {}
    terms = (of_nodes.get(required) or {}).get("nodeSelectorTerms") or [{}]
    wanted = [{**term, "matchFields": [*term.get("matchFields", ()), field]} for term in terms]
    return {
        **affinity,
        "nodeAffinity": {**of_nodes, required: {"nodeSelectorTerms": wanted}},
    }
