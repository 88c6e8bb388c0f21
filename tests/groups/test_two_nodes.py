"""Engines of two pods on two real nodes: containers that meet, serve, end and come back as one."""

import contextlib
import itertools
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.gpu import story
from sglang_operator.testing.gpu.pool import victim
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.pytest_plugin import require_real_node
from sglang_operator.testing.realnode import kitimages
from tests.integration import members
from tests.integration.members import ENGINES, RANKS, UNGATED, Members, name, of, pod, serving
from tests.integration.pools import PoolUnderTest, engine_env
from tests.integration.test_real_pool import answers, ask, service_url

COUNTER = itertools.count()
NODES = ("gpu-node-0", "gpu-node-1")
GRACE_SECONDS = 4.0  # until a silent node counts as lost
LOST = {"nodeLostSeconds": 2}
WAIT = 120.0
# What is left of an engine would notice by itself after this long, as with NCCL.
PEERS = 300
DRAIN_SECONDS = 25
BOTH = {"g0-15": 0, "g16-31": 0}
LONG = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 100_000}}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    require_real_node()
    with ControlPlane("2x16", kind="real", node_monitor_grace_seconds=GRACE_SECONDS) as plane:
        plane.load_image(kitimages.default_engine())
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[InstalledOperator]:
    with InstalledOperator(plane) as operator:
        yield operator
    lines = operator.log.read_text().splitlines()
    assert not [line for line in lines if " ERROR " in line]


@pytest.fixture
def pool(plane: ControlPlane, operator: InstalledOperator) -> Iterator[PoolUnderTest]:
    pool = PoolUnderTest(plane, plane.namespace(f"pool-{next(COUNTER)}"))
    yield pool
    clear(pool)


def clear(pool: PoolUnderTest) -> None:
    """All pools and pods of the namespace: the next test needs their GPUs."""
    pool.kubectl("delete", "sgi", "--all", "--wait=false")
    pool.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    pool.wait(lambda: not pool.all_pods(), "the pods to go", WAIT)


def apply(pool: PoolUnderTest, *, env: dict[str, object] | None = None, **changes: Any) -> None:
    template = engine_env(PEER_SECONDS=PEERS, **(env or {}))
    members.apply(pool, **{"podTemplate": template, "weights": UNGATED, **changes})


def whole(pool: PoolUnderTest, attempts: dict[str, int]) -> Members:
    return members.whole(pool, attempts, WAIT)


def run(pool: PoolUnderTest, found: Members) -> None:
    """Wait until the containers of these pods run."""

    def running() -> bool:
        states = (pod(pool, name(*key))["status"].get("containerStatuses", []) for key in found)
        return all(each and "running" in each[0]["state"] for each in states)

    pool.wait(running, "the containers run", WAIT)


def kill(pool: PoolUnderTest, wanted: str) -> None:
    """SIGKILL for the process of the engine in this pod."""
    uid = pod(pool, wanted)["metadata"]["uid"]
    os.kill(victim(dict(story.processes(uid))), signal.SIGKILL)


def delete(pool: PoolUnderTest, wanted: str) -> None:
    members.delete(pool, wanted)


def nodes_of(pool: PoolUnderTest) -> set[str]:
    return {each["spec"]["nodeName"] for each in pool.pods()}


def told(pool: PoolUnderTest) -> list[str]:
    """The pods of which a failure is told."""
    return [each["pod"] for each in pool.status.get("lastFailures", [])]


def strike_both(pool: PoolUnderTest, how: Any) -> Members:
    """The leader of one engine and the follower of the other; both come back, nothing is left."""
    for engine, rank in zip(ENGINES, RANKS, strict=True):
        how(pool, name(engine, 0, rank))
    found = whole(pool, {"g0-15": 1, "g16-31": 1})
    pool.wait(lambda: len(pool.pods()) == 4, "nothing of the first try is left", WAIT)
    return found


def test_two_engines_of_sixteen_gpus_are_up_and_answer(plane, pool):
    apply(pool)
    whole(pool, BOTH)
    assert pool.status["readySummary"] == "2/2"
    registry = pool.registry()
    assert registry["worldSize"] == 33
    assert [each["pod"] for each in registry["engines"]] == [name(e, 0, 0) for e in ENGINES]
    for engine in registry["engines"]:
        information = ask(pool, f"{engine['url']}/get_server_info")
        assert (information["nnodes"], information["tp_size"]) == (2, 16)
    plane.wait(lambda: answers(pool, f"{service_url(pool)}/model_info"), WAIT, "the Service")
    addresses = {pod(pool, name(engine, 0, 1))["status"]["podIP"] for engine in ENGINES}
    for address in addresses:  # followers answer their probes, and no questions
        with plane.inside(), urllib.request.urlopen(f"http://{address}:30000/health") as answer:
            assert answer.status == 200
        assert not answers(pool, f"http://{address}:30000/model_info")
    path = f"/apis/discovery.k8s.io/v1/namespaces/{pool.namespace}/endpointslices"
    slices = plane.api.get(f"{path}?labelSelector=kubernetes.io%2Fservice-name%3D{pool.name}")
    listed = {e["addresses"][0] for each in slices["items"] for e in each.get("endpoints") or ()}
    assert listed and not listed & addresses


def test_an_engine_may_have_all_gpus_of_both_nodes(pool):
    """Of 32 GPUs, 16 on each."""
    apply(pool, num_gpus_per_worker=32, num_gpus_per_node=16)
    whole(pool, {"g0-31": 0})
    assert nodes_of(pool) == set(NODES)
    kill(pool, name("g0-31", 0, 1))
    whole(pool, {"g0-31": 1})


@pytest.mark.parametrize("how", [kill, delete])
def test_a_pod_that_ends_while_the_engine_serves_takes_it(pool, how):
    apply(pool)
    whole(pool, BOTH)
    strike_both(pool, how)
    ended = [name("g0-15", 0, 0), name("g16-31", 0, 1)]
    # One cause is told once, with all its engines.
    assert set(told(pool)) <= set(ended)
    assert bool(told(pool)) == (how is kill)


@pytest.mark.parametrize("how", [kill, delete])
def test_a_pod_that_ends_behind_a_closed_gate_takes_its_engine(pool, how):
    apply(pool, weights={"gate": "Committed"})
    whole(pool, BOTH)
    strike_both(pool, how)
    assert not serving(pool)


@pytest.mark.parametrize("how", [kill, delete])
def test_a_pod_that_ends_while_the_engine_loads_takes_it(pool, how):
    apply(pool, env={"LOAD_SECONDS": 6})
    run(pool, members.made(pool, BOTH, WAIT))
    strike_both(pool, how)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("how", [kill, delete])
def test_a_pod_that_ends_before_it_meets_the_other_is_tried_again(pool, how, rank):
    """The other finds no room yet: of 32 GPUs another engine has 16, and somebody else 8."""
    occupy(pool)
    apply(pool)
    pool.wait(lambda: len(members.members(pool)) == 4, "all pods", WAIT)

    def alone() -> str | None:
        """The pod that runs while the other of its engine has no node."""
        states = {e: [phase(pool, name(e, 0, r)) for r in RANKS] for e in ENGINES}
        for engine, phases in states.items():
            if sorted(phases) == ["Pending", "Running"]:
                return name(engine, 0, phases.index("Running"))
        return None

    found = pool.wait(alone, "one that waits for the other", WAIT)
    kill(pool, found) if how is kill else delete(pool, found)
    pool.kubectl("delete", "pod", "occupier", "--grace-period=1", "--wait=false")
    there = pool.wait(lambda: pool.is_ready() and members.members(pool), "both engines", WAIT)
    assert sorted((engine, each) for engine, _, each in there) == [
        (engine, each) for engine in ENGINES for each in RANKS
    ]


def phase(pool: PoolUnderTest, wanted: str) -> str:
    return str(pod(pool, wanted)["status"].get("phase"))


def occupy(pool: PoolUnderTest) -> None:
    """Eight GPUs are somebody else's."""
    container = {
        "name": "main",
        "image": kitimages.default_engine().name,
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "occupier"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    pool.kubectl("apply", "-f", "-", input=json.dumps(body))
    path = f"/api/v1/namespaces/{pool.namespace}/pods/occupier"
    pool.wait(lambda: pool.plane.api.get(path)["status"]["phase"] == "Running", "it", WAIT)


@pytest.mark.parametrize("rank", RANKS)
def test_a_pod_that_is_killed_while_the_engine_drains_ends_the_drain(pool, rank):
    """The leader has to go at once then; kubelet, which waits already, waits on all the same."""
    apply(pool, env={"TOKEN_SECONDS": 0.05}, drain={"gracePeriodSeconds": DRAIN_SECONDS})
    before = whole(pool, BOTH)
    (engine,) = [e for e in pool.registry()["engines"] if e["engine"] == "g0-15"]
    leader = name("g0-15", 0, 0)
    with asking(pool, f"{engine['url']}/generate"):
        pool.wait(lambda: load(pool, engine) > 0, "the request to run", WAIT)
        delete(pool, leader)
        pool.wait(lambda: ("g0-15", 0, 0) not in members.members(pool), "the drain", WAIT)
        pool.wait_rest()
        assert ("g0-15", 0, 1) in members.members(pool)
        kill(pool, name("g0-15", 0, rank))
        pool.wait(lambda: grace(pool, leader) < DRAIN_SECONDS, "no time for requests", WAIT)
    after = whole(pool, {"g0-15": 1, "g16-31": 0})
    assert of("g16-31", after) == of("g16-31", before)


def grace(pool: PoolUnderTest, wanted: str) -> int:
    """Seconds that a pod was given to end; 0 once it is gone."""
    found = [each["metadata"] for each in pool.pods() if each["metadata"]["name"] == wanted]
    return int(found[0]["deletionGracePeriodSeconds"]) if found else 0


def load(pool: PoolUnderTest, engine: dict[str, Any]) -> int:
    """How many requests an engine works on."""
    return sum(int(each["num_reqs"]) for each in ask(pool, f"{engine['url']}/get_load"))


@contextlib.contextmanager
def asking(pool: PoolUnderTest, url: str) -> Iterator[None]:
    """One long request, which the end of the engine ends."""

    def request() -> None:
        with contextlib.suppress(OSError, ValueError):
            ask(pool, url, LONG, timeout=WAIT)

    thread = threading.Thread(target=request)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("rank", RANKS)
def test_an_eviction_takes_one_engine_and_the_next_has_to_wait(pool, rank):
    apply(pool)
    before = whole(pool, BOTH)
    pool.wait(lambda: members.may_go(pool), "one may go", WAIT)
    assert members.evict(pool, name("g0-15", 0, rank))
    assert not members.evict(pool, name("g16-31", 0, 0))
    assert not members.evict(pool, name("g16-31", 0, 1))
    after = whole(pool, {"g0-15": 1, "g16-31": 0})
    assert of("g16-31", after) == of("g16-31", before)
    pool.wait(lambda: members.may_go(pool), "the next may go", WAIT)


@pytest.mark.parametrize("rank", RANKS)
def test_a_node_that_is_drained_gives_its_engine_to_the_other(plane, pool, rank):
    apply(pool, replicas=1)
    whole(pool, {"g0-15": 0})
    node = pod(pool, name("g0-15", 0, rank))["spec"]["nodeName"]
    try:
        members.drain(pool, node)
        whole(pool, {"g0-15": 1})
        assert nodes_of(pool) == set(NODES) - {node}
    finally:
        plane.kubectl("uncordon", node)


@pytest.mark.parametrize("rank", RANKS)
def test_a_node_without_power_takes_its_engine_which_comes_back_on_the_other(plane, pool, rank):
    apply(pool, replicas=1, restart=LOST)
    whole(pool, {"g0-15": 0})
    assert nodes_of(pool) == set(NODES)
    lost = name("g0-15", 0, rank)
    node = pod(pool, lost)["spec"]["nodeName"]
    plane.silence_node(node)
    try:
        pool.wait(lambda: serving(pool) == {("g0-15", 1)}, "the next try", WAIT)
        there = [key for key in members.members(pool) if key[1] == 1]
        assert {pod(pool, name(*key))["spec"]["nodeName"] for key in there} == set(NODES) - {node}
        assert [(e["reason"], e["pod"]) for e in pool.status["lastFailures"]] == [
            ("NodeLost", lost)
        ]
    finally:
        plane.restore_node(node)
    whole(pool, {"g0-15": 1})
    pool.wait(lambda: len(pool.all_pods()) == 2, "what was lost goes", WAIT)


def test_new_engines_come_first_where_there_is_room_and_one_serves_meanwhile(pool):
    spec: dict[str, Any] = {"replicas": 1, "rollout": {"maxSurge": 1}, "env": {"LOAD_SECONDS": 3}}
    apply(pool, **spec)
    old = whole(pool, {"g0-15": 0})
    apply(pool, **spec, seed=7)
    seen: set[frozenset[tuple[str, int]]] = set()

    def done() -> bool:
        seen.add(frozenset(serving(pool)))
        there = members.members(pool)
        return pool.is_ready() and len(there) == 2 and not {*there.values()} & {*old.values()}

    pool.wait(done, "a new engine", WAIT)
    assert frozenset() not in seen
    whole(pool, {"g0-15": 1})


@pytest.mark.parametrize("rank", RANKS)
def test_a_new_engine_that_loses_a_pod_costs_nobody(pool, rank):
    spec: dict[str, Any] = {"replicas": 1, "rollout": {"maxSurge": 1}}
    apply(pool, **spec)
    old = whole(pool, {"g0-15": 0})
    apply(pool, **spec, env={"LOAD_SECONDS": 8})
    new = {("g0-15", 1, each) for each in RANKS}
    pool.wait(lambda: members.members(pool).keys() == old.keys() | new, "one beside it", WAIT)
    run(pool, members.members(pool))
    kill(pool, name("g0-15", 1, rank))
    again = {("g0-15", 2, each) for each in RANKS}
    pool.wait(lambda: members.members(pool).keys() == old.keys() | again, "its next try", WAIT)
    assert of("g0-15", members.members(pool)).items() >= old.items()
    assert serving(pool) == {("g0-15", 0)}
    whole(pool, {"g0-15": 2})


def test_without_room_for_a_new_one_engines_are_replaced_in_place_and_that_is_told(pool):
    spec: dict[str, Any] = {"rollout": {"maxSurge": 1}}
    apply(pool, **spec)
    old = whole(pool, BOTH)
    apply(pool, **spec, seed=7)
    pool.told(conditions.SURGE_NO_ROOM)
    fewest = 2

    def done() -> bool:
        nonlocal fewest
        fewest = min(fewest, len(serving(pool)))
        there = members.members(pool)
        return pool.is_ready() and len(there) == 4 and not {*there.values()} & {*old.values()}

    pool.wait(done, "two new engines", WAIT)
    assert fewest == 1


def test_a_pool_goes_to_nothing_and_comes_back(pool):
    apply(pool)
    whole(pool, BOTH)
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.all_pods(), "the engines to go", WAIT)
    assert not told(pool)
    pool.patch({"replicas": 2})
    whole(pool, BOTH)


def test_engines_of_all_sizes_live_side_by_side(plane, pool):
    """What becomes of one is nothing to the others, of one pool or of two."""
    small = PoolUnderTest(plane, pool.namespace, "small")
    apply(pool, replicas=1)
    small.apply(device_mapping="list(range(0,8))", weights=UNGATED)
    large, single = whole(pool, {"g0-15": 0}), small.wait_ready(WAIT)
    kill(pool, name("g0-15", 0, 1))
    whole(pool, {"g0-15": 1})
    assert small.uids() == single
    small.kubectl("delete", "pod", "small-g2-3-0", "--wait=false")
    small.wait(lambda: small.uids().get("g2-3") not in (None, single["g2-3"]), "its next try", WAIT)
    there = small.wait_ready(WAIT)
    assert {engine for engine in single if there[engine] != single[engine]} == {"g2-3"}
    after = whole(pool, {"g0-15": 1})
    for each in (pool, small):
        each.patch({"replicas": 0})
    pool.wait(lambda: not pool.all_pods(), "the engines to go", WAIT)
    pool.patch({"replicas": 2})
    small.wait_ready(WAIT)
    assert not {*whole(pool, BOTH).values()} & {*large.values(), *after.values()}
    told_engines = {each["engine"] for each in pool.registry()["engines"]}
    assert told_engines == {names.EngineName(engine) for engine in ENGINES}
