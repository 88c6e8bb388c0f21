"""GPUs of fake nodes as NVIDIA's driver for dynamic resource allocation publishes them.

Nobody prepares them for a pod there: what the scheduler allocates is what is seen.
"""

import json
from collections.abc import Mapping
from typing import Any

from sglang_operator.testing import ControlPlane
from tests.unit.placement.trainers import gpu

DRIVER = "gpu.nvidia.com"
GPUS = 8  # of a node
API = "/apis/resource.k8s.io/v1"

Json = dict[str, Any]


def device_class(resource: str | None = "nvidia.com/gpu") -> Json:
    """The class of whole cards, as the driver's chart has it."""
    words = 'device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"'
    spec: Json = {"selectors": [{"cel": {"expression": words}}]}
    if resource is not None:
        spec["extendedResourceName"] = resource
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": DRIVER},
        "spec": spec,
    }


def resource_slice(node: int, taints: Mapping[int, Json] | None = None) -> Json:
    """The cards of one node: no number among what is told of them."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"gpu-node-{node}-{DRIVER}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": f"gpu-node-{node}",
            "pool": {"name": f"gpu-node-{node}", "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": f"gpu-{index}",
                    "attributes": {
                        "type": {"string": "gpu"},
                        "uuid": {"string": gpu(node, index)},
                        "productName": {"string": "NVIDIA H100 80GB HBM3"},
                        "brand": {"string": "Nvidia"},
                        "architecture": {"string": "Hopper"},
                        "cudaComputeCapability": {"version": "9.0.0"},
                        "driverVersion": {"version": "580.65.6"},
                        "cudaDriverVersion": {"version": "13.0.0"},
                        "resource.kubernetes.io/pciBusID": {"string": f"0000:1{index}:00.0"},
                        "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:1{index}"},
                    },
                    "capacity": {"memory": {"value": "81559Mi"}},
                    **({"taints": [taints[index]]} if taints and index in taints else {}),
                }
                for index in range(GPUS)
            ],
        },
    }


def publish(plane: ControlPlane, nodes: int, resource: str | None = "nvidia.com/gpu") -> None:
    """The class, and the cards of so many nodes."""
    objects = [device_class(resource), *map(resource_slice, range(nodes))]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(listed))


def withdraw(plane: ControlPlane) -> None:
    """Neither class nor cards are left."""
    plane.kubectl("delete", "resourceslices,deviceclasses", "--all")


def claim(name: str, count: int) -> Json:
    """Somebody's claim to so many cards."""
    exactly = {"deviceClassName": DRIVER, "count": count}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "cards", "exactly": exactly}]}},
    }


def user(name: str, claim_name: str, node: str | None = None) -> Json:
    """A pod that has all of a claim, as a trainer's does."""
    spec: Json = {
        "resourceClaims": [{"name": "gpus", "resourceClaimName": claim_name}],
        "containers": [
            {
                "name": "trainer",
                "image": "kit.invalid/trainer:v1",
                "resources": {"claims": [{"name": "gpus"}]},
            }
        ],
        "terminationGracePeriodSeconds": 0,
    }
    if node is not None:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
