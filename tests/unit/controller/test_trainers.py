"""Engines on a trainer's GPUs, through the loop: they come, go and come back with its pods."""

import asyncio
from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.observed import wire
from sglang_operator.placement.slots import Slot, written
from tests.unit.controller import fake_api
from tests.unit.placement.trainers import SHARED, a_slot, by_hand

KEY = ("rl", "pool")
SLOTS = paths.child("ConfigMap", "rl", names.slots_name("pool"))


def trainer(slot: Slot) -> tuple[str, dict[str, Any]]:
    """A trainer's pod, as somebody's controller makes it."""
    labels = {names.LABEL_TRAINER: "job"}
    return paths.pod("rl", slot.pod), {
        "metadata": {"labels": labels},
        "spec": {"nodeName": slot.node},
    }


def run_trainer(api: fake_api.Api, slot: Slot) -> None:
    """The trainer's pod is there."""
    path, body = trainer(slot)
    api.add(path, body, uid=slot.uid)


def publish(api: fake_api.Api, *of: Slot) -> None:
    """The trainer says which GPUs it has."""
    api.touch(SLOTS, {"data": {names.slot_key(slot.node_rank): written(slot) for slot in of}})


def engines(api: fake_api.Api) -> list[dict[str, Any]]:
    return [pod for pod in api.pods("rl") if names.LABEL_POOL in pod["metadata"]["labels"]]


def nodes(api: fake_api.Api) -> list[str]:
    found = []
    for pod in engines(api):
        affinity = pod["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        found += term["matchFields"][0]["values"]
    return found


def test_engines_follow_their_trainer_wherever_it_goes():
    slot, moved = a_slot(0), a_slot(0, "gpu-9", pod="trainer-9", uid="uid-anew")

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY, placement=SHARED)
            await api.until(lambda: SLOTS in api.objects)
            await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
            assert not engines(api)
            publish(api, slot)
            await asyncio.sleep(0.1)
            assert not engines(api), "its pod is not seen yet"
            run_trainer(api, slot)
            await api.until(lambda: nodes(api) == ["gpu-0"])
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

            await api.request("DELETE", trainer(slot)[0])
            await api.until(lambda: not engines(api))
            await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
            run_trainer(api, moved)
            publish(api, moved)
            await api.until(lambda: nodes(api) == ["gpu-9"])

    asyncio.run(story())


def test_other_pools_are_not_woken_for_a_trainers_pods():
    woken: list[str] = []

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False) as room:
            api.make("rl", "own")
            api.make("rl", "joins", placement=SHARED)
            await api.until(lambda: api.reason("rl", "own") == "PoolReady")
            await api.until(lambda: api.reason("rl", "joins") == "WaitingForTrainersGPUs")
            room.wake = lambda key, urgent: woken.append(key.name)  # type: ignore[method-assign]
            run_trainer(api, a_slot(0))
            await api.until(lambda: woken)

    asyncio.run(story())
    assert set(woken) == {"joins"}


async def a_pool_that_joined(api: fake_api.Api, slot: Slot) -> None:
    """A pool whose engines have started beside the trainer's pod that has said so."""
    run_trainer(api, slot)
    api.make(*KEY, placement=SHARED)
    await api.until(lambda: SLOTS in api.objects)
    publish(api, slot)
    await api.until(lambda: api.reason(*KEY) == "PoolReady")


def test_pools_on_the_same_gpus_tell_of_each_other():
    """Also the one that was there first, and again once the other is gone."""

    def told(api: fake_api.Api, name: str) -> bool:
        found = api.pool("rl", name).get("status", {}).get("conditions", ())
        return any("at most one may be awake" in each["message"] for each in found)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            run_trainer(api, a_slot(0))
            api.make("rl", "one", placement=by_hand(a_slot(0)))
            await api.until(lambda: api.reason("rl", "one") == "PoolReady")
            assert not told(api, "one")
            api.make("rl", "two", placement=by_hand(a_slot(0)))
            await api.until(lambda: told(api, "one") and told(api, "two"))
            api.change("rl", "two", {**api.pool("rl", "two")["spec"], "suspend": True})
            await api.until(lambda: not told(api, "one"))

    asyncio.run(story())


def test_engines_go_with_their_trainer_when_their_pool_is_in_another_mode_by_then():
    slot = a_slot(0)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, slot)
            spec = {**api.pool(*KEY)["spec"], "rollout": {"paused": True}}
            del spec["placement"]
            api.change(*KEY, spec)
            await api.until(lambda: api.pool(*KEY)["status"].get("placement") == "Count", 10)
            assert nodes(api) == ["gpu-0"], "it is paused"
            await api.request("DELETE", trainer(slot)[0])
            await api.until(lambda: engines(api) and "affinity" not in engines(api)[0]["spec"])

    asyncio.run(story())


def test_engines_go_with_their_trainer_under_a_spec_that_is_refused():
    slot = a_slot(0)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, slot)
            api.change(*KEY, {**api.pool(*KEY)["spec"], "rollout": {"maxSurge": 1}})
            await api.until(lambda: api.reason(*KEY) != "PoolReady")
            refused = api.reason(*KEY)
            await asyncio.sleep(0.2)
            assert engines(api), "those that can stay do"
            await api.request("DELETE", trainer(slot)[0])
            await api.until(lambda: not engines(api))
            assert api.reason(*KEY) == refused

    asyncio.run(story())


@pytest.mark.parametrize("again", ["pool", "other"])
def test_a_pool_made_anew_waits_for_the_last_engine_of_the_one_before(again):
    """Under its name or another: the engine is told to end, and has the GPUs until it has."""
    slot = a_slot(0)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            run_trainer(api, slot)
            api.make(*KEY, placement=by_hand(slot))
            await api.until(lambda: engines(api))
            (old,) = engines(api)
            path = paths.pod("rl", old["metadata"]["name"])
            api.touch(path, {"spec": {"nodeName": "gpu-0"}})
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            for other in [each for each in api.objects if "/pods/" not in each]:
                await api.request("DELETE", other)
            deletion = {"deletionTimestamp": "2036-11-30T14:30:00Z"}
            api.touch(path, {"metadata": {**deletion, "deletionGracePeriodSeconds": 600}})
            await asyncio.sleep(0.2)
            api.make("rl", again, placement=by_hand(slot))
            await api.until(lambda: api.reason("rl", again) == "WaitingForTrainersGPUs")
            assert engines(api) == [api.objects[path]]

            await api.request("DELETE", path)
            await api.until(lambda: api.reason("rl", again) == "PoolReady", 10)
            assert len(engines(api)) == 1

    asyncio.run(story())


def test_what_a_trainer_has_published_stays_whatever_becomes_of_the_rest():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY, placement=SHARED)
            await api.until(lambda: SLOTS in api.objects)
            publish(api, a_slot(0))
            api.touch(SLOTS, {"metadata": {"labels": {names.LABEL_COMPONENT: "other"}}})
            await api.until(
                lambda: api.objects[SLOTS]["metadata"]["labels"][names.LABEL_COMPONENT] == "slots"
            )
            assert api.objects[SLOTS]["data"] == {"node-rank-0": written(a_slot(0))}

    asyncio.run(story())


SHARE = {"load_format": "auto", "mem_fraction_static": 0.7}
TIMES = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:20Z"}
NO_MEMORY = "ValueError: Not enough memory. Please try to increase --mem-fraction-static."
ENGINE = {"name": names.ENGINE_CONTAINER, "containerID": "containerd://2"}
LOOPS = [
    {
        **ENGINE,
        "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "message": NO_MEMORY, **TIMES}},
    }
]
RUNS_ON = [
    {**ENGINE, "ready": True, "state": {"running": {"startedAt": TIMES["startedAt"]}}},
    {
        "name": "log-shipper",
        "containerID": "containerd://3",
        "state": {"terminated": {"exitCode": 1, **TIMES}},
    },
]


@pytest.mark.parametrize(
    ("spec", "containers", "known"),
    [
        (
            {"strategy_args": {"strategy_name": "sglang", "strategy_config": SHARE}},
            LOOPS,
            {names.ANNOTATION_FAILURES: "1", names.ANNOTATION_STARTUP_FAILURES: "2"},
        ),
        ({}, RUNS_ON, {names.ANNOTATION_FAILURES: "1"}),
    ],
    ids=["kubelet starts it again and again", "another container has ended for good"],
)
def test_a_pod_is_gone_before_the_next_is_made_which_knows_of_its_failures(spec, containers, known):
    """Two engines would have one GPU's memory."""
    slot = a_slot(0)
    asked: list[tuple[str, int]] = []

    async def story() -> None:
        api = fake_api.Api()

        async def request(method: str, path: str, **rest: Any) -> bytes:
            if path.startswith("/api/v1/namespaces/rl/pods"):
                asked.append((method, len(engines(api))))
            return await answers(method, path, **rest)

        async with fake_api.operator(api, watch_nodes=False):
            run_trainer(api, slot)
            api.make(*KEY, placement=SHARED, **spec)
            await api.until(lambda: SLOTS in api.objects)
            publish(api, slot)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            (first,) = engines(api)
            answers, api.request = api.request, request  # type: ignore[method-assign]
            conditions = [{"type": "PodScheduled", "status": "True"}]
            status = {"phase": "Running", "conditions": conditions, "containerStatuses": containers}
            path = paths.pod("rl", first["metadata"]["name"])
            api.touch(path, {"spec": {"nodeName": slot.node}, "status": status})
            uid = first["metadata"]["uid"]
            await api.until(lambda: [p for p in engines(api) if p["metadata"]["uid"] != uid])
            (second,) = engines(api)
            assert known.items() <= second["metadata"]["annotations"].items()
            assert all(there == 0 for method, there in asked if method == "POST")

    asyncio.run(story())


def a_node(name: str, version: int) -> wire.NodeObject:
    """As the stream of nodes tells of it."""
    meta = {"name": name, "uid": f"uid-{version}", "resourceVersion": str(version)}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    return msgspec.convert({"metadata": meta, "status": ready}, wire.NodeObject)


@pytest.mark.parametrize("given", ["by hand", "published"])
def test_a_slots_node_may_come_after_the_slot_and_come_back(given):
    """A node that has just joined the cluster, and one that was made anew under its name."""
    slot = a_slot(0)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=True) as room:
            run_trainer(api, slot)
            api.make(*KEY, placement=by_hand(slot) if given == "by hand" else SHARED)
            await api.until(lambda: SLOTS in api.objects or given == "by hand")
            if given == "published":
                publish(api, slot)
            await api.until(lambda: api.reason(*KEY) == "SlotsDisagree")
            await asyncio.sleep(0.2)  # else its own status wakes it
            room.nodes.put(a_node("gpu-0", 1_000_001))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

            (engine,) = engines(api)
            await api.request("DELETE", paths.pod("rl", engine["metadata"]["name"]))
            await api.until(lambda: engines(api))
            room.nodes.drop(a_node("gpu-0", 1_000_002))
            (engine,) = engines(api)
            await api.request("DELETE", paths.pod("rl", engine["metadata"]["name"]))
            await api.until(lambda: api.reason(*KEY) == "SlotsDisagree")
            await asyncio.sleep(0.2)
            assert not engines(api)
            room.nodes.put(a_node("gpu-0", 1_000_003))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


def test_nodes_that_come_wake_no_pool_that_has_nothing_to_do_with_places():
    woken: list[str] = []

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=True) as room:
            api.make("rl", "own")
            api.make("rl", "joins", placement=SHARED)
            await api.until(lambda: api.reason("rl", "own") == "PoolReady")
            await api.until(lambda: api.reason("rl", "joins") == "WaitingForTrainersGPUs")
            room.wake = lambda key, urgent: woken.append(key.name)  # type: ignore[method-assign]
            room.nodes.put(a_node("gpu-0", 1_000_001))
            await api.until(lambda: woken)
            await asyncio.sleep(0.05)

    asyncio.run(story())
    assert woken == ["joins"]
