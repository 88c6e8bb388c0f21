"""The demo's pool as it is applied, and what is read of it: pure functions over objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from sglang_operator.testing import errors
from sglang_operator.testing.nodes import GPU

POOL = "actor-infer"  # as in the sample trainer's roles
TRAINER = "trainer-with-a-gpu"
CACHE = "sglang-cache"
MODELS = "/models"  # in the containers
BASE = f"{MODELS}/base"
UNSYNCED = "unsynced"
SCHEDULER = "sglang::scheduler"  # how SGLang's scheduler calls its process
NOISE = 256 << 20  # bytes: a context more or less on the card
# As engines are told: what both sides of a group must agree on.
NCCL: Mapping[str, str] = {"NCCL_CUMEM_ENABLE": "0", "NCCL_NVLS_ENABLE": "0"}
# Quick to start, and able to sleep; the rest is SGLang's own choice.
CONFIG: Mapping[str, Any] = {
    "mem_fraction_static": 0.3,
    "load_format": "dummy",
    "enable_memory_saver": True,
    "disable_cuda_graph": True,
}


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` of strategy_config, the value as in YAML; raises KitError."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise errors.KitError(
            f"--set {text!r}: KEY=VALUE is needed, such as attention_backend=triton"
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value


def manifest(image: str, gpus: int, config: Mapping[str, Any], cache: str) -> str:
    """The pool, and a volume for what its engines compile, in YAML."""
    engines = {
        "apiVersion": "sglang-operator.dev/v1alpha1",
        "kind": "SGLangInference",
        "metadata": {"name": POOL, "namespace": "default"},
        "spec": {
            "image": image,
            "model_args": {"model_name_or_path": BASE},
            "strategy_args": {
                "strategy_name": "sglang",
                "strategy_config": {**CONFIG, **config},
            },
            "num_gpus_per_worker": 1,
            "device_mapping": f"list(range(0,{gpus}))",
            "podTemplate": {
                "spec": {
                    "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": CACHE}}]
                }
            },
        },
    }
    claim = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": CACHE},
        "spec": {
            **claim,
            "capacity": {"storage": "10Gi"},
            "hostPath": {"path": cache, "type": "DirectoryOrCreate"},
        },
    }
    claimed = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CACHE, "namespace": "default"},
        "spec": {
            **claim,
            "volumeName": CACHE,
            "resources": {"requests": {"storage": "10Gi"}},
        },
    }
    return yaml.safe_dump_all([volume, claimed, engines], sort_keys=False)


def trainer(image: str, program: str, variables: Mapping[str, str]) -> str:
    """A pod with a trainer that has a GPU of its own, in YAML; ``program`` is a file in it."""
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    given = {"POOL": POOL, "HOME": "/tmp", **NCCL, **variables}
    container = {
        "name": "trainer",
        "image": image,
        "command": ["python3", "-P", program],  # its folder has modules that are not for others
        "env": [address, *({"name": key, "value": value} for key, value in given.items())],
        "resources": {"limits": {GPU: "1"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
    }
    spec = {
        "serviceAccountName": "trainer",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}],
    }
    metadata = {"name": TRAINER, "namespace": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return yaml.safe_dump(pod, sort_keys=False)


def said(log: str) -> list[dict[str, Any]]:
    """What the trainer told of its syncs, among whatever else is in its log."""
    lines = (line for line in log.splitlines() if line.startswith('{"step"'))
    return [json.loads(line) for line in lines]


def condition(pool: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of the pool; empty while there is none."""
    found = pool.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


def hopeless(pool: Mapping[str, Any]) -> str | None:
    """Why the pool will not come up by itself, in the operator's words, or None."""
    stalled = condition(pool, "Stalled")
    if stalled.get("status") == "True":
        return f"{stalled['reason']}: {stalled['message']}"
    failures = pool.get("status", {}).get("lastFailures", [])
    if failures:
        first = failures[0]
        return f"{first['reason']}: {first['message']} {first.get('advice', '')}".strip()
    return None


def in_service(slices: Iterable[Mapping[str, Any]]) -> set[str]:
    """The addresses of the pods that the Service sends clients to."""
    return {
        address
        for each in slices
        for endpoint in each.get("endpoints") or []
        if endpoint.get("conditions", {}).get("ready")
        for address in endpoint["addresses"]
    }


def wrong(answer: Mapping[str, Any], version: str, expected: Sequence[int] | None) -> str | None:
    """What is wrong with an engine's answer: its label, or its tokens where they are known."""
    label = answer.get("meta_info", {}).get("weight_version")
    if label != version:
        return f"the answer carries the version {label!r}, {version!r} was committed"
    tokens = answer.get("output_ids")
    if expected is not None and tokens != list(expected):
        return f"{version} answers {list(expected)}, this was answered: {tokens}"
    return None


def changed(before: int, after: int, *, freed: bool) -> bool:
    """Whether memory was given back, or taken, that is more than what comes and goes by itself."""
    return (before - after if freed else after - before) >= NOISE


def privileged(status: str) -> str | None:
    """What a process has that an engine as rendered has not, by /proc/PID/status; or None."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if int(fields["CapEff"], 16) or int(fields["CapPrm"], 16):
        return f"has capabilities: CapEff {fields['CapEff'].strip()}"
    if fields["NoNewPrivs"].strip() != "1":
        return "may gain privileges: NoNewPrivs is not set"
    return None


def victim(commands: Mapping[int, str]) -> int:
    """The process of an engine to kill: its scheduler, where it has one of its own.

    Raises KitError when none of the processes is SGLang's.
    """
    for wanted in (SCHEDULER, "sglang"):
        found = [pid for pid, command in commands.items() if wanted in command]
        if found:
            return min(found)
    told = ", ".join(f"{pid} {command[:60]!r}" for pid, command in sorted(commands.items()))
    raise errors.KitError(f"no process of the pod is SGLang's: {told or 'there is none'}")
