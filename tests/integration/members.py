"""Pools of engines of several pods, as tests handle them: two of 16 GPUs unless told otherwise."""

import json
from collections.abc import Mapping
from typing import Any

from sglang_operator.api import names
from tests.integration.pools import PoolUnderTest

ENGINES = ("g0-15", "g16-31")
RANKS = (0, 1)
UNGATED = {"gate": "Off"}
WAIT = 60.0

Members = dict[tuple[str, int, int], str]


def apply(pool: PoolUnderTest, **changes: Any) -> None:
    pool.apply(**{"num_gpus_per_worker": 16, "device_mapping": "list(range(0,32))", **changes})


def members(pool: PoolUnderTest) -> Members:
    """UIDs of pods that have not ended and stay, by engine, attempt and node rank."""
    found = {}
    for pod in pool.pods():
        meta = pod["metadata"]
        if meta.get("deletionTimestamp") or pod["status"].get("phase") in ("Failed", "Succeeded"):
            continue
        engine = meta["labels"][names.LABEL_ENGINE]
        rank = names.node_rank_of(meta["name"])
        assert rank is not None
        found[engine, names.attempt_of(meta["name"]), rank] = meta["uid"]
    return found


def made(pool: PoolUnderTest, attempts: Mapping[str, int], seconds: float = WAIT) -> Members:
    """Wait until exactly these attempts have both of their pods; they need not be up."""
    wanted = {(engine, attempt, rank) for engine, attempt in attempts.items() for rank in RANKS}
    pool.wait(lambda: members(pool).keys() == wanted, f"pods of {attempts}", seconds)
    return members(pool)


def whole(pool: PoolUnderTest, attempts: Mapping[str, int], seconds: float = WAIT) -> Members:
    """Wait until exactly these attempts are there, whole, and the pool is Ready."""
    wanted = {(engine, attempt, rank) for engine, attempt in attempts.items() for rank in RANKS}
    pool.wait(
        lambda: members(pool).keys() == wanted and pool.is_ready(), f"{attempts}, Ready", seconds
    )
    return members(pool)


def of(engine: str, found: Members) -> Members:
    """Those of one engine."""
    return {key: uid for key, uid in found.items() if key[0] == engine}


def name(engine: str, attempt: int, rank: int) -> str:
    return f"actor-infer-{engine}-{attempt}n{rank}"


def pod(pool: PoolUnderTest, wanted: str) -> dict[str, Any]:
    """The pod of this name; raises ApiError."""
    path = f"/api/v1/namespaces/{pool.namespace}/pods/{wanted}"
    found: dict[str, Any] = pool.plane.api.get(path)
    return found


def delete(pool: PoolUnderTest, *pods: str) -> None:
    pool.kubectl("delete", "pod", *pods, "--wait=false")


def may_go(pool: PoolUnderTest) -> bool:
    """Whether the budget lets one pod be evicted."""
    path = f"/apis/policy/v1/namespaces/{pool.namespace}/poddisruptionbudgets"
    (budget,) = pool.plane.api.get(path)["items"]
    return bool(budget.get("status", {}).get("disruptionsAllowed") == 1)


def evict(pool: PoolUnderTest, pod: str) -> bool:
    """Whether it may be evicted now; if so, it is."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": pool.namespace},
    }
    path = f"/api/v1/namespaces/{pool.namespace}/pods/{pod}/eviction"
    done = pool.plane.kubectl(
        "create", "--raw", path, "-f", "-", input=json.dumps(eviction), check=False
    )
    return done.returncode == 0


def drain(pool: PoolUnderTest, node: str) -> None:
    """``kubectl drain``: the node is cordoned, and all pods are evicted from it."""
    pool.plane.kubectl(
        "drain", node, "--delete-emptydir-data", f"--timeout={WAIT:g}s", timeout=2 * WAIT
    )


def serving(pool: PoolUnderTest) -> set[tuple[str, int]]:
    """The engines that clients reach, of one pod or several, with their attempts."""
    return {
        (each["metadata"]["labels"][names.LABEL_ENGINE], names.attempt_of(each["metadata"]["name"]))
        for each in pool.pods()
        if "deletionTimestamp" not in each["metadata"]
        and not names.node_rank_of(each["metadata"]["name"])
        and any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(each))
    }


def _conditions(pod: Mapping[str, Any]) -> list[dict[str, str]]:
    return list(pod["status"].get("conditions", []))
