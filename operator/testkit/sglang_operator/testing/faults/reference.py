"""What a spec should lead to, said a second time and independently of the operator.

Deliberately naive, so that it can be read at a glance; where it and the operator disagree, one of
them is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
_REVISION = "ControllerRevision/"
_LIST = re.compile(r"(?:list\()?\[([^\]]*)\]\)?|list\(range\(([^)]*)\)\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """The end state of one spec."""

    engines: Mapping[str, tuple[int, ...]]  # of the engines that are to run, in order of rank
    gpus: int
    nodes: int  # of each engine: so many pods it is
    max_unavailable: int
    max_surge: int  # engines that may run twice while a revision is rolled out
    suspended: bool
    headless: bool

    @property
    def count(self) -> int:
        return len(self.engines)


def devices(mapping: str) -> list[int]:
    """The GPU ids of a device_mapping."""
    ids: list[int] = []
    for listed, ranged in _LIST.findall(mapping):
        numbers = [int(part) for part in (listed or ranged).split(",") if part.strip()]
        ids += numbers if listed else range(*numbers)
    return ids


def attempt(name: str) -> tuple[int, int]:
    """The attempt and the node rank in the name of a pod: ``…-2`` or ``…-2n1``."""
    number, _, rank = name.rpartition("-")[2].partition("n")
    return int(number), int(rank or 0)


def expected(spec: Json) -> Expected:
    """The end state of this spec, which must be a valid one."""
    gpus = spec.get("num_gpus_per_worker") or 1
    replicas = spec.get("replicas")
    if spec.get("device_mapping") is None:
        engines = {f"r{rank}": tuple[int, ...]() for rank in range(replicas or 0)}
    else:
        ids = devices(spec["device_mapping"])
        slices = [tuple(ids[at : at + gpus]) for at in range(0, len(ids), gpus)]
        engines = {_name(part): part for part in slices}
    per_node = spec.get("num_gpus_per_node") or 8
    first = next(iter(engines.values()), ())
    nodes = len({gpu // per_node for gpu in first}) if first else -(-gpus // per_node)
    active = len(engines) if replicas is None else min(replicas, len(engines))
    active = 0 if spec.get("suspend") else active
    return Expected(
        engines=dict(list(engines.items())[:active]),
        gpus=gpus,
        nodes=nodes,
        max_unavailable=_share(spec.get("rollout", {}).get("maxUnavailable", 1), active),
        max_surge=_more(spec.get("rollout", {}).get("maxSurge", 0), active),
        suspended=bool(spec.get("suspend")),
        headless=nodes > 1 or bool(spec.get("network", {}).get("headlessService")),
    )


def _share(value: int | str, of: int) -> int:
    return value if isinstance(value, int) else max(1, int(value[:-1]) * of // 100)


def _more(value: int | str, of: int) -> int:
    return value if isinstance(value, int) else -(-int(value[:-1]) * of // 100)


def _name(part: Sequence[int]) -> str:
    if len(part) == 1:
        return f"g{part[0]}"
    assert list(part) == list(range(part[0], part[-1] + 1)), "name of an engine with holes"
    return f"g{part[0]}-{part[-1]}"


def differences(pool: Json, pods: Sequence[Json], others: Mapping[str, Json]) -> list[str]:
    """How the world differs from what this pool's spec should lead to; empty when it does not.

    ``pods`` are all pods of its UID; ``others`` its other children by ``Kind/name``.
    """
    want, name = expected(pool["spec"]), pool["metadata"]["name"]
    found = [*_pods(want, pods), *_status(want, pool), *_others(want, pool, pods, others)]
    if not found:
        found = _registry(want, name, pods, others)
    return found


def _pods(want: Expected, pods: Sequence[Json]) -> list[str]:
    told: list[str] = []
    by_engine: dict[str, list[Json]] = {}
    for pod in pods:
        by_engine.setdefault(pod["metadata"]["labels"]["sglang-operator.dev/engine"], []).append(
            pod
        )
    if sorted(by_engine) != sorted(want.engines):
        told.append(f"engines {sorted(by_engine)}, expected {sorted(want.engines)}")
    for engine, members in by_engine.items():
        places = sorted(attempt(pod["metadata"]["name"]) for pod in members)
        if len({number for number, _ in places}) > 1:
            told.append(f"{engine} has pods of several attempts: {places}")
        if [rank for _, rank in places] != list(range(want.nodes)):
            told.append(f"{engine} has {len(members)} pods, expected {want.nodes}: {places}")
        for pod in members:
            told += [f"{pod['metadata']['name']} {what}" for what in _pod(want, pod)]
    revisions = {p["metadata"]["labels"]["sglang-operator.dev/revision"] for p in pods}
    return [*told, f"revisions {revisions}"] if len(revisions) > 1 else told


def _pod(want: Expected, pod: Json) -> list[str]:
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    ready = any(
        c["type"] == "ContainersReady" and c["status"] == "True"
        for c in pod["status"].get("conditions", [])
    )
    checks = {
        "is being deleted": "deletionTimestamp" in pod["metadata"],
        "is not up": not ready,
        "has other GPUs": limits.get("nvidia.com/gpu") != str(want.gpus // want.nodes),
    }
    return [what for what, wrong in checks.items() if wrong]


def _status(want: Expected, pool: Json) -> list[str]:
    status, generation = pool.get("status", {}), pool["metadata"]["generation"]
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    told = []
    if status.get("observedGeneration") != generation:
        told.append(f"observedGeneration {status.get('observedGeneration')} of {generation}")
    engines = status.get("engines", {})
    counts = [engines.get(key) for key in ("desired", "created", "up")]
    if counts != [want.count] * 3:
        told.append(f"status.engines {counts}, expected {want.count}")
    ready = conditions.get("Ready", {}).get("status")
    if (ready != "True") != want.suspended:
        told.append(f"Ready is {ready}")
    for kind in ("Reconciling", "Stalled"):
        if conditions.get(kind, {}).get("status") == "True":
            told.append(f"{kind}: {conditions[kind]['message']}")
    stale = [k for k, c in conditions.items() if c.get("observedGeneration") != generation]
    return [*told, f"conditions {stale} of an old generation"] if stale else told


def _others(
    want: Expected, pool: Json, pods: Sequence[Json], others: Mapping[str, Json]
) -> list[str]:
    name = pool["metadata"]["name"]
    names = {f"Service/{name}", f"ConfigMap/{name}-engines", f"PodDisruptionBudget/{name}-engines"}
    names |= {f"Service/{name}-engines"} if want.headless else set()
    stored = {key: body["revision"] for key, body in others.items() if key.startswith(_REVISION)}
    if set(others) - set(stored) != names:
        return [f"children {sorted(others)}, expected {sorted(names)}"]
    present = f"{_REVISION}{name}-{pool['status'].get('revision')}"
    if max(stored, key=lambda key: stored[key], default="") != present:
        return [f"the last revision of {stored} is not {present}"]
    least = others[f"PodDisruptionBudget/{name}-engines"]["spec"]["minAvailable"]
    closed = sum(not _is_ready(pod) for pod in _leaders(pods))  # one each is out of service
    right = want.count * want.nodes - closed * (want.nodes - 1) - want.max_unavailable
    if want.nodes > 1 and closed == len(_leaders(pods)):
        right = 0  # nobody is served, so anybody may be evicted
    right = max(0, right)
    return [] if least == right else [f"minAvailable {least}, expected {right}"]


def _leaders(pods: Sequence[Json]) -> list[Json]:
    return [pod for pod in pods if not attempt(pod["metadata"]["name"])[1]]


def _is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _registry(
    want: Expected, name: str, pods: Sequence[Json], others: Mapping[str, Json]
) -> list[str]:
    document = json.loads(others[f"ConfigMap/{name}-engines"]["data"]["engines.json"])
    address = {
        p["metadata"]["labels"]["sglang-operator.dev/engine"]: p["status"]["podIP"]
        for p in _leaders(pods)
    }
    listed = [
        (e["rank"], e["engine"], tuple(e["devices"]), e["podIP"]) for e in document["engines"]
    ]
    right = [(r, e, ids, address[e]) for r, (e, ids) in enumerate(want.engines.items())]
    return [] if listed == right else [f"the registry lists {listed}, expected {right}"]
