"""Pods that are no engines any more, and have the GPUs that the next ones are to get."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sglang_operator.api import device_variables, names
from sglang_operator.client import registry as parsed
from sglang_operator.clocks import moment
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from sglang_operator.weights import lease_state, parts, steps, turn
from tests.unit.controller import fake_api
from tests.unit.controller.test_strays import Selecting
from tests.unit.controller.test_trainers import (
    KEY,
    SLOTS,
    a_pool_that_joined,
    engines,
    publish,
    run_trainer,
    trainer,
)
from tests.unit.placement.trainers import SHARED, a_slot, gpu

FIRST = paths.pod("rl", "pool-g0-1-0")
DELETION = {"deletionTimestamp": "2036-11-30T14:30:00Z", "deletionGracePeriodSeconds": 600}
Change = Callable[[fake_api.Api], None]


def message(api: fake_api.Api) -> str:
    told = api.pool(*KEY).get("status", {}).get("conditions", [{"message": ""}])
    return str(told[0]["message"])


def others(api: fake_api.Api) -> list[str]:
    """The pods of engines beside the first, and the trainer's."""
    found = [pod["metadata"]["name"] for pod in api.pods("rl")]
    return [name for name in found if name not in (a_slot(0).pod, "pool-g0-1-0")]


def labels_taken(api: fake_api.Api) -> None:
    del api.objects[FIRST]["metadata"]["labels"][names.LABEL_COMPONENT]


def orphaned(api: fake_api.Api) -> None:
    api.objects[FIRST]["metadata"]["ownerReferences"] = []


def orphaned_without_labels(api: fake_api.Api) -> None:
    orphaned(api)
    labels_taken(api)


def under_another_pools_label(api: fake_api.Api) -> None:
    orphaned(api)
    api.objects[FIRST]["metadata"]["labels"][names.LABEL_POOL] = "other"


def adopted(api: fake_api.Api) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "theirs", "uid": "uid-theirs"}
    api.objects[FIRST]["metadata"]["ownerReferences"] = [{**owner, "controller": True}]


def of_another_pool(api: fake_api.Api) -> None:
    """Of one that is not there."""
    api.objects[FIRST]["metadata"]["ownerReferences"][0] |= {"name": "gone", "uid": "uid-gone"}


LEFT = pytest.mark.parametrize(
    "change",
    [
        labels_taken,
        orphaned,
        orphaned_without_labels,
        under_another_pools_label,
        adopted,
        of_another_pool,
    ],
)


@LEFT
def test_no_engine_is_put_beside_a_pod_that_still_has_its_gpus(change: Change):
    """Whatever became of that pod, also while it drains; and the pool says which it is."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            api.touch(FIRST, {"spec": {"nodeName": "gpu-0"}})
            change(api)
            api.touch(FIRST, {})
            await api.until(lambda: api.reason(*KEY) != "PoolReady")
            await asyncio.sleep(0.3)
            assert others(api) == []
            api.touch(FIRST, {"metadata": DELETION})
            await asyncio.sleep(0.3)
            assert others(api) == []
            await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
            assert "pod pool-g0-1-0 is not gone yet" in message(api)

            await api.request("DELETE", FIRST)
            await api.until(lambda: api.reason(*KEY) == "PoolReady", 10)
            assert len(engines(api)) == 1

    asyncio.run(story())


LEASE = paths.child("Lease", "rl", names.weights_lease_name("pool"))
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name("pool"))
T = steps.Trainer(holder="trainer", transaction="t1")


def registry(api: fake_api.Api) -> parsed.Registry:
    return parsed.parse(api.objects[REGISTRY])


def sleeps(api: fake_api.Api, *runs: str) -> None:
    """The trainer takes its turn, with these asleep."""
    says = lease_state.read(api.objects[LEASE])
    tags = lease_state.SLEEP_TAGS
    after = steps.sleep(says, T, tags=tags, now=1.0, seen=0.0, takes=turn.TRAINER)
    after = steps.rests(steps.slept(after, T, instances=runs, now=1.0), T)
    api.touch(LEASE, lease_state.patch(api.objects[LEASE], after))


def hidden(api: fake_api.Api) -> None:
    """Out of the operator's stream of pods."""
    del api.objects[FIRST]["metadata"]["labels"][names.LABEL_MANAGED_BY]


def replaced_pool(api: fake_api.Api) -> None:
    """Its pool was deleted and applied again, while it drains."""
    of_another_pool(api)
    api.objects[FIRST]["metadata"]["ownerReferences"][0]["name"] = "pool"
    api.objects[FIRST]["metadata"] |= DELETION


OUT = [hidden, orphaned, orphaned_without_labels, under_another_pools_label, adopted]


@pytest.mark.parametrize("change", [*OUT, of_another_pool, replaced_pool, labels_taken])
def test_its_gpus_are_not_the_trainers_before_it_is_gone(change: Change):
    """The registry said that the engine waits, and named nobody: a sleep was over by that."""

    async def story() -> None:
        api = Chosen()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            api.touch(FIRST, {"spec": {"nodeName": "gpu-0"}})
            change(api)
            api.touch(FIRST, {})
            await api.until(lambda: bool(registry(api).holders))
            sleeps(api)
            await api.until(lambda: registry(api).weights.transaction == "t1")
            await asyncio.sleep(0.3)
            (engine,) = registry(api).engines
            assert not engine.waits
            assert [(each.pod, each.devices) for each in registry(api).holders] == [
                ("pool-g0-1-0", (0, 1))
            ]
            await api.request("DELETE", FIRST)
            await api.until(lambda: registry(api).engines[0].waits, 10)
            assert registry(api).holders == ()

    asyncio.run(story())


@pytest.mark.parametrize("change", [*OUT, of_another_pool])
def test_a_sleeper_that_is_out_of_the_pools_hands_is_named_until_it_is_gone(change: Change):
    """Taken for ended by a wake, it died of the next sync."""

    async def story() -> None:
        api = Chosen()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            api.touch(FIRST, {"spec": {"nodeName": "gpu-0"}})
            await api.until(lambda: bool(registry(api).engines[0].instance))
            sleeps(api, str(registry(api).engines[0].instance))
            await api.until(lambda: registry(api).weights.transaction == "t1")
            assert registry(api).hidden == ()
            change(api)
            api.touch(FIRST, {})
            await api.until(lambda: registry(api).hidden == ("pool-g0-1-0",))
            await asyncio.sleep(0.3)
            assert registry(api).hidden == ("pool-g0-1-0",)
            await api.request("DELETE", FIRST)
            await api.until(lambda: registry(api).hidden == (), 10)

    asyncio.run(story())


@pytest.mark.parametrize("gate", ["Committed", "Off"])
def test_a_sleeper_with_counted_gpus_is_named_too_while_it_is_out_of_sight(gate: str):
    """A wake around that forgot it, and the sync after its label was back flushed it."""

    async def story() -> None:
        api = Chosen()
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY, weights={"gate": gate})
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            await api.until(lambda: bool(registry(api).engines[0].instance))
            run = str(registry(api).engines[0].instance)
            (engine,) = api.objects[FIRST]["status"]["containerStatuses"]
            engine["state"] = {"running": {"startedAt": "2026-11-30T13:00:00Z"}}
            api.touch(FIRST, {})
            sleeps(api, run)
            await api.until(lambda: registry(api).weights.transaction == "t1")
            hidden(api)
            api.touch(FIRST, {})
            await api.until(lambda: registry(api).hidden == ("pool-g0-1-0",))
            await asyncio.sleep(0.3)
            assert registry(api).hidden == ("pool-g0-1-0",)
            api.touch(FIRST, {"metadata": {"labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}}})
            await api.until(lambda: registry(api).hidden == (), 10)
            every = (*registry(api).engines, *registry(api).unlisted)
            assert run in [each.instance for each in every]

    asyncio.run(story())


def test_sleepers_whose_trainer_died_at_work_make_way_once_another_gives_their_gpus_back():
    """The new engines of a pool that was regrouped waited for ever, and each sync for them."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            api.touch(FIRST, {"spec": {"nodeName": "gpu-0"}})
            await api.until(lambda: bool(registry(api).engines[0].instance))
            dies = steps.Trainer(holder="trainer", transaction="t1", duration=1.0)
            says = lease_state.read(api.objects[LEASE])
            tags, run = lease_state.SLEEP_TAGS, str(registry(api).engines[0].instance)
            says = steps.sleep(says, dies, tags=tags, now=1.0, seen=0.0, takes=turn.TRAINER)
            says = steps.slept(says, dies, instances=[run], now=1.0)
            assert says.at_work
            api.touch(LEASE, lease_state.patch(api.objects[LEASE], says))
            api.change(*KEY, {**api.pool(*KEY)["spec"], "num_gpus_per_worker": 1})
            await api.until(lambda: len(registry(api).engines) == 2)
            anew = steps.Trainer(holder="trainer-2", transaction="t2")
            back = parts.give_back(says, anew, now=9.0, seen=0.0)
            api.touch(LEASE, lease_state.patch(api.objects[LEASE], back))
            await api.until(lambda: FIRST not in api.objects, 10)
            await api.until(lambda: len(others(api)) == 2, 10)

    asyncio.run(story())


def with_a_sidecar_that_has_ended(api: fake_api.Api) -> None:
    """Which a webhook put in: the pod can never be Ready again, and its engine runs on."""
    ended = {"terminated": {"exitCode": 1, "finishedAt": "2026-11-30T14:00:00Z"}}
    pod = api.objects[FIRST]
    pod["spec"]["restartPolicy"] = "Never"
    pod["spec"]["containers"].append({"name": "proxy", "image": "proxy"})
    (engine,) = pod["status"]["containerStatuses"]
    engine["state"] = {"running": {"startedAt": "2026-11-30T13:00:00Z"}}
    pod["status"]["containerStatuses"].append({"name": "proxy", "ready": False, "state": ended})


@pytest.mark.parametrize("change", [labels_taken, orphaned_without_labels])
def test_such_a_pod_is_seen_until_its_engine_ends_whatever_ended_beside_it(change: Change):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False) as room:
            await a_pool_that_joined(api, a_slot(0))
            change(api)
            with_a_sidecar_that_has_ended(api)
            api.touch(FIRST, {})

            def seen() -> list[str]:
                passes = room.reconciler
                assert passes is not None
                key = PoolKey(*KEY)
                found = passes._observer.observe(key, passes._memories[key], moment())
                return [pod.name for pod in (*found.aside, *found.departing) if pod.ended]

            await api.until(lambda: seen() == ["pool-g0-1-0"])
            ended = {"terminated": {"exitCode": 0, "finishedAt": "2026-11-30T14:05:00Z"}}
            api.objects[FIRST]["status"]["containerStatuses"][0] |= {"ready": False, "state": ended}
            api.touch(FIRST, {})
            await api.until(lambda: seen() == [])

    asyncio.run(story())


def test_a_pod_that_stands_aside_is_named_while_it_runs_on():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            labels_taken(api)
            api.touch(FIRST, {})
            await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
            assert "pod pool-g0-1-0 is not gone yet" in message(api)

    asyncio.run(story())


def held(api: fake_api.Api) -> None:
    """Somebody deletes the pool, behind somebody else's finalizer."""
    meta: dict[str, Any] = {"deletionTimestamp": "2026-11-29T07:00:00Z", "finalizers": ["x/hold"]}
    path, generation = paths.pool(*KEY), api.generation(*KEY) + 1
    api.touch(path, {"metadata": {**meta, "generation": generation}})


def held_and_refused(api: fake_api.Api) -> None:
    api.change(*KEY, {**api.pool(*KEY)["spec"], "rollout": {"maxSurge": 1}})
    held(api)


def aside(api: fake_api.Api) -> None:
    labels_taken(api)
    api.touch(FIRST, {})


def aside_and_refused(api: fake_api.Api) -> None:
    aside(api)
    api.change(*KEY, {**api.pool(*KEY)["spec"], "rollout": {"maxSurge": 1}})


@pytest.mark.parametrize("change", [held, held_and_refused, aside, aside_and_refused])
def test_nothing_stays_on_gpus_whose_trainer_is_gone(change: Change):
    """Neither an engine of a pool that is on its way out, nor a pod that stands aside."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            change(api)
            await api.until(lambda: api.reason(*KEY) != "PoolReady")
            await asyncio.sleep(0.2)
            assert FIRST in api.objects
            before = len(api.seen)
            await api.request("DELETE", trainer(a_slot(0))[0])
            await api.until(lambda: FIRST not in api.objects)
            await asyncio.sleep(0.2)
            assert others(api) == []
            assert api.seen[before:].count(("DELETE", FIRST)) == 1

    asyncio.run(story())


class Chosen(Selecting):
    """As it is for engines' pods; the trainer's are chosen by a label of their own."""

    def _tell(self, kind: str, path: str, body: Any) -> None:
        if path == trainer(a_slot(0))[0]:
            fake_api.Api._tell(self, kind, path, body)
        else:
            super()._tell(kind, path, body)

    def _found(self, path: str) -> Any:
        found = super()._found(path)
        if path.endswith("/pods"):
            labels = {names.LABEL_MANAGED_BY, names.LABEL_TRAINER}
            chosen = [each for each in found["items"] if labels & each["metadata"]["labels"].keys()]
            found["items"] = chosen
        return found


@pytest.mark.parametrize("operator", ["the same", "another"])
def test_a_pod_that_was_taken_out_of_the_operators_sight_is_asked_for_by_its_name(operator):
    """Its stream says that it is deleted; nobody says when it really is."""

    async def no_other_beside_it(api: fake_api.Api) -> None:
        await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
        await asyncio.sleep(0.3)
        assert others(api) == []
        assert "pod pool-g0-1-0 is not gone yet" in message(api)

    async def story() -> None:
        api = Chosen()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            api.touch(FIRST, {"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}})
            await no_other_beside_it(api)
            if operator == "the same":
                await api.request("DELETE", FIRST)
                await api.until(lambda: api.reason(*KEY) == "PoolReady", 10)
                return
        async with fake_api.operator(api, watch_nodes=False):
            await no_other_beside_it(api)
            await api.request("DELETE", FIRST)
            await api.until(lambda: api.reason(*KEY) == "PoolReady", 10)

    asyncio.run(story())


def test_an_engine_that_is_gone_is_asked_for_once():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_joined(api, a_slot(0))
            before = len(api.seen)
            await api.request("DELETE", FIRST)
            await api.until(lambda: any(call[0] == "POST" for call in api.seen[before:]))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            await asyncio.sleep(0.3)
            assert api.seen[before:].count(("GET", FIRST)) == 1

    asyncio.run(story())


async def joins(api: fake_api.Api) -> None:
    """A pool is told which GPUs its trainer has."""
    run_trainer(api, a_slot(0))
    api.make(*KEY, placement=SHARED)
    await api.until(lambda: SLOTS in api.objects)
    publish(api, a_slot(0))


def decoy(api: fake_api.Api, node: str, namespace: str = "tenant") -> str:
    """A pod that says it has a GPU of the trainer's, as anybody's may, and keeps waiting."""
    path = paths.pod(namespace, "decoy")
    env = [{"name": device_variables.NVIDIA, "value": gpu(0, 0)}]
    spec = {"containers": [{"name": names.ENGINE_CONTAINER, "image": "pause", "env": env}]}
    where = {"nodeName": node} if node else {"schedulingGates": [{"name": "x/never"}]}
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    api.add(path, {"metadata": {"labels": labels}, "spec": {**spec, **where}})
    status = {"phase": "Pending", "conditions": [], "containerStatuses": []}
    api.touch(path, {"status": status})
    return path


@pytest.mark.parametrize("node", ["", "cpu-7"], ids=["gated", "bound to another node"])
def test_a_pod_of_another_namespace_that_is_not_there_keeps_nobody_out(node):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            decoy(api, node)
            await joins(api)
            await api.until(lambda: engines(api))

    asyncio.run(story())


def test_a_pod_of_another_namespace_on_these_gpus_is_waited_for_and_not_named():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            path = decoy(api, a_slot(0).node)
            await joins(api)
            await api.until(lambda: "may hold the memory" in message(api))
            assert "a pod of another namespace runs on node gpu-0" in message(api)
            assert gpu(0, 0) in message(api)
            assert "decoy" not in message(api)
            assert "delete" not in message(api), "which its user has no right to"
            assert not engines(api)
            await api.request("DELETE", path)
            await api.until(lambda: engines(api))

    asyncio.run(story())


def test_a_pod_of_the_own_namespace_that_is_on_no_node_yet_is_named():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            decoy(api, "", namespace="rl")
            await joins(api)
            await api.until(lambda: "pod decoy is not gone yet" in message(api))
            assert "delete it if it stays" in message(api)

    asyncio.run(story())
