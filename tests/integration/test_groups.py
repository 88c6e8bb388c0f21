"""Engines of two nodes each on a real control plane: they come, go and come back as one."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from sglang_operator.api import conditions
from tests.integration.members import (
    ENGINES,
    RANKS,
    UNGATED,
    Members,
    apply,
    delete,
    drain,
    evict,
    made,
    may_go,
    members,
    name,
    of,
    pod,
    serving,
    whole,
)
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("5x8", quiet=True)

BOTH = {"g0-15": 0, "g16-31": 0}


def played(**annotations: str) -> dict[str, Any]:
    """A podTemplate that tells KWOK how the containers of its pods behave."""
    return {"metadata": {"annotations": {f"fake.sglang/{k}": v for k, v in annotations.items()}}}


LOADING = played(**{"start-delay": "1h"})
# A node selector that no node has.
NOWHERE = {"spec": {"nodeSelector": {"example.com/none": "true"}}}


def test_two_engines_of_two_nodes_are_up_and_told_as_two(pool):
    apply(pool)
    whole(pool, BOTH)
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
    before = whole(pool, BOTH)
    delete(pool, name("g0-15", 0, rank))
    after = whole(pool, {"g0-15": 1, "g16-31": 0})
    assert of("g16-31", after) == of("g16-31", before)


@pytest.mark.parametrize("rank", RANKS)
def test_a_member_that_is_gone_at_once_takes_its_engine(pool, rank):
    apply(pool)
    whole(pool, BOTH)
    pool.kubectl("delete", "pod", name("g16-31", 0, rank), "--force", "--grace-period=0")
    whole(pool, {"g0-15": 0, "g16-31": 1})


@pytest.mark.parametrize("rank", RANKS)
def test_a_member_that_ends_takes_its_engine_and_its_cause_is_told(pool, rank):
    apply(pool)
    whole(pool, BOTH)
    pool.break_pod(name("g0-15", 0, rank), message="torch.OutOfMemoryError: CUDA out of memory")
    whole(pool, {"g0-15": 1, "g16-31": 0})
    told = pool.status["lastFailures"]
    assert [(each["reason"], each["pod"]) for each in told] == [
        ("CUDAOutOfMemory", name("g0-15", 0, rank))
    ]
    pool.wait(lambda: len(pool.pods()) == 4, "the tombstone goes")


def test_an_argument_changes_one_engine_after_the_other_on_nodes_that_are_full(pool):
    """With maxSurge too, which finds no room for one more, and says so."""
    apply(pool, weights=UNGATED, seed=1)
    before = set(whole(pool, BOTH).values())
    apply(pool, weights=UNGATED, seed=2)
    before = replaced(pool, before)
    apply(pool, weights=UNGATED, seed=3, rollout={"maxSurge": 1})
    pool.told(conditions.SURGE_NO_ROOM)
    replaced(pool, before)


def replaced(pool: PoolUnderTest, before: set[str]) -> set[str]:
    """Wait until none of these pods is there, and two engines are whole; the UIDs of theirs."""

    def others() -> bool:
        there = members(pool)
        # One that is gone before the next is made leaves its name to it.
        engines = sorted((engine, rank) for engine, _, rank in there)
        new = before.isdisjoint(there.values()) and pool.is_ready()
        return new and engines == list(product(ENGINES, RANKS))

    pool.wait(others, "all pods replaced", 60)
    return set(members(pool).values())


def test_to_nothing_and_back(pool):
    apply(pool, weights=UNGATED)
    whole(pool, BOTH)
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.pods(), "no pod", 60)
    pool.patch({"replicas": 2})
    whole(pool, BOTH)


@pytest.mark.parametrize("rank", RANKS)
def test_an_eviction_takes_one_engine_and_the_next_has_to_wait(pool, rank):
    apply(pool, weights=UNGATED)
    whole(pool, BOTH)
    pool.wait(lambda: may_go(pool), "one may go")
    assert evict(pool, name("g0-15", 0, rank))
    assert not evict(pool, name("g16-31", 0, 1))
    assert not evict(pool, name("g16-31", 0, 0))
    whole(pool, {"g0-15": 1, "g16-31": 0})
    pool.wait(lambda: may_go(pool), "the next may go")


@pytest.fixture
def drained(plane) -> Iterator[list[str]]:
    """Nodes that a test drains, which are open again afterwards."""
    nodes: list[str] = []
    yield nodes
    for node in nodes:
        plane.kubectl("uncordon", node)


def test_a_node_that_is_drained_gives_its_engine_to_others(pool, drained):
    """There is one to spare."""
    apply(pool, weights=UNGATED)
    before = whole(pool, BOTH)
    node = pod(pool, name("g0-15", 0, 1))["spec"]["nodeName"]
    drained.append(node)
    drain(pool, node)
    after = whole(pool, {"g0-15": 1, "g16-31": 0})
    assert of("g16-31", after) == of("g16-31", before)
    assert node not in {each["spec"]["nodeName"] for each in pool.pods()}


def test_a_pod_that_is_deleted_while_it_waits_for_a_node_leaves_no_half_engine(pool):
    """Of one engine it is the leader, of the other the follower."""
    apply(pool, podTemplate=NOWHERE)
    before = made(pool, BOTH)
    gone = {before["g0-15", 0, 0], before["g16-31", 0, 1]}
    delete(pool, name("g0-15", 0, 0), name("g16-31", 0, 1))

    def back() -> bool:
        there = members(pool)
        engines = sorted((engine, rank) for engine, _, rank in there)
        alike = len({(engine, attempt) for engine, attempt, _ in there}) == len(ENGINES)
        return (
            alike and engines == list(product(ENGINES, RANKS)) and gone.isdisjoint(there.values())
        )

    pool.wait(back, "both engines have their pods")


def test_a_pod_that_ends_or_is_deleted_while_its_engine_loads_takes_it(pool):
    """Of one engine it is the leader, of the other the follower.

    They end of two causes: after one and the same, one engine would be tried before the other.
    """
    apply(pool, podTemplate=LOADING)
    running(pool, made(pool, BOTH))
    pool.break_pod(name("g0-15", 0, 0), message="torch.OutOfMemoryError: CUDA out of memory")
    pool.break_pod(name("g16-31", 0, 1), reason="OOMKilled")
    running(pool, made(pool, {"g0-15": 1, "g16-31": 1}))
    causes = {"CUDAOutOfMemory", "OOMKilled"}
    pool.wait(lambda: {each["reason"] for each in failures(pool)} == causes, "what they died of")
    delete(pool, name("g0-15", 1, 1), name("g16-31", 1, 0))
    made(pool, {"g0-15": 2, "g16-31": 2})


def failures(pool: PoolUnderTest) -> list[dict[str, Any]]:
    """What the pool's status tells of engines that ended."""
    return list(pool.status.get("lastFailures", []))


def running(pool: PoolUnderTest, there: Members) -> None:
    """Wait until the containers of these pods run."""

    def run() -> bool:
        return all(pod(pool, name(*key))["status"]["phase"] == "Running" for key in there)

    pool.wait(run, "the containers run")


def test_a_follower_that_ends_while_its_engine_drains_ends_the_drain(pool):
    """Nobody answers without it, for the rest of the grace."""
    slow = played(**{"stop-delay": "600"})
    apply(pool, weights=UNGATED, podTemplate=slow, drain={"gracePeriodSeconds": 600})
    before = whole(pool, BOTH)
    delete(pool, name("g0-15", 0, 0))
    pool.wait(lambda: ("g0-15", 0, 0) not in members(pool), "the drain")
    pool.wait_rest()
    assert members(pool).keys() == before.keys() - {("g0-15", 0, 0)}
    pool.break_pod(name("g0-15", 0, 1))
    made(pool, {"g0-15": 1, "g16-31": 0})


def test_of_two_that_run_beside_each_other_for_a_rollout_one_ends_and_not_the_other(pool):
    spec = {"weights": UNGATED, "replicas": 1, "rollout": {"maxSurge": 1}}
    apply(pool, **spec)
    old = whole(pool, {"g0-15": 0})
    apply(pool, **spec, podTemplate=LOADING, restart={"backoffSeconds": 1})
    new = beside(pool, old, 1)
    for attempt, rank in ((1, 0), (2, 1)):
        pool.break_pod(name("g0-15", attempt, rank))
        new = beside(pool, old, attempt + 1)
    assert serving(pool) == {("g0-15", 0)}
    pool.break_pod(name("g0-15", 0, 1))
    pool.wait(lambda: members(pool) == new, "the new one alone")


def beside(pool: PoolUnderTest, old: Members, attempt: int) -> Members:
    """Wait until this try runs beside the old one; its pods."""
    wanted = {("g0-15", attempt, rank) for rank in RANKS}
    pool.wait(lambda: members(pool).keys() == old.keys() | wanted, f"try {attempt} beside it")
    found = members(pool)
    running(pool, found)
    assert {key: found[key] for key in old} == old
    return {key: found[key] for key in wanted}


@pytest.fixture
def small(pool) -> Iterator[PoolUnderTest]:
    """A pool of engines of one pod, in the namespace of the other."""
    small = PoolUnderTest(pool.plane, pool.namespace, "small")
    yield small
    small.delete("--wait=false", "--ignore-not-found")


def test_engines_of_all_sizes_live_side_by_side(pool, small):
    """What becomes of one is nothing to the others, of one pool or of two."""
    apply(pool, weights=UNGATED)
    small.apply(device_mapping="list(range(0,8))", weights=UNGATED)
    large, single = whole(pool, BOTH), small.wait_ready()
    delete(small, "small-g2-3-0")
    delete(pool, name("g16-31", 0, 0))
    after = whole(pool, {"g0-15": 0, "g16-31": 1})
    assert of("g0-15", after) == of("g0-15", large)
    small.wait(lambda: small.uids().get("g2-3") not in (None, single["g2-3"]), "its next try")
    there = small.wait_ready()
    assert {engine for engine in single if there[engine] != single[engine]} == {"g2-3"}
    for each in (pool, small):
        each.patch({"replicas": 0})
    pool.wait(lambda: not pool.all_pods(), "no pod", 60)
    pool.patch({"replicas": 2})
    small.patch({"replicas": 4})
    whole(pool, BOTH)
    small.wait_ready()


@pytest.mark.parametrize("rank", RANKS)
def test_a_node_that_is_gone_takes_the_engine_that_had_a_pod_there(pool, rank):
    apply(pool)
    whole(pool, BOTH)
    node = pod(pool, name("g0-15", 0, rank))["spec"]["nodeName"]
    pool.plane.delete_node(node)
    whole(pool, {"g0-15": 1, "g16-31": 0})
    told = [(each["reason"], each["pod"]) for each in pool.status["lastFailures"]]
    assert told == [("NodeLost", name("g0-15", 0, rank))]
    pool.plane.add_node(node)
