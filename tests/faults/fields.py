"""Every field of the spec changed and changed back, by walking the schema.

One pool lives through all of it.  After each change it must be what a fresh deploy of the same
spec is, and after each change back what it was at first: whatever came between leaves no trace.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.children import kinds
from sglang_operator.scheduling import topology
from sglang_operator.testing import ApiError, installed
from sglang_operator.testing.faults.lives import controller
from tests.faults.lab import CHILDREN, FaultPool, Json, Lab, Result

SETTLE_SECONDS = 20.0
BASE: Json = {
    "num_gpus_per_worker": 2,
    "device_mapping": "list(range(0,4))",
    "replicas": 2,
    "rollout": {"maxUnavailable": 2},
}
# Values for leaves where any other of the right type would be refused or mean nothing.
VALUES: dict[str, Any] = {
    "model_args.dtype": "fp16",
    "strategy_args.strategy_name": "vllm",
    "strategy_args.strategy_config.load_format": "auto",
    "strategy_args.strategy_config.mem_fraction_static": 0.8,
    "strategy_args.strategy_config.tp_size": 2,
    "strategy_args.strategy_config.tensor_parallel_size": 2,
    "device_mapping": "list(range(2,6))",
    "num_gpus_per_worker": 1,
    "num_gpus_per_node": 4,
    "replicas": 1,
    "system_envs": {"A": "1"},
    "router_replay.mode": "R3",
    "image": "lmsysorg/sglang:v0.5.9",
    "engineVersion": "0.5.9",
    "extraArgs": ["--log-level=info"],
    "podTemplate.metadata.labels": {"team": "rl"},
    "podTemplate.metadata.annotations": {"note": "x"},
    "podTemplate.spec.nodeSelector": {"no": "such-node"},
    "podTemplate.spec.tolerations": [{"key": "gpu", "operator": "Exists"}],
    "podTemplate.spec.topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
        }
    ],
    "podTemplate.spec.imagePullSecrets": [{"name": "pull"}],
    "podTemplate.spec.volumes": [{"name": "models", "emptyDir": {}}],
    "podTemplate.spec.containers": [{"name": "engine", "env": [{"name": "B", "value": "2"}]}],
    "security.apiKey.name": "secret",
    "security.adminApiKey.name": "secret",
}
# What only makes sense together.
BESIDE: dict[str, Json] = {
    "security.apiKey.name": {"security": {"apiKey": {"key": "k"}}},
    "security.apiKey.key": {"security": {"apiKey": {"name": "n"}}},
    "security.adminApiKey.name": {"security": {"adminApiKey": {"key": "k"}}},
    "security.adminApiKey.key": {"security": {"adminApiKey": {"name": "n"}}},
}
# What the definition says reaches an engine with its next pod only, and where it stands in pods.
NEXT_POD = {
    "restart.onNodeLost": "tolerations",
    "restart.nodeLostSeconds": "tolerations",
    "drain.gracePeriodSeconds": "terminationGracePeriodSeconds",
}


def leaves() -> Iterator[tuple[str, Json]]:
    """Every leaf of the spec's schema, with its path."""
    file = installed.manifests() / "crd" / "sglanginferences.yaml"
    crd = yaml.safe_load(Path(file).read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    yield from _leaves(schema["properties"]["spec"], "")


def _leaves(node: Json, path: str) -> Iterator[tuple[str, Json]]:
    if not node.get("properties"):
        yield path, node
        return
    for key, below in node["properties"].items():
        yield from _leaves(below, f"{path}.{key}".lstrip("."))


def value(path: str, node: Json) -> Any:
    """A value that differs from the base's and, where that can be known, is valid."""
    if path in VALUES:
        return VALUES[path]
    if "enum" in node:
        return node["enum"][-1]
    kind = node.get("type")
    low = node.get("minimum", 1)
    simple = {"boolean": True, "integer": max(low, 2), "number": 0.5, "string": "other"}
    return simple.get(kind or "", {} if kind == "object" else 7)


def patch_of(path: str, to: Any) -> Json:
    """The merge patch that sets one leaf."""
    *parents, leaf = path.split(".")
    body: Json = {leaf: to}
    for parent in reversed(parents):
        body = {parent: body}
    return _merged(body, BESIDE.get(path, {})) if to is not None else body


def _merged(left: Json, right: Json) -> Json:
    both = {
        key: _merged(left[key], right[key])
        for key in left.keys() & right.keys()
        if isinstance(left[key], dict)
    }
    return {**right, **left, **both}


def mutated_fields(lab: Lab, every: int = 1) -> Iterator[Result]:
    """Each leaf set and set back."""
    with lab.pool() as pool, lab.pool() as fresh:
        pool.create(**BASE)
        problems = lab.settle(pool)
        assert not problems, problems
        base, spec = snapshot(pool), pool.object()["spec"]
        for path, node in list(leaves())[::every]:
            yield _mutate(lab, pool, fresh, spec, base, path, value(path, node))


def _mutate(
    lab: Lab, pool: FaultPool, fresh: FaultPool, spec: Json, base: Json, path: str, to: Any
) -> Result:
    result = Result(point=f"{path} = {json.dumps(to)}")
    try:
        pool.patch(**patch_of(path, to))
    except ApiError as error:
        if error.status in (400, 422):  # refused by the CRD; nothing happened
            return result
        raise
    changed = pool.object()["spec"]
    api = pool.plane.api
    body = {
        "apiVersion": "sglang-operator.dev/v1alpha1",
        "kind": "SGLangInference",
        "metadata": {"name": fresh.name},
        "spec": changed,
    }
    api.post(fresh.path, body)
    result.problems += [f"after the change: {d}" for d in _compared(lab, pool, fresh, path)]
    fresh.delete()
    begun = time.monotonic()
    found = pool.object()
    api.call("PUT", f"{pool.path}/{pool.name}", {**found, "spec": spec})
    result.problems += [f"after the change back: {d}" for d in _until(lab, pool, base)]
    result.seconds = time.monotonic() - begun
    result.problems += lab.broken(pool)
    lab.proxy.reset_counters()
    lab.wait(lambda: not fresh.all_pods(), "the fresh pods to be collected")
    return result


def _compared(lab: Lab, pool: FaultPool, fresh: FaultPool, path: str) -> list[str]:
    """Wait until both pools are the same and at rest, as far as they come."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left, right = (_without(snapshot(side), NEXT_POD.get(path)) for side in (pool, fresh))
        told = _differences(*_comparable(left, right))
        if not told and _current(pool) and _current(fresh) and lab.quiet():
            return []
        if time.monotonic() > deadline:
            return told or ["it does not come to rest"]
        time.sleep(0.1)


def _without(seen: Json, part: str | None) -> Json:
    """Without this part of the pods' specs."""
    for pod in seen["pods"].values():
        pod["spec"].pop(part, None)
    return seen


def _comparable(changed: Json, deployed: Json) -> tuple[Json, Json]:
    """Of a spec that is refused only the refusal: the changed pool keeps what it had."""
    if deployed["conditions"].get("Stalled", ("",))[0] != "True":
        return changed, deployed
    kinds = ("Ready", "Stalled")
    left, right = (
        {kind: side["conditions"].get(kind) for kind in kinds} for side in (changed, deployed)
    )
    return left, right


def _until(lab: Lab, pool: FaultPool, base: Json) -> list[str]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        told = _differences(snapshot(pool), base)
        if not told and _current(pool) and lab.settled(pool):
            return []
        if time.monotonic() > deadline:
            return told or ["it does not come to rest"]
        time.sleep(0.1)


def _current(pool: FaultPool) -> bool:
    found = pool.object()
    observed = found.get("status", {}).get("observedGeneration")
    return bool(observed == found["metadata"]["generation"])


def snapshot(pool: FaultPool) -> Json:
    """The pool and its children without what differs between any two deploys."""
    found = pool.object()
    status = found.get("status", {})
    uid = found["metadata"]["uid"]
    pods = [p for p in pool.all_pods() if controller(p["metadata"]).get("uid") == uid]
    children: Json = {}
    for kind, (group, plural) in CHILDREN.items():
        if kind == kinds.REVISION.kind:
            continue  # they tell of what was before
        listed = pool.plane.api.get(f"{group}/namespaces/{pool.namespace}/{plural}")
        for item in listed["items"]:
            if controller(item["metadata"]).get("uid") == uid:
                children[f"{kind}/{item['metadata']['name']}"] = _child(item)
    return {
        "pods": {
            p["metadata"]["labels"]["sglang-operator.dev/engine"]: _pod(p)
            for p in pods
            if "deletionTimestamp" not in p["metadata"]
        },
        "children": children,
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", [])},
        **{key: status.get(key) for key in ("engines", "resolved", "revision", "warnings")},
    }


def _pod(pod: Json) -> Json:
    spec = {k: v for k, v in pod["spec"].items() if k != "nodeName"}
    if spec.get("hostname") == pod["metadata"]["name"]:
        spec["hostname"] = "its name"  # which counts its attempts
    _forget_its_place(spec)
    for volume in spec.get("volumes", ()):
        if path := volume.get("hostPath", {}).get("path"):  # which counts for one namespace
            volume["hostPath"]["path"] = path.replace(pod["metadata"]["namespace"], "its namespace")
    passing = ("sglang-operator.dev/attempt", "sglang-operator.dev/failures-in-a-row")
    annotations = pod["metadata"].get("annotations", {})
    return {
        "labels": pod["metadata"]["labels"],
        "annotations": {k: v for k, v in annotations.items() if k not in passing},
        "spec": spec,
    }


def _forget_its_place(spec: Json) -> None:
    """One that is made again is rather put where its engine was; a first one was nowhere."""
    affinity = copy.deepcopy(spec.pop("affinity", {}))
    to_nodes = affinity.get("nodeAffinity", {})
    terms = to_nodes.pop(topology.PREFERRED, [])
    if kept := [each for each in terms if not each["preference"].get("matchFields")]:
        to_nodes[topology.PREFERRED] = kept
    if "nodeAffinity" in affinity and not to_nodes:
        del affinity["nodeAffinity"]
    if affinity:
        spec["affinity"] = affinity


def _child(item: Json) -> Json:
    spec = {k: v for k, v in item.get("spec", {}).items() if k not in ("clusterIP", "clusterIPs")}
    document = json.loads(item.get("data", {}).get("engines.json", "{}"))
    passing = ("epoch", "namespace", "podIP", "pod", "url", "instance")
    listed = [
        {k: v for k, v in engine.items() if k not in passing}
        for engine in document.get("engines", [])
    ]
    rest = {k: v for k, v in document.items() if k not in (*passing, "engines")}
    return {"labels": item["metadata"]["labels"], "spec": spec, "engines": listed, **rest}


def _differences(left: Any, right: Any, path: str = "") -> list[str]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        told: list[str] = []
        for key in sorted({*left, *right}):
            told += _differences(left.get(key), right.get(key), f"{path}.{key}")
        return told[:5]
    return [] if left == right else [f"{path}: {left!r} is not {right!r}"[:300]]
