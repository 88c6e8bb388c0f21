"""Engines of several pods on nodes in two racks, placed by Kubernetes' own scheduler."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.scheduling.topology import REQUIRED
from sglang_operator.testing import errors
from tests.integration.pools import Json, PoolUnderTest

pytestmark = pytest.mark.plane("8x8", quiet=True)

RACK = "example.com/rack"
SPREAD = {"requiredTopology": RACK, "spread": {"topologyKey": RACK}}


def nodes(plane: Any) -> list[str]:
    return sorted(node["metadata"]["name"] for node in plane.api.get("/api/v1/nodes")["items"])


@pytest.fixture(scope="module")
def racks(plane) -> dict[str, str]:
    """The rack of each node: four in each."""
    found = {node: "ab"[index // 4] for index, node in enumerate(nodes(plane))}
    for node, rack in found.items():
        plane.kubectl("label", "node", node, f"{RACK}={rack}")
    return found


@pytest.fixture
def closed(plane) -> Iterator[list[str]]:
    """Nodes that are cordoned, and are open again afterwards."""
    cordoned: list[str] = []
    yield cordoned
    for node in cordoned:
        plane.kubectl("uncordon", node)


def apply(pool: PoolUnderTest, **changes: Any) -> None:
    two = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,32))"}
    pool.apply(**{**two, "scheduling": SPREAD, "weights": {"gate": "Off"}, **changes})


def standing(pool: PoolUnderTest, racks: dict[str, str]) -> dict[tuple[str, int], list[str]]:
    """The racks of the pods of each try at an engine that have a node and stay."""
    found: dict[tuple[str, int], list[str]] = {}
    for pod in pool.pods():
        meta = pod["metadata"]
        node = pod["spec"].get("nodeName")
        if meta.get("deletionTimestamp") or not node:
            continue
        key = meta["labels"][names.LABEL_ENGINE], names.attempt_of(meta["name"])
        found.setdefault(key, []).append(racks[node])
    return found


def whole(pool: PoolUnderTest, racks: dict[str, str], engines: int) -> None:
    """Wait until so many engines have both of their pods, and the pool is Ready."""

    def there() -> bool:
        found = standing(pool, racks)
        return [len(where) for where in found.values()] == [2] * engines and pool.is_ready()

    pool.wait(there, f"{engines} engines", 60)


def spread(pool: PoolUnderTest, racks: dict[str, str]) -> dict[tuple[str, int], list[str]]:
    """Wait until two engines are whole, each in one rack, both racks have one."""
    whole(pool, racks, 2)
    found = standing(pool, racks)
    assert sorted(found.values()) == [["a", "a"], ["b", "b"]], found
    return found


def test_an_engine_is_within_one_rack_and_each_rack_has_one(pool, racks):
    apply(pool)
    assert spread(pool, racks).keys() == {("g0-15", 0), ("g16-31", 0)}


def test_to_nothing_and_back(pool, racks):
    apply(pool)
    spread(pool, racks)
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.pods(), "no pod", 60)
    pool.patch({"replicas": 2})
    spread(pool, racks)


def test_new_engines_beside_old_ones_are_whole_in_one_rack_too(pool, racks):
    apply(pool, rollout={"maxSurge": 1}, seed=1)
    spread(pool, racks)
    before = {pod["metadata"]["uid"] for pod in pool.pods()}
    apply(pool, rollout={"maxSurge": 1}, seed=2)
    beside = []

    def replaced() -> bool:
        found = standing(pool, racks)
        assert all(len(set(where)) == 1 for where in found.values()), found
        if len(found) > 2:
            beside.append(found)
        there = {pod["metadata"]["uid"] for pod in pool.pods()}
        return before.isdisjoint(there) and len(there) == 4 and pool.is_ready()

    pool.wait(replaced, "all replaced", 60)
    assert beside, "no new engine came beside an old one"
    spread(pool, racks)


def test_engines_of_one_pod_are_spread_too(pool, racks):
    chosen = {"spread": {"topologyKey": RACK}}
    pool.apply(
        num_gpus_per_worker=8,
        device_mapping="list(range(0,32))",
        scheduling=chosen,
        weights={"gate": "Off"},
    )
    pool.wait(lambda: len(pool.pods()) == 4 and pool.is_ready(), "four engines", 60)
    assert sorted(standing(pool, racks).values()) == [["a"], ["a"], ["b"], ["b"]]


def test_where_one_rack_is_better_two_do(pool, racks, closed, plane):
    """Of each rack one node is open: an engine that needs two takes both."""
    close(plane, racks, closed, a=1, b=1)
    apply(pool, device_mapping="list(range(0,16))", scheduling={"preferredTopology": RACK})
    whole(pool, racks, 1)
    assert [sorted(where) for where in standing(pool, racks).values()] == [["a", "b"]]
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.pods(), "no pod", 60)
    last = sorted(closed)[-1]
    plane.kubectl("uncordon", *sorted(closed))
    closed.clear()
    while not is_open(plane, last):
        pass
    pool.patch({"replicas": 1})
    whole(pool, racks, 1)
    assert [len(set(where)) for where in standing(pool, racks).values()] == [1]


def close(plane, racks: dict[str, str], closed: list[str], **left: int) -> None:
    """Cordon nodes, so that each rack has so many left."""
    for rack, count in left.items():
        for node in sorted(node for node in racks if racks[node] == rack)[count:]:
            plane.kubectl("cordon", node)
            closed.append(node)
    while is_open(plane, closed[-1]):
        pass


def is_open(plane, node: str) -> bool:
    """Whether the scheduler puts pods there: it hears of a change of nodes some time later, and of
    all in their order."""
    asked: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asks-the-scheduler"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "nothing", "image": "none"}],
        },
    }
    name = asked["metadata"]["name"]
    plane.kubectl("apply", "-f", "-", input=json.dumps(asked))
    try:
        plane.kubectl("wait", "pod", name, "--for=condition=PodScheduled", "--timeout=2s")
    except errors.CommandError:
        return False
    finally:
        plane.kubectl("delete", "pod", name, "--force", "--grace-period=0")
    return True


def test_where_no_rack_has_enough_it_is_told_and_the_engine_comes_once_one_has(
    pool, racks, closed, plane
):
    close(plane, racks, closed, a=1, b=1)
    apply(pool, device_mapping="list(range(0,16))")

    def told() -> Json | None:
        found = pool.condition(conditions.READY)
        return found if "has no room for 1 more" in found.get("message", "") else None

    found = pool.wait(told, "that no rack has enough", 60)
    assert found["reason"] == "DevicesPending"
    assert f"all pods of an engine have to be in one domain by {RACK}" in found["message"]
    assert len(standing(pool, racks)) == 1
    plane.kubectl("uncordon", *closed)
    whole(pool, racks, 1)
    assert [len(set(where)) for where in standing(pool, racks).values()] == [1]


def test_where_no_node_has_the_label_that_is_told(pool, racks):
    apply(pool, scheduling={"requiredTopology": "example.com/domain"})

    def told() -> bool:
        found = pool.condition(conditions.READY).get("message", "")
        return "only nodes with the label example.com/domain: label them" in found

    pool.wait(told, "that nodes lack the label", 60)


def test_why_a_second_required_affinity_to_pods_is_refused(pool, racks, plane):
    """The scheduler wants one pod that matches both terms: the first pod waits for itself."""

    def apply_pod(name: str, labels: dict[str, str], *wanted: dict[str, str]) -> None:
        terms = [{"topologyKey": RACK, "labelSelector": {"matchLabels": each}} for each in wanted]
        plane.kubectl(
            "apply",
            "--namespace",
            pool.namespace,
            "-f",
            "-",
            input=json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "labels": labels},
                    "spec": {
                        "containers": [{"name": "main", "image": "pause"}],
                        "affinity": {"podAffinity": {REQUIRED: terms}},
                    },
                }
            ),
        )

    def scheduled(name: str) -> tuple[str, str]:
        for pod in pool.all_pods():
            if pod["metadata"]["name"] == name:
                found = conditions.find(pod["status"].get("conditions", []), "PodScheduled") or {}
                return found.get("status", ""), found.get("message", "")
        return "", ""

    apply_pod("cache", {"app": "cache"})
    pool.plane.wait(lambda: scheduled("cache")[0] == "True", 30, "the cache")
    apply_pod("alone", {"group": "x"}, {"group": "x"})
    pool.plane.wait(lambda: scheduled("alone")[0] == "True", 30, "the first of one term")
    apply_pod("both", {"group": "y"}, {"group": "y"}, {"app": "cache"})
    pool.plane.wait(lambda: scheduled("both")[0] == "False", 30, "the first of two")
    assert "didn't match pod affinity rules" in scheduled("both")[1]
    plane.kubectl("delete", "pods", "--all", "--namespace", pool.namespace, "--force")


def test_a_node_that_is_gone_takes_its_engine_and_all_of_it_is_in_one_rack_again(pool, racks):
    """The last test: a node is missing afterwards."""
    apply(pool)
    spread(pool, racks)
    lost = next(
        pod["spec"]["nodeName"]
        for pod in pool.pods()
        if pod["metadata"]["name"] == "actor-infer-g0-15-0n1"
    )
    pool.plane.kubectl("delete", "node", lost)

    def back() -> bool:
        return set(standing(pool, racks)) == {("g0-15", 1), ("g16-31", 0)} and pool.is_ready()

    pool.wait(back, "the engine is back", 60)
    spread(pool, racks)
