"""Lost nodes, in the four ways that were seen on a real Kubernetes (explanation/kubernetes.md)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from sglang_operator.testing import ApiError
from tests.faults.lab import FaultPool, Json, Lab, Result
from tests.faults.points import judged

GRACE_SECONDS = 6.0  # of the lab's plane
LOST_SECONDS = 2  # restart.nodeLostSeconds
BACK_SECONDS = GRACE_SECONDS + LOST_SECONDS + 12
WAIT_SECONDS = GRACE_SECONDS + LOST_SECONDS + 6  # in which nothing may happen under Wait


def _out_of_service(lab: Lab, node: str) -> None:
    lab.plane.silence_node(node)
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "x", "effect": "NoExecute"}
    lab.plane.api.merge(f"/api/v1/nodes/{node}", {"spec": {"taints": [taint]}})


WAYS: dict[str, Callable[[Lab, str], None]] = {
    "deleted": lambda lab, node: lab.plane.delete_node(node),
    "silent": lambda lab, node: lab.plane.silence_node(node),
    "NotReady": lambda lab, node: lab.plane.fail_node(node),
    "out-of-service": _out_of_service,
}


def lost_nodes(lab: Lab) -> Iterator[Result]:
    """Under Replace the engine is back within seconds; under Wait nobody touches it."""
    for way, lose in WAYS.items():
        for policy in ("Replace", "Wait"):
            result = Result(point=f"{way}, {policy}")
            yield judged(lab, result, _setup(policy), _act(way, lose, policy))


def _setup(policy: str) -> Callable[[FaultPool], None]:
    restart = {"onNodeLost": policy, "nodeLostSeconds": LOST_SECONDS}
    return lambda pool: pool.create(replicas=3, restart=restart)


def _act(
    way: str, lose: Callable[[Lab, str], None], policy: str
) -> Callable[[Lab, FaultPool], list[str]]:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        before = pool.uids()
        node = next(iter(pool.pods().values()))["spec"]["nodeName"]
        struck = _on(pool, node)
        begun = time.monotonic()
        lose(lab, node)
        check = _replaced if policy == "Replace" else _waited
        problems = check(lab, pool, before, struck, begun)
        _restore(lab, way, node)
        return problems + lab.settle(pool, 60)

    return act


def _on(pool: FaultPool, node: str) -> set[str]:
    """The engines on this node."""
    return {
        pod["metadata"]["labels"]["sglang-operator.dev/engine"]
        for pod in pool.pods().values()
        if pod["spec"].get("nodeName") == node
    }


def _replaced(
    lab: Lab, pool: FaultPool, before: dict[str, str], struck: set[str], begun: float
) -> list[str]:
    def back() -> bool:
        uids = _up(pool)
        return uids.keys() == before.keys() and all(uids[e] != before[e] for e in struck)

    lab.wait(back, "every engine to be back elsewhere", BACK_SECONDS)
    uids = _up(pool)
    touched = [e for e in before if e not in struck and uids[e] != before[e]]
    return [f"engines on other nodes were touched: {touched}"] if touched else []


def _up(pool: FaultPool) -> dict[str, str]:
    """UID of the newest live pod of each engine whose containers are ready."""
    return {
        pod["metadata"]["labels"]["sglang-operator.dev/engine"]: pod["metadata"]["uid"]
        for _, pod in sorted(pool.pods().items())
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            c["type"] == "ContainersReady" and c["status"] == "True"
            for c in pod["status"].get("conditions", [])
        )
    }


def _waited(
    lab: Lab, pool: FaultPool, before: dict[str, str], struck: set[str], begun: float
) -> list[str]:
    del struck
    deadline = begun + WAIT_SECONDS
    created: set[str] = set()
    while time.monotonic() < deadline:
        created |= set(pool.uids().values()) - set(before.values())
        deletes = lab.proxy.counts["delete pods"]
        time.sleep(0.2)
        if deletes or (created and _still_there(pool, before)):
            return [f"under Wait the operator acted: {deletes} deletes, created {created}"]
    return []


def _still_there(pool: FaultPool, before: dict[str, str]) -> bool:
    """Whether all old pods exist and nobody takes them, so that nothing called for a new one."""
    there = {pod["metadata"]["uid"] for pod in pool.pods().values() if not _taken(pod)}
    return set(before.values()) <= there


def _taken(pod: Json) -> bool:
    """Whether Kubernetes itself has decided that the pod goes."""
    listed = pod["status"].get("conditions", [])
    disrupted = any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in listed)
    return disrupted or "deletionTimestamp" in pod["metadata"]


def _restore(lab: Lab, way: str, node: str) -> None:
    if way == "deleted":
        lab.plane.add_node(node)
        return
    with contextlib.suppress(ApiError):
        lab.plane.api.merge(f"/api/v1/nodes/{node}", {"spec": {"taints": None}})
    lab.plane.restore_node(node)
