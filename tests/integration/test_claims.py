"""Pools whose engines have their GPUs by claims, on the real scheduler and its controllers."""

import json
from collections.abc import Iterator

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from tests.integration import slices
from tests.integration.pools import Json, PoolUnderTest
from tests.unit.placement.trainers import gpu

NODES = 3
pytestmark = [pytest.mark.each_kubernetes, pytest.mark.plane(f"{NODES}x0", quiet=True)]
SLOT: Json = {
    "placement": {"mode": "Slot"},
    "device_mapping": "list(range(0,8))",
    "num_gpus_per_worker": 4,
}


@pytest.fixture(autouse=True)
def published(plane: ControlPlane) -> Iterator[None]:
    """The cards of all nodes."""
    slices.publish(plane, NODES)
    yield
    slices.withdraw(plane)


def make(pool: PoolUnderTest, *objects: Json) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    pool.kubectl("create", "-f", "-", input=json.dumps(listed))


def claim(pool: PoolUnderTest, name: str = "") -> Json:
    name = name or names.claim_name(pool.name, 0)
    path = f"{slices.API}/namespaces/{pool.namespace}/resourceclaims/{name}"
    found: Json = pool.plane.api.get(path)
    return found


def is_free(pool: PoolUnderTest, name: str = "") -> bool:
    return "allocation" not in claim(pool, name).get("status", {})


def node_of(pool: PoolUnderTest, name: str) -> str:
    """The node of a pod, once it runs."""

    def runs() -> str:
        pod = pool.plane.api.get(f"/api/v1/namespaces/{pool.namespace}/pods/{name}")
        is_running = pod["status"].get("phase") == "Running"
        return pod["spec"]["nodeName"] if is_running else ""

    return str(pool.wait(runs, f"{name} runs", 60))


def engine_nodes(pool: PoolUnderTest) -> set[str]:
    return {pod["spec"].get("nodeName", "") for pod in pool.pods()}


def told(pool: PoolUnderTest, reason: str, words: str) -> str:
    """The message of Ready once it has these words."""

    def found() -> str:
        ready = pool.condition(conditions.READY)
        assert ready.get("reason") == reason and words in ready["message"], ready
        return str(ready["message"])

    return str(pool.wait(found, f"{reason}: {words}", 60))


def test_trainer_and_engines_share_a_claim_and_have_the_same_gpus_again(pool):
    pool.apply(**SLOT)
    pool.wait_ready(60)
    (node,) = engine_nodes(pool)
    make(pool, slices.user("trainer-0", names.claim_name(pool.name, 0)))
    assert node_of(pool, "trainer-0") == node
    for pod in pool.pods():
        (container,) = pod["spec"]["containers"]
        ids = [
            int(each)
            for each in pod["metadata"]["annotations"][names.ANNOTATION_DEVICES].split(",")
        ]
        asked = [each["request"] for each in container["resources"]["claims"]]
        assert asked == [f"gpu-{each}" for each in ids]
        assert "nvidia.com/gpu" not in str(container["resources"])
    (slot,) = pool.status["slots"]
    number = int(node.rpartition("-")[2])
    assert (slot["node"], slot["allocated"]) == (node, True)
    had = {each["request"]: each["uuid"] for each in slot["gpus"]}
    assert set(had.values()) == {gpu(number, index) for index in range(8)}
    assigned = pool.condition(conditions.DEVICES_ASSIGNED)
    assert assigned["reason"] == conditions.CLAIMED

    # All are gone, and somebody else's pod takes what is free first.
    pool.patch({"suspend": True})
    pool.kubectl("delete", "pod", "trainer-0", "--grace-period=0", "--force")
    pool.wait(lambda: not pool.all_pods(), "nobody has the claim", 60)
    pool.wait(lambda: ".uuid ==" in json.dumps(claim(pool)["spec"]), "the claim is pinned", 60)
    assert is_free(pool)
    (slot,) = pool.status["slots"]
    assert (slot["node"], slot["allocated"]) == (node, False)

    make(pool, slices.user("trainer-1", names.claim_name(pool.name, 0)))
    assert node_of(pool, "trainer-1") == node
    pool.patch({"suspend": False})
    pool.wait_ready(60)
    assert engine_nodes(pool) == {node}
    results = claim(pool)["status"]["allocation"]["devices"]["results"]
    again = {each["request"]: gpu(number, int(each["device"][4:])) for each in results}
    assert again == had, "each id is the same silicon"
    users = {each["name"] for each in claim(pool)["status"]["reservedFor"]}
    assert users == {"trainer-1", *(pod["metadata"]["name"] for pod in pool.pods())}

    # With the pool its claim goes, once nobody has it.
    pool.delete("--wait=false")
    pool.kubectl("delete", "pod", "trainer-1", "--grace-period=0", "--force")
    path = f"{slices.API}/namespaces/{pool.namespace}/resourceclaims"
    pool.wait(lambda: not pool.plane.api.get(path)["items"], "no claim is left", 60)


def test_a_claim_that_finds_no_devices_is_told_with_who_has_them(pool):
    for node in range(NODES):
        held = slices.claim(f"job-{node}", 4)
        make(pool, held, slices.user(f"job-{node}", f"job-{node}", f"gpu-node-{node}"))
    for node in range(NODES):
        node_of(pool, f"job-{node}")
    pool.apply(**SLOT)
    message = told(pool, conditions.DEVICES_PENDING, "cards are free")
    assert "wants 8 devices of class gpu.nvidia.com on one node" in message
    assert "12 of 24 cards are free in the cluster" in message
    assert "with 4 of 8 free, held by ResourceClaim job-" in message
    assert "cannot allocate all claims" in message, "the scheduler's own words"
    pool.kubectl("delete", "pod", "job-1", "--grace-period=0", "--force")
    pool.wait_ready(60)
    assert engine_nodes(pool) == {"gpu-node-1"}


def test_engines_join_a_claim_that_is_the_trainers(pool):
    requests = [
        {"name": f"gpu-{index}", "exactly": {"deviceClassName": slices.DRIVER}}
        for index in range(8)
    ]
    own = slices.claim("trainers", 1)
    own["spec"]["devices"]["requests"] = requests
    slot = {"claims": [{"nodeRank": 0, "claimName": "trainers"}]}
    pool.apply(**{**SLOT, "placement": {"mode": "Slot", "slot": slot}})
    pool.wait_for(conditions.READY, conditions.SEATS_AWAITED)
    assert not pool.pods()
    make(pool, own, slices.user("trainer-0", "trainers"))
    node = node_of(pool, "trainer-0")
    pool.wait_ready(60)
    assert engine_nodes(pool) == {node}
    assert pool.status["slots"][0]["claim"] == "trainers"
    path = f"{slices.API}/namespaces/{pool.namespace}/resourceclaims"
    assert [each["metadata"]["name"] for each in pool.plane.api.get(path)["items"]] == ["trainers"]


def test_a_name_that_is_somebody_elses_is_told_and_left_alone(pool):
    name = names.claim_name(pool.name, 0)
    make(pool, slices.claim(name, 1))
    before = claim(pool)["metadata"]["uid"]
    pool.apply(**SLOT)
    stands = pool.wait_for(conditions.STALLED, conditions.NAME_CONFLICT)
    assert name in stands["message"]
    assert not pool.pods()
    assert claim(pool)["metadata"]["uid"] == before


def test_nodes_whose_gpus_are_counted_twice_are_refused(pool):
    def count(gpus: int) -> None:
        amount = {"nvidia.com/gpu": str(gpus)}
        for node in range(NODES):
            status = {"status": {"capacity": amount, "allocatable": amount}}
            path = f"/api/v1/nodes/gpu-node-{node}/status"
            pool.plane.api.merge(path, status)

    count(8)
    try:
        pool.apply(**SLOT)
        stands = pool.wait_for(conditions.STALLED, conditions.COUNTED_TWICE)
        assert "gpu-node-0, gpu-node-1, gpu-node-2" in stands["message"]
        assert not pool.pods()
    finally:
        count(0)
    pool.wait_ready(60)


def test_a_taint_on_a_device_is_told(pool):
    pool.apply(**SLOT)
    pool.wait_ready(60)
    (node,) = engine_nodes(pool)
    taint = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}
    bad = slices.resource_slice(int(node.rpartition("-")[2]), {3: taint})
    kept = json.loads(
        pool.kubectl("apply", "--server-side", "-o", "json", "-f", "-", input=json.dumps(bad))
    )
    if "taints" not in kept["spec"]["devices"][3]:
        pytest.skip("this Kubernetes knows no taints of devices unless a feature gate is set")

    def warned() -> bool:
        found = pool.status.get("warnings", [])
        return any("gpu.nvidia.com/xid=79:NoSchedule" in each["message"] for each in found)

    pool.wait(warned, "the taint is told", 60)
    assert pool.is_ready(), "who runs on it runs on"


def test_where_only_claims_are_served_engines_that_are_counted_get_gpus_too(pool):
    """By the extended resource of the device class, of which no node has any."""
    the_class = pool.plane.api.get(f"{slices.API}/deviceclasses/{slices.DRIVER}")
    if "extendedResourceName" not in the_class["spec"]:
        pytest.skip("this Kubernetes serves extended resources by claims behind a feature gate")
    pool.apply(device_mapping="list(range(0,16))", num_gpus_per_worker=4)
    pool.wait_ready(60)
    nodes = [pod["spec"]["nodeName"] for pod in pool.pods()]
    assert len(nodes) == 4 and max(map(nodes.count, nodes)) <= 2
    path = f"{slices.API}/namespaces/{pool.namespace}/resourceclaims"
    had = [
        (each["pool"], each["device"])
        for found in pool.plane.api.get(path)["items"]
        for each in found["status"]["allocation"]["devices"]["results"]
    ]
    assert len(had) == len(set(had)) == 16
    assert pool.condition(conditions.DEVICES_ASSIGNED)["reason"] == conditions.COUNTED
