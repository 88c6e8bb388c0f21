"""Two pools on the same GPUs: at most one of them has the memory there, whatever their trainers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from sglang_operator.weights import lease_state, steps, turn
from sglang_operator.weights.lease_state import SLEEP_TAGS, Transaction
from tests.unit.controller import fake_api
from tests.unit.controller.test_left_on_gpus import Chosen
from tests.unit.controller.test_trainers import engines, run_trainer
from tests.unit.placement.trainers import a_slot, by_hand

ONE, TWO = ("rl", "one"), ("rl", "two")


def lease(key: tuple[str, str]) -> str:
    return paths.child("Lease", key[0], names.weights_lease_name(key[1]))


def says(api: fake_api.Api, key: tuple[str, str]) -> Transaction:
    return lease_state.read(api.objects[lease(key)])


def step(
    api: fake_api.Api, key: tuple[str, str], of: Callable[[Transaction], Transaction]
) -> Transaction:
    found = api.objects[lease(key)]
    api.touch(lease(key), lease_state.patch(found, of(lease_state.read(found))))
    return says(api, key)


def trainer(key: tuple[str, str], transaction: str) -> steps.Trainer:
    return steps.Trainer(holder=f"trainer-of-{key[1]}", transaction=transaction)


def told(api: fake_api.Api, key: tuple[str, str]) -> dict[str, Any]:
    """What the registry says of the pool's weights."""
    path = paths.child("ConfigMap", key[0], names.registry_name(key[1]))
    found = api.objects.get(path)
    return dict(json.loads(found["data"]["engines.json"])["weights"]) if found else {}


def of(api: fake_api.Api, key: tuple[str, str]) -> list[str]:
    found = [pod for pod in api.pods(key[0]) if names.LABEL_POOL in pod["metadata"]["labels"]]
    mine = [pod for pod in found if pod["metadata"]["labels"][names.LABEL_POOL] == key[1]]
    return [pod["metadata"]["name"] for pod in mine]


def runs(room: Any, key: tuple[str, str]) -> list[str]:
    found = (entry.pod.instance for entry in room.pods.of(PoolKey(*key)))
    return [run for run in found if run]


async def sleeps(api: fake_api.Api, room: Any, key: tuple[str, str], name: str) -> steps.Trainer:
    """As ``pool.sleep()``: the Lease, the operator's word, the release, and at rest."""
    me = trainer(key, name)
    at: dict[str, Any] = {"tags": SLEEP_TAGS, "now": 1.0, "seen": 0.0}
    step(api, key, lambda s: steps.sleep(s, me, **at, takes=turn.TRAINER))
    await api.until(lambda: told(api, key).get("transaction") == name)
    step(api, key, lambda s: steps.slept(s, me, instances=runs(room, key), now=2.0))
    step(api, key, lambda s: steps.rests(s, me))
    return me


@contextlib.asynccontextmanager
async def two_pools() -> AsyncIterator[tuple[fake_api.Api, Any]]:
    """An operator whose two pools have an engine each, on the one GPU of a trainer that runs."""
    api = fake_api.Api()
    async with fake_api.operator(api, watch_nodes=False) as room:
        run_trainer(api, a_slot(0))
        for key in (ONE, TWO):
            api.make(*key, placement=by_hand(a_slot(0)))
        yield api, room


def message(api: fake_api.Api, key: tuple[str, str], kind: str = "Ready") -> str:
    found = api.pool(*key).get("status", {}).get("conditions", ())
    return next((str(c["message"]) for c in found if c["type"] == kind), "")


def test_the_second_pools_engines_are_made_once_those_of_the_first_sleep():
    async def story() -> None:
        async with two_pools() as (api, room):
            await api.until(lambda: api.reason(*TWO) == "WaitingForOtherPool")
            assert (len(of(api, ONE)), of(api, TWO)) == (1, [])
            words = message(api, TWO)
            assert "1 engine waiting: rl/one has the memory of these GPUs (GPU-" in words
            assert "kubectl sglang weights sleep" in words
            await api.until(lambda: "engines of rl/two too" in message(api, ONE, "DevicesAssigned"))
            await api.until(lambda: told(api, TWO).get("taken") == [[0, 0]])
            assert told(api, TWO)["takenBy"] == ["rl/one"]
            assert "taken" not in told(api, ONE)

            await sleeps(api, room, ONE, "t1")
            await api.until(lambda: of(api, TWO))
            await api.until(lambda: api.reason(*TWO) == "PoolReady")
            await api.until(lambda: "taken" not in told(api, TWO))
            await api.until(lambda: told(api, ONE).get("takenBy") == ["rl/two"])

    asyncio.run(story())


def test_who_is_to_be_woken_is_told_that_it_may_once_the_other_sleeps():
    async def story() -> None:
        async with two_pools() as (api, room):
            await api.until(lambda: api.reason(*ONE) == "PoolReady")
            await sleeps(api, room, ONE, "t1")
            await api.until(lambda: api.reason(*TWO) == "PoolReady")

            wakes = trainer(ONE, "t2")
            step(api, ONE, lambda s: steps.take_on(s, wakes, now=3.0, seen=0.0))
            await api.until(lambda: told(api, ONE).get("seen") == "t2")
            assert told(api, ONE)["taken"] == [[0, 0]]
            await sleeps(api, room, TWO, "t3")
            await api.until(lambda: "taken" not in told(api, ONE))

            # It has them from now on, also before its Lease says that anybody is awake.
            again = trainer(TWO, "t4")
            step(api, TWO, lambda s: steps.take_on(s, again, now=4.0, seen=0.0))
            await api.until(lambda: told(api, TWO).get("seen") == "t4")
            assert told(api, TWO)["takenBy"] == ["rl/one"]
            step(api, ONE, lambda s: steps.wake(s, wakes, now=5.0))
            await asyncio.sleep(0.1)
            assert told(api, TWO)["takenBy"] == ["rl/one"]
            assert "taken" not in told(api, ONE)

    asyncio.run(story())


async def second_may_wake(api: fake_api.Api, room: Any) -> None:
    """Both pools have slept, and the trainer of the second was told that it may wake it."""
    await api.until(lambda: api.reason(*ONE) == "PoolReady")
    await sleeps(api, room, ONE, "t1")
    await api.until(lambda: api.reason(*TWO) == "PoolReady")
    await sleeps(api, room, TWO, "t2")
    step(api, TWO, lambda s: steps.take_on(s, trainer(TWO, "t3"), now=3.0, seen=0.0))
    await api.until(lambda: told(api, TWO).get("seen") == "t3")
    assert "taken" not in told(api, TWO)


def test_an_operator_that_restarts_leaves_the_gpus_to_whom_it_was_told_that_it_may_wake():
    async def story() -> None:
        async with two_pools() as (api, room):
            await second_may_wake(api, room)
        # While no operator runs, the first pool's trainer wakes it too.
        step(api, ONE, lambda s: steps.take_on(s, trainer(ONE, "t4"), now=4.0, seen=0.0))
        async with fake_api.operator(api, watch_nodes=False):
            await api.until(lambda: told(api, ONE).get("seen") == "t4")
            assert told(api, ONE)["takenBy"] == ["rl/two"], "though it is older"
            await api.until(lambda: "taken" not in told(api, TWO))

    asyncio.run(story())


def test_what_a_restarted_operator_finds_without_engines_is_the_older_pools():
    async def story() -> None:
        api = fake_api.Api()
        run_trainer(api, a_slot(0))
        for name, day in (("a", 2), ("b", 1)):
            api.make("rl", name, placement=by_hand(a_slot(0)))
            made = {"creationTimestamp": f"2026-11-0{day}T00:00:00Z"}
            api.touch(paths.pool("rl", name), {"metadata": made})
        async with fake_api.operator(api, watch_nodes=False):
            await api.until(lambda: len(engines(api)) == 1, 10)
            await api.until(lambda: api.reason("rl", "a") == "WaitingForOtherPool", 10)
            assert of(api, ("rl", "b"))

    asyncio.run(story())


@pytest.mark.parametrize("how", ["deleted", "suspended"])
def test_the_second_pools_engines_are_made_once_the_first_is_gone(how: str):
    async def story() -> None:
        async with two_pools() as (api, _):
            await api.until(lambda: api.reason(*TWO) == "WaitingForOtherPool")
            if how == "deleted":
                (pod,) = of(api, ONE)
                await api.request("DELETE", paths.pool(*ONE))
                await asyncio.sleep(0.2)
                assert of(api, TWO) == [], "its engine is yet to be collected"
                await api.request("DELETE", paths.pod("rl", pod))
            else:
                api.change(*ONE, {**api.pool(*ONE)["spec"], "suspend": True})
            await api.until(lambda: of(api, TWO), 10)

    asyncio.run(story())


def deleted(api: fake_api.Api, path: str) -> None:
    """Its engines are yet to be collected."""
    api._delete(paths.pool(*TWO), {})


def suspended(api: fake_api.Api) -> None:
    """It is to have no engines any more."""
    api.change(*TWO, {**api.pool(*TWO)["spec"], "suspend": True})


def orphaned(api: fake_api.Api, path: str) -> None:
    api.objects[path]["metadata"]["ownerReferences"] = []
    api.touch(path, {})
    suspended(api)


def hidden(api: fake_api.Api, path: str) -> None:
    """Out of the operator's stream of pods."""
    del api.objects[path]["metadata"]["labels"][names.LABEL_MANAGED_BY]
    api.touch(path, {})
    suspended(api)


@pytest.mark.parametrize("how", [deleted, orphaned, hidden])
def test_nobody_is_let_in_while_an_engine_runs_on_that_is_out_of_its_pools_hands(how: Any):
    """It was told that it may wake its engines, into memory that the other one still had."""

    async def story() -> None:
        api = Chosen()
        async with fake_api.operator(api, watch_nodes=False) as room:
            run_trainer(api, a_slot(0))
            for key in (ONE, TWO):
                api.make(*key, placement=by_hand(a_slot(0)))
            await api.until(lambda: api.reason(*ONE) == "PoolReady")
            await sleeps(api, room, ONE, "t1")
            await api.until(lambda: api.reason(*TWO) == "PoolReady")
            (pod,) = of(api, TWO)
            api.touch(paths.pod("rl", pod), {"spec": {"nodeName": "gpu-0"}})
            how(api, paths.pod("rl", pod))
            await asyncio.sleep(0.2)
            step(api, ONE, lambda s: steps.take_on(s, trainer(ONE, "t2"), now=3.0, seen=0.0))
            await api.until(lambda: told(api, ONE).get("seen") == "t2")
            assert told(api, ONE).get("taken") == [[0, 0]]
            await api.request("DELETE", paths.pod("rl", pod))
            await api.until(lambda: "taken" not in told(api, ONE), 10)

    asyncio.run(story())


def test_what_is_left_of_a_pool_is_among_the_holders_and_no_pool_is_named_for_it():
    async def story() -> None:
        async with two_pools() as (api, room):
            await api.until(lambda: api.reason(*ONE) == "PoolReady")
            await sleeps(api, room, ONE, "t1")
            await api.until(lambda: api.reason(*TWO) == "PoolReady")
            (pod,) = of(api, TWO)
            deleted(api, pod)
            await api.until(lambda: told(api, ONE).get("taken") == [[0, 0]])
            await api.until(lambda: "takenBy" not in told(api, ONE))
            path = paths.child("ConfigMap", "rl", names.registry_name("one"))
            registry = json.loads(api.objects[path]["data"]["engines.json"])
            assert [each["pod"] for each in registry["holders"]] == [pod]

    asyncio.run(story())


def test_a_registry_that_is_gone_while_a_trainer_is_at_work_has_told_it_nothing_of_others():
    """It may have read before that it may wake its engines."""

    async def story() -> None:
        async with two_pools() as (api, room):
            await second_may_wake(api, room)
        step(api, ONE, lambda s: steps.take_on(s, trainer(ONE, "t4"), now=4.0, seen=0.0))
        await api.request("DELETE", paths.child("ConfigMap", "rl", names.registry_name("two")))
        async with fake_api.operator(api, watch_nodes=False):
            await api.until(lambda: told(api, ONE).get("seen") == "t4")
            assert told(api, ONE)["takenBy"] == ["rl/two"]

    asyncio.run(story())


def test_a_lease_that_is_gone_frees_nobodys_memory():
    async def story() -> None:
        async with two_pools() as (api, _):
            await api.until(lambda: api.reason(*TWO) == "WaitingForOtherPool")
            await api.request("DELETE", lease(ONE))
            await api.until(lambda: lease(ONE) in api.objects)
            await asyncio.sleep(0.2)
            assert of(api, TWO) == []

    asyncio.run(story())


def test_of_a_pool_of_another_namespace_nothing_is_named():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*ONE, placement=by_hand(a_slot(0)))
            await api.until(lambda: api.reason(*ONE))
            api.make("other", "two", placement=by_hand(a_slot(0)))
            await api.until(lambda: api.reason("other", "two") == "WaitingForOtherPool")
            words = message(api, ("other", "two"))
            assert "a pool of another namespace has the memory of these GPUs" in words
            found = json.dumps([api.pool("other", "two"), told(api, ("other", "two"))])
            assert "rl/one" not in found

    asyncio.run(story())


def test_engines_that_sleep_on_less_than_all_of_it_have_the_memory():
    async def story() -> None:
        async with two_pools() as (api, room):
            await api.until(lambda: api.reason(*ONE) == "PoolReady")
            me = await sleeps(api, room, ONE, "t1")
            await api.until(lambda: api.reason(*TWO) == "PoolReady")
            await sleeps(api, room, TWO, "t2")
            step(api, ONE, lambda s: steps.take_on(s, trainer(ONE, "t3"), now=3.0, seen=0.0))
            await api.until(lambda: told(api, ONE).get("seen") == "t3")
            me = trainer(ONE, "t3")
            step(api, ONE, lambda s: steps.wake(s, me, now=4.0, tags=("weights",)))
            await api.until(lambda: told(api, TWO).get("takenBy") == ["rl/one"])

    asyncio.run(story())
