"""Which addresses the pods and Services of a cluster have, as ``doctor`` sees them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.cli import texts
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError

NAME = "addresses"
QUESTIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "kubernetes service": ("/api/v1/namespaces/default/services/kubernetes", {}),
}
_TOLD_BY = "POD_IP"  # the variable of the operator's pods

Answer = bytes | ClusterError


def check(found: Mapping[str, Answer]) -> Iterator[Check]:
    """Whether engines listen where their pods are reached; nothing where all is IPv4."""
    operators = _items(found["operator pods"])
    pods = _pods(operators, _items(found["nodes"]))
    services = _services(found["kubernetes service"])
    if "IPv6" not in (pods, services):
        return
    what = texts.FAMILIES.format(pods=pods or "?", services=services or "?")
    grade, do = Grade.GOOD, ""
    if pods == "IPv6" and operators and not all(map(_knows, operators)):
        grade, what, do = Grade.BAD, what + texts.FAMILIES_UNTOLD, texts.DO_FAMILIES
    elif pods and services and pods != services:
        grade, what, do = Grade.BAD, what + texts.FAMILIES_DIFFER, texts.DO_FAMILIES_DIFFER
    yield Check(name=NAME, grade=grade, what=what, do=do)


def _items(answer: Answer) -> list[Mapping[str, Any]]:
    return [] if isinstance(answer, ClusterError) else list(json.loads(answer)["items"])


def _pods(operators: list[Mapping[str, Any]], nodes: list[Mapping[str, Any]]) -> str:
    """The family that pods have first: seen in the operator's, else read off the nodes."""
    addresses = [pod.get("status", {}).get("podIP", "") for pod in operators]
    addresses += [node.get("spec", {}).get("podCIDR", "") for node in nodes]
    first = next(filter(None, addresses), "")
    return ("IPv6" if ":" in first else "IPv4") if first else ""


def _services(answer: Answer) -> str:
    """The family that Services have unless they say otherwise, as every client Service."""
    if isinstance(answer, ClusterError):
        return ""
    families: list[str] = json.loads(answer)["spec"].get("ipFamilies") or [""]
    return families[0]


def _knows(pod: Mapping[str, Any]) -> bool:
    """Whether an operator is told which addresses pods have."""
    containers = pod.get("spec", {}).get("containers", [])
    variables = {item["name"] for each in containers for item in each.get("env", [])}
    flags = [flag for each in containers for flag in each.get("args", [])]
    return _TOLD_BY in variables or any(flag.startswith("--pod-address") for flag in flags)
