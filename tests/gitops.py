"""How GitOps tools read a status: independent transcriptions of kstatus and of Flux's checks.

kstatus: sigs.k8s.io/cli-utils pkg/kstatus/status/generic.go.  Flux: fluxcd/pkg
runtime/conditions/check.  Written from the rules, not from our code.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

NEGATIVE = ("Reconciling", "Stalled", "Suspended")


def kstatus(found: Json) -> str:
    """Current, InProgress, Failed or Terminating."""
    if found["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = found.get("status", {})
    observed = status.get("observedGeneration")
    if observed is not None and observed != found["metadata"]["generation"]:
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


def flux_complaints(found: Json) -> Iterator[str]:
    """What Flux's own checker would find wrong with the conditions."""
    status, generation = found.get("status", {}), found["metadata"]["generation"]
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    ready = conditions.get("Ready")
    if ready is None:
        yield "Ready is missing"
        return
    present = {name for name in NEGATIVE if name in conditions}
    if {"Reconciling", "Stalled"} <= present:
        yield "both Reconciling and Stalled"
    if present and ready["status"] == "True" and present & {"Reconciling", "Stalled"}:
        yield "Ready although something is wrong"
    for name in present:
        if conditions[name]["status"] != "True":
            yield f"{name} is there without being True"
    for condition in conditions.values():
        if "observedGeneration" not in condition:
            yield f"{condition['type']} has no observedGeneration"
        elif ready["status"] == "True" and condition["observedGeneration"] != generation:
            yield f"{condition['type']} is older than Ready"
        if not condition["reason"] or not condition["message"]:
            yield f"{condition['type']} does not say why"
    if status["observedGeneration"] > generation:
        yield "observedGeneration from the future"
    if ready["status"] == "Unknown" and "Reconciling" not in present:
        yield "Unknown without Reconciling"
    first = next(
        (conditions[n] for n in ("Stalled", "Reconciling", "Suspended") if n in present), None
    )
    if first and (ready["reason"], ready["message"]) != (first["reason"], first["message"]):
        yield "Ready does not say what the worst condition says"
