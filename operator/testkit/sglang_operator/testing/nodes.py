"""Fake GPU nodes: the ``3x8`` grammar and the Node objects it stands for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from sglang_operator.testing import errors

GPU = "nvidia.com/gpu"
MANAGED_LABEL = "kwok.x-k8s.io/node"  # KWOK keeps alive the nodes that have it, and no others
MANAGED_VALUE = "fake"
READY_ANNOTATION = "fake.sglang/node-ready"
NAME = "gpu-node-{}"
GRAMMAR = re.compile(r"(?P<count>\d{1,5})x(?P<gpus>\d{1,3})")
MAX_NODES = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One fake node: its name and number of GPUs."""

    name: str
    gpus: int


def parse(text: str) -> list[NodeSpec]:
    """Read ``3x8`` or ``2x8,1x4`` (nodes x GPUs on each); ``""`` and ``0`` mean no nodes.

    Raises KitError when the text is neither.
    """
    specs: list[NodeSpec] = []
    if text.strip() in ("", "0"):
        return specs
    for group in text.split(","):
        match = GRAMMAR.fullmatch(group.strip())
        if match is None:
            raise errors.KitError(
                f"nodes={text!r}: {group.strip()!r} is not COUNTxGPUS; write 3x8 for three nodes "
                "with eight GPUs each, 2x8,1x4 for two kinds, 0 for none"
            )
        for _ in range(int(match["count"])):
            specs.append(NodeSpec(name=NAME.format(len(specs)), gpus=int(match["gpus"])))
    if len(specs) > MAX_NODES:
        raise errors.KitError(f"nodes={text!r}: {len(specs)} nodes, at most {MAX_NODES} are held")
    return specs


def manifest(
    spec: NodeSpec,
    *,
    product: str,
    labels: Mapping[str, str] | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Return the Node object for one fake node; ``labels`` win over the usual ones."""
    resources = {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "4Ti", "pods": "250"}
    if spec.gpus:
        resources[GPU] = str(spec.gpus)
    addresses = [{"type": "Hostname", "address": spec.name}]
    if address is not None:
        addresses.insert(0, {"type": "InternalIP", "address": address})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": spec.name,
            "labels": {
                "kubernetes.io/hostname": spec.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": f"fake-{spec.gpus}gpu",
                "topology.kubernetes.io/region": "region-0",
                "topology.kubernetes.io/zone": "zone-0",
                MANAGED_LABEL: MANAGED_VALUE,
                **gpu_labels(spec.gpus, product),
                **(labels or {}),
            },
        },
        "status": {"capacity": resources, "allocatable": resources, "addresses": addresses},
    }


def gpu_labels(gpus: int, product: str) -> dict[str, str]:
    """The labels by which NVIDIA's feature discovery tells of a node's GPUs."""
    if not gpus:
        return {}
    return {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus)}


def address(number: int) -> str:
    """The made-up address of the node with this number."""
    return f"10.250.{number // 250}.{number % 250 + 1}"


def is_ready(node: Mapping[str, Any], *, gpus: int = 0) -> bool:
    """Tell whether a Node object is Ready, free of taints, and has so many GPUs to give."""
    status = node.get("status", {})
    conditions = status.get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    has_gpus = int(status.get("allocatable", {}).get(GPU, 0)) >= gpus
    return ready and has_gpus and not node.get("spec", {}).get("taints")


def heartbeat(node: Mapping[str, Any]) -> str:
    """When a node's kubelet last said how it is; empty before it has."""
    conditions = node.get("status", {}).get("conditions", [])
    return next((c["lastHeartbeatTime"] for c in conditions if c["type"] == "Ready"), "")
