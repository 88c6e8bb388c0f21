"""Engines of two nodes each on a real control plane: they come, go and come back as one."""

import json
from typing import Any

import pytest

from sglang_operator.api import names
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("5x8", quiet=True)

ENGINES = ("g0-15", "g16-31")
RANKS = (0, 1)
UNGATED = {"gate": "Off"}


def apply(pool: PoolUnderTest, **changes: Any) -> None:
    pool.apply(num_gpus_per_worker=16, device_mapping="list(range(0,32))", **changes)


def members(pool: PoolUnderTest) -> dict[tuple[str, int, int], str]:
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


def whole(pool: PoolUnderTest, attempts: dict[str, int]) -> dict[tuple[str, int, int], str]:
    """Wait until exactly these attempts are there, whole, and the pool is Ready."""
    wanted = {(engine, attempt, rank) for engine, attempt in attempts.items() for rank in RANKS}
    pool.wait(lambda: members(pool).keys() == wanted and pool.is_ready(), f"{attempts}", 60)
    return members(pool)


def name(engine: str, attempt: int, rank: int) -> str:
    return f"actor-infer-{engine}-{attempt}n{rank}"


def test_two_engines_of_two_nodes_are_up_and_told_as_two(pool):
    apply(pool)
    whole(pool, {"g0-15": 0, "g16-31": 0})
    assert pool.status["readySummary"] == "2/2"
    assert pool.status["replicas"] == 2
    registry = pool.registry()
    assert registry["worldSize"] == 33
    assert [each["pod"] for each in registry["engines"]] == [name(e, 0, 0) for e in ENGINES]
    nodes = {pod["spec"]["nodeName"] for pod in pool.pods()}
    assert len(nodes) == 4


@pytest.mark.parametrize("rank", RANKS)
def test_a_member_that_is_deleted_takes_its_engine_and_no_other(pool, rank):
    apply(pool)
    before = whole(pool, {"g0-15": 0, "g16-31": 0})
    pool.kubectl("delete", "pod", name("g0-15", 0, rank), "--wait=false")
    after = whole(pool, {"g0-15": 1, "g16-31": 0})
    assert {k: v for k, v in after.items() if k[0] == "g16-31"} == {
        k: v for k, v in before.items() if k[0] == "g16-31"
    }


@pytest.mark.parametrize("rank", RANKS)
def test_a_member_that_is_gone_at_once_takes_its_engine(pool, rank):
    apply(pool)
    whole(pool, {"g0-15": 0, "g16-31": 0})
    pool.kubectl("delete", "pod", name("g16-31", 0, rank), "--force", "--grace-period=0")
    whole(pool, {"g0-15": 0, "g16-31": 1})


@pytest.mark.parametrize("rank", RANKS)
def test_a_member_that_ends_takes_its_engine_and_its_cause_is_told(pool, rank):
    apply(pool)
    whole(pool, {"g0-15": 0, "g16-31": 0})
    pool.break_pod(name("g0-15", 0, rank), message="torch.OutOfMemoryError: CUDA out of memory")
    whole(pool, {"g0-15": 1, "g16-31": 0})
    told = pool.status["lastFailures"]
    assert [(each["reason"], each["pod"]) for each in told] == [
        ("CUDAOutOfMemory", name("g0-15", 0, rank))
    ]
    pool.wait(lambda: len(pool.pods()) == 4, "the tombstone goes")


def test_an_argument_changes_one_engine_after_the_other(pool):
    apply(pool, weights=UNGATED, seed=1)
    before = set(whole(pool, {"g0-15": 0, "g16-31": 0}).values())
    apply(pool, weights=UNGATED, seed=2)

    def replaced() -> bool:
        there = members(pool)
        # One that is gone before the next is made leaves its name to it.
        engines = sorted((engine, rank) for engine, _, rank in there)
        new = before.isdisjoint(there.values()) and pool.is_ready()
        return new and engines == [(engine, rank) for engine in ENGINES for rank in RANKS]

    pool.wait(replaced, "all pods replaced", 60)


def test_to_nothing_and_back(pool):
    apply(pool, weights=UNGATED)
    whole(pool, {"g0-15": 0, "g16-31": 0})
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.pods(), "no pod", 60)
    pool.patch({"replicas": 2})
    whole(pool, {"g0-15": 0, "g16-31": 0})


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


def test_an_eviction_takes_one_engine_and_the_next_has_to_wait(pool):
    apply(pool, weights=UNGATED)
    whole(pool, {"g0-15": 0, "g16-31": 0})

    def allowed() -> bool:
        path = f"/apis/policy/v1/namespaces/{pool.namespace}/poddisruptionbudgets"
        (budget,) = pool.plane.api.get(path)["items"]
        return bool(budget.get("status", {}).get("disruptionsAllowed") == 1)

    pool.wait(allowed, "one may go")
    assert evict(pool, name("g0-15", 0, 1))
    assert not evict(pool, name("g16-31", 0, 1))
    assert not evict(pool, name("g16-31", 0, 0))
    whole(pool, {"g0-15": 1, "g16-31": 0})
    pool.wait(allowed, "the next may go")


def test_a_node_that_is_gone_takes_the_engine_that_had_a_pod_there(pool):
    """The last test: a node is missing afterwards."""
    apply(pool)
    whole(pool, {"g0-15": 0, "g16-31": 0})
    (follower,) = [p for p in pool.pods() if p["metadata"]["name"] == name("g0-15", 0, 1)]
    pool.plane.kubectl("delete", "node", follower["spec"]["nodeName"])
    whole(pool, {"g0-15": 1, "g16-31": 0})
    told = [(each["reason"], each["pod"]) for each in pool.status["lastFailures"]]
    assert told == [("NodeLost", name("g0-15", 0, 1))]
