"""Pools whose engines have their GPUs by claims, through the loop."""

import asyncio
import json
from typing import Any

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from tests.integration import slices
from tests.unit.controller import fake_api
from tests.unit.placement.claims import SLOT
from tests.unit.placement.trainers import a_slot, by_hand, gpu

KEY = ("rl", "pool")
NAME = names.claim_name("pool", 0)
CLAIM = paths.child("ResourceClaim", "rl", NAME)
SERVED: dict[str, Any] = {"watch_nodes": True}


def publish(api: fake_api.Api, nodes: int = 2) -> None:
    """Nodes, and the cards of each."""
    for node in range(nodes):
        api.add(f"{paths.NODES}/gpu-node-{node}", {})
        body = slices.resource_slice(node)
        api.add(f"{paths.SLICES}/{body['metadata']['name']}", body)


def engines(api: fake_api.Api) -> list[dict[str, Any]]:
    return api.pods("rl")


def allocate(api: fake_api.Api, node: int, *users: str) -> None:
    """The scheduler has found devices for the claim."""
    asked = api.objects[CLAIM]["spec"]["devices"]["requests"]
    results = [
        {
            "request": each["name"],
            "driver": slices.DRIVER,
            "pool": f"gpu-node-{node}",
            "device": each["name"],
        }
        for each in asked
    ]
    reserved = [{"resource": "pods", "name": name, "uid": name} for name in users]
    status = {"allocation": {"devices": {"results": results}}, "reservedFor": reserved}
    api.touch(CLAIM, {"status": status})


def free(api: fake_api.Api) -> None:
    """Its last pod is gone."""
    api.touch(CLAIM, {"status": {"allocation": None, "reservedFor": None}})


def pinned(api: fake_api.Api) -> list[str]:
    if CLAIM not in api.objects:
        return []
    asked = [each["exactly"] for each in api.objects[CLAIM]["spec"]["devices"]["requests"]]
    words = [each["selectors"][0]["cel"]["expression"] for each in asked if "selectors" in each]
    return [each.rpartition(" == ")[2].strip('"') for each in words]


def uuids(api: fake_api.Api) -> list[str]:
    slots = api.pool(*KEY).get("status", {}).get("slots", [])
    return [each["uuid"] for slot in slots for each in slot.get("gpus", ())]


def told(api: fake_api.Api) -> str:
    conditions_ = api.pool(*KEY).get("status", {}).get("conditions", [])
    return " ".join(each["message"] for each in conditions_)


def test_a_claim_is_made_before_pods_and_pinned_when_nobody_has_it_any_more():
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api))
            calls = [path for method, path in api.calls if method == "POST"]
            claims = calls.index(paths.children("ResourceClaim", "rl"))
            assert claims < calls.index(paths.pods("rl"))
            (pod,) = engines(api)
            assert pod["spec"]["resourceClaims"] == [{"name": "gpus", "resourceClaimName": NAME}]
            allocate(api, 1, pod["metadata"]["name"])
            await api.until(lambda: uuids(api) == [gpu(1, 0), gpu(1, 1)])
            first = api.objects[CLAIM]["metadata"]["uid"]
            assert not pinned(api), "what pods have is left alone"
            free(api)
            await api.until(lambda: pinned(api) == [gpu(1, 0), gpu(1, 1)])
            assert api.objects[CLAIM]["metadata"]["uid"] != first

    asyncio.run(story())


def test_an_operator_that_is_started_anew_knows_the_devices_by_the_status():
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api))
            allocate(api, 0, "trainer-0")
            await api.until(lambda: uuids(api))
        free(api)
        async with fake_api.operator(api, **SERVED):
            await api.until(lambda: pinned(api) == [gpu(0, 0), gpu(0, 1)])

    asyncio.run(story())


@pytest.mark.parametrize("status", [403, 404])
def test_where_claims_are_not_served_the_pool_says_so_and_has_no_pod(status):
    def gone(method: str, path: str) -> Exception | None:
        if "/resource.k8s.io/" not in path:
            return None
        return ApiError(status, "No", f"{path}: no", None, missing=status == 404)

    async def story() -> None:
        api = fake_api.Api()
        api.fails = gone
        async with fake_api.operator(api, **SERVED):
            api.make("rl", "counted")
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: api.reason(*KEY) == conditions.CLAIMS_NOT_SERVED)
            await api.until(lambda: api.reason("rl", "counted") == conditions.POOL_READY)
            assert not [
                each for each in engines(api) if each["metadata"]["name"].startswith("pool")
            ]

    asyncio.run(story())


@pytest.mark.parametrize("node_name", [True, False], ids=["of a node", "of any"])
def test_a_card_in_a_slice_that_is_yet_to_be_written_is_not_replaced(node_name):
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        path = f"{paths.SLICES}/{slices.resource_slice(1)['metadata']['name']}"
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api))
            allocate(api, 1, "trainer-0")
            had = [gpu(1, 0), gpu(1, 1)]
            await api.until(lambda: uuids(api) == had)
            free(api)
            await api.until(lambda: pinned(api) == had)
            before = len(writes(api))
            spec = api.objects[path]["spec"]
            pool = {**spec["pool"], "generation": 2, "resourceSliceCount": 2}
            new = {**spec, "pool": pool}
            cards = spec["devices"]
            if not node_name:
                cards = [{**each, "nodeName": new["nodeName"]} for each in cards]
                del new["nodeName"]
            api.add(f"{path}-a", {"spec": {**new, "devices": [cards[0], *cards[2:]]}})
            await api.request("DELETE", path)
            await asyncio.sleep(0.4)
            assert pinned(api) == uuids(api) == had
            other = {"uuid": {"string": gpu(9, 9)}, "type": {"string": "gpu"}}
            api.add(f"{path}-b", {"spec": {**new, "devices": [{**cards[1], "attributes": other}]}})
            await api.until(lambda: pinned(api) == had[:1])
            assert len(writes(api)) > before, "what has been replaced is known by the whole"

    asyncio.run(story())


def a_listing(name: str) -> dict[str, Any]:
    return {**SLOT, "slot": {"claims": [{"nodeRank": 0, "claimName": name}]}}


def writes(api: fake_api.Api) -> list[tuple[str, str]]:
    """What was done to claims."""
    return [each for each in api.calls if "resourceclaims" in each[1] and each[0] != "GET"]


def test_a_claim_of_the_pools_own_that_is_listed_is_left_to_whoever_listed_it():
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api))
            (pod,) = engines(api)
            allocate(api, 1, pod["metadata"]["name"])
            await api.until(lambda: uuids(api))
            made, before = api.objects[CLAIM]["metadata"]["uid"], len(writes(api))
            api.change(*KEY, {**api.pool(*KEY)["spec"], "placement": a_listing(NAME)})
            await asyncio.sleep(0.3)
            await api.request("DELETE", paths.pod("rl", pod["metadata"]["name"]))
            free(api)
            await api.until(lambda: [p for p in engines(api) if p != pod])
            await asyncio.sleep(0.5)
            assert api.objects[CLAIM]["metadata"]["uid"] == made
            assert len(writes(api)) == before

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "listed"),
    [("mine", True), ("mine", False), (NAME, True), (names.claim_name("pool", 7), False)],
)
def test_a_claim_of_the_users_that_the_pool_owns_is_never_written_to(name, listed):
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        path = paths.child("ResourceClaim", "rl", name)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=a_listing(name if listed else "others"))
            await api.until(lambda: "uid" in api.pool(*KEY)["metadata"])
            owner = {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": "pool",
                "uid": api.pool(*KEY)["metadata"]["uid"],
                "controller": True,
            }
            asked = [
                {
                    "name": f"gpu-{rank}",
                    "exactly": {
                        "deviceClassName": slices.DRIVER,
                        "allocationMode": "ExactCount",
                        "count": 1,
                    },
                }
                for rank in range(2)
            ]
            meta = {"name": name, "namespace": "rl", "ownerReferences": [owner]}
            api.add(path, {"metadata": meta, "spec": {"devices": {"requests": asked}}})
            await api.until(lambda: not listed or engines(api))
            await asyncio.sleep(0.5)
            assert path in api.objects
            assert not writes(api)

    asyncio.run(story())


def test_a_claim_that_somebody_begins_to_use_meanwhile_is_not_deleted():
    """The scheduler may be about to give it devices: only the state that was seen may go."""

    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: CLAIM in api.objects)
            spec = {
                **api.pool(*KEY)["spec"],
                "placement": {**SLOT, "slot": {"deviceClassName": "mig.nvidia.com"}},
            }
            before = api.objects[CLAIM]["metadata"]["uid"]
            # Unseen by the operator so far.
            api.objects[CLAIM]["metadata"]["resourceVersion"] += "0"
            api.change(*KEY, spec)
            await api.until(lambda: ("DELETE", CLAIM) in api.calls)
            assert api.objects[CLAIM]["metadata"]["uid"] == before

    asyncio.run(story())


def test_a_claim_for_devices_that_are_no_gpus_is_told_and_gets_no_pod():
    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        body = slices.claim("mine", 1)
        asked = {"deviceClassName": "kvm.devices.example.com", "allocationMode": "ExactCount"}
        body["spec"]["devices"]["requests"] = [
            {"name": f"gpu-{rank}", "exactly": {**asked, "count": 1}} for rank in range(2)
        ]
        body["metadata"] |= {"namespace": "rl"}
        api.add(paths.child("ResourceClaim", "rl", "mine"), body)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=a_listing("mine"))
            await api.until(lambda: "is not allowed here" in told(api))
            assert "--allow-resource=deviceclass.resource.kubernetes.io/kvm" in told(api)
            assert not engines(api)

    asyncio.run(story())


def test_the_registry_tells_the_uuids_of_claimed_gpus_once_they_are_known():
    """By these a trainer measures what a sleep has freed: another name of a GPU is none."""

    def registered(api: fake_api.Api) -> list[Any]:
        path = paths.child("ConfigMap", "rl", names.registry_name("pool"))
        data = api.objects.get(path, {"data": {}})["data"].get(names.REGISTRY_KEY, "{}")
        return [each.get("uuids") for each in json.loads(data).get("engines", ())]

    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api) and registered(api))
            assert registered(api) == [None]
            allocate(api, 1, *(each["metadata"]["name"] for each in engines(api)))
            await api.until(lambda: registered(api) != [None])
            assert registered(api) == [uuids(api)] == [[gpu(1, 0), gpu(1, 1)]]

    asyncio.run(story())


def test_a_pool_that_has_a_gpu_by_a_claim_and_one_that_has_it_by_uuid_take_it_in_turns():
    """The claim's GPUs are known by other names, which the driver's UUIDs make one."""
    other = ("rl", "shared")
    on_them = a_slot(0, node="gpu-node-1", gpus=tuple(gpu(1, index) for index in range(8)))

    async def story() -> None:
        api = fake_api.Api()
        publish(api)
        async with fake_api.operator(api, **SERVED):
            api.make(*KEY, placement=SLOT)
            await api.until(lambda: engines(api))
            (pod,) = engines(api)
            allocate(api, 1, pod["metadata"]["name"])
            await api.until(lambda: uuids(api) == [gpu(1, 0), gpu(1, 1)])
            api.make(*other, placement=by_hand(on_them))
            await api.until(lambda: api.reason(*other) == conditions.RIVAL_AWAITED)
            assert engines(api) == [api.objects[paths.pod("rl", pod["metadata"]["name"])]]
            api.change(*KEY, {**api.pool(*KEY)["spec"], "suspend": True})
            await api.until(lambda: api.reason(*other) == conditions.POOL_READY)

    asyncio.run(story())
