"""podTemplates that tests begin with: one that says everything, and what can be done to one."""

import copy
from collections.abc import Iterator
from typing import Any

Template = dict[str, Any]

SELECTOR: Template = {
    "matchLabels": {"team": "rl"},
    "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a"]},
        {"key": "old", "operator": "DoesNotExist"},
    ],
}
_TERM: Template = {
    "labelSelector": SELECTOR,
    "namespaceSelector": SELECTOR,
    "namespaces": ["rl"],
    "matchLabelKeys": ["wave"],
    "mismatchLabelKeys": ["spare"],
    "topologyKey": "kubernetes.io/hostname",
}
_NODES: Template = {
    "matchExpressions": [
        {"key": "gpu", "operator": "In", "values": ["h100", "h200"]},
        {"key": "cores", "operator": "Gt", "values": ["8"]},
    ],
    "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_PODS: Template = {_REQUIRED: [_TERM], _PREFERRED: [{"weight": 3, "podAffinityTerm": _TERM}]}
_ITEMS = [{"key": "k", "path": "a/b", "mode": 256}]

# Every field that a template has, valid in all of them.
EVERYTHING: Template = {
    "metadata": {
        "labels": {"team": "rl", "example.com/queue": "a"},
        "annotations": {
            "k8s.v1.cni.cncf.io/networks": "rdma",
            "controller.kubernetes.io/pod-deletion-cost": "3",
        },
    },
    "spec": {
        "nodeSelector": {"gpu": "h100", "example.com/zone": ""},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3},
            {"key": "gpu", "operator": "Equal", "value": "h100", "effect": "NoSchedule"},
            {"operator": "Exists"},
        ],
        "affinity": {
            "nodeAffinity": {
                _REQUIRED: {"nodeSelectorTerms": [_NODES]},
                _PREFERRED: [{"weight": 100, "preference": _NODES}],
            },
            "podAffinity": _PODS,
            "podAntiAffinity": _PODS,
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "minDomains": 2,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "nodeAffinityPolicy": "Ignore",
                "nodeTaintsPolicy": "Honor",
                "labelSelector": SELECTOR,
                "matchLabelKeys": ["wave"],
            },
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}, {"name": "other"}],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            {"name": "host", "hostPath": {"path": "/data/models", "type": "Directory"}},
            {"name": "image", "image": {"reference": "example.com/m:1", "pullPolicy": "Always"}},
            {
                "name": "config",
                "configMap": {"name": "c", "items": _ITEMS, "defaultMode": 292, "optional": True},
            },
            {
                "name": "secret",
                "secret": {
                    "secretName": "s",
                    "items": _ITEMS,
                    "defaultMode": 256,
                    "optional": True,
                },
            },
            {"name": "big", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
            {
                "name": "own",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1Gi"}},
                            "storageClassName": "fast",
                            "volumeMode": "Filesystem",
                            "dataSource": {"kind": "PersistentVolumeClaim", "name": "a"},
                        },
                    }
                },
            },
            {"name": "scratch", "emptyDir": {}},
            {
                "name": "copy",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOncePod"],
                            "resources": {
                                "requests": {"storage": "1Gi"},
                                "limits": {"storage": "2Gi"},
                            },
                            "volumeAttributesClassName": "gold",
                            "dataSourceRef": {
                                "apiGroup": "snapshot.storage.k8s.io",
                                "kind": "VolumeSnapshot",
                                "name": "a",
                            },
                            "dataSource": {
                                "apiGroup": "snapshot.storage.k8s.io",
                                "kind": "VolumeSnapshot",
                                "name": "a",
                            },
                        },
                    }
                },
            },
        ],
        "containers": [
            {
                "name": "engine",
                "imagePullPolicy": "IfNotPresent",
                "env": [
                    {"name": "A", "value": "b"},
                    {
                        "name": "B",
                        "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}},
                    },
                    {
                        "name": "C",
                        "valueFrom": {
                            "configMapKeyRef": {"name": "c", "key": "k", "optional": True}
                        },
                    },
                    {
                        "name": "D",
                        "valueFrom": {
                            "fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}
                        },
                    },
                    {
                        "name": "E",
                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}},
                    },
                    {
                        "name": "F",
                        "valueFrom": {
                            "resourceFieldRef": {
                                "containerName": "engine",
                                "resource": "limits.memory",
                                "divisor": "1Mi",
                            }
                        },
                    },
                    {
                        "name": "G",
                        "valueFrom": {
                            "fileKeyRef": {
                                "volumeName": "scratch",
                                "path": "a/env",
                                "key": "K",
                                "optional": True,
                            }
                        },
                    },
                ],
                "envFrom": [
                    {"prefix": "P_", "configMapRef": {"name": "c", "optional": True}},
                    {"prefix": "S_", "secretRef": {"name": "s", "optional": False}},
                ],
                "volumeMounts": [
                    {"name": "claim", "mountPath": "/models", "readOnly": True, "subPath": "a/b"},
                    {"name": "host", "mountPath": "/data"},
                    {"name": "image", "mountPath": "/image"},
                    {"name": "config", "mountPath": "/etc/nccl.conf", "subPath": "nccl.conf"},
                    {"name": "secret", "mountPath": "/keys"},
                    {"name": "big", "mountPath": "/dev/shm"},
                    {"name": "own", "mountPath": "/cache", "subPathExpr": "$(A)"},
                    {"name": "copy", "mountPath": "/copy"},
                ],
                "resources": {
                    "requests": {
                        "cpu": "500m",
                        "memory": "64Gi",
                        "rdma/hca": 1,
                        "hugepages-2Mi": "4Mi",
                    },
                    "limits": {
                        "cpu": 8,
                        "memory": "64Gi",
                        "rdma/hca": 1,
                        "hugepages-2Mi": "4Mi",
                        "ephemeral-storage": "1e9",
                    },
                },
            }
        ],
    },
}

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place in a template, from the top down."""
    if path:
        yield path, value
    inside = enumerate(value) if isinstance(value, list) else ()
    for step, item in value.items() if isinstance(value, dict) else inside:
        yield from places(item, (*path, step))


def changed(template: Template, path: Path, value: Any) -> Template:
    """A template with another value at a place."""
    new = copy.deepcopy(template)
    holder: Any = new
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return new


def without(template: Template, path: Path) -> Template:
    """A template without a place."""
    new = copy.deepcopy(template)
    holder: Any = new
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return new


def told(path: Path) -> str:
    """The field of the object that a place is."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "spec.podTemplate" + "".join(steps)
