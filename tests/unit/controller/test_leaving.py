"""A pool that is being deleted while its engines still run."""

import asyncio
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import memory
from sglang_operator.controller.observing import Observer
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import Phase
from tests.unit.controller import fake_api

KEY = PoolKey("rl", "pool")
LEASE = paths.child("Lease", "rl", names.weights_lease_name("pool"))
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name("pool"))
HELD = ["backup.example.com/hold"]
FOREGROUND = ["foregroundDeletion"]
FINALIZERS = pytest.mark.parametrize("finalizers", [HELD, FOREGROUND], ids=["held", "foreground"])


async def serving(api: fake_api.Api, room: Any) -> None:
    """A pool whose engine serves what a trainer committed."""
    api.make(*KEY)
    await api.until(lambda: api.up(*KEY))
    api.transact(*KEY, "Committed", fake_api.instances(room, KEY))
    await api.until(lambda: api.gate("rl") == "True" and acknowledged(api, "Committed"))


def delete(api: fake_api.Api, finalizers: list[str]) -> None:
    generation = api.generation(*KEY) + 1
    meta = {"deletionTimestamp": "2026-11-29T07:00:00Z", "finalizers": finalizers}
    api.touch(paths.pool(*KEY), {"metadata": {**meta, "generation": generation}})


def acknowledged(api: fake_api.Api, transaction: str) -> bool:
    return f'"transaction":"{transaction}"' in api.objects[REGISTRY]["data"]["engines.json"]


def tried(api: fake_api.Api) -> list[str]:
    """What was to be created, whatever came of it."""
    return [path for method, path in api.seen if method == "POST" and "/events" not in path]


def refused(method: str, path: str) -> Exception | None:
    """As a namespace answers that is being deleted."""
    if method != "POST" or path.endswith("/events"):
        return None
    words = "unable to create new content in namespace rl because it is being terminated"
    return ApiError(403, "Forbidden", words, None)


@FINALIZERS
@pytest.mark.parametrize("spec", ["sound", "refused"])
def test_its_gates_follow_the_trainer_as_long_as_its_pods_run(finalizers, spec):
    async def story() -> str:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            if spec == "refused":
                api.change(*KEY, {"device_mapping": "nothing of the kind"})
                await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))
            delete(api, finalizers)
            await api.until(lambda: api.reason(*KEY) == "Terminating")
            api.transact(*KEY, "Sleeping", fake_api.instances(room, KEY))
            await api.until(lambda: api.gate("rl") == "False")
            if spec == "sound":
                await api.until(lambda: acknowledged(api, "Sleeping"))
            ready = api.pool(*KEY)["status"]["conditions"][0]
            return str(ready["message"])

    assert finalizers[0] in asyncio.run(story())


@FINALIZERS
def test_the_sync_of_a_trainer_that_died_is_aborted_and_its_engines_leave_the_service(finalizers):
    async def story() -> Phase:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            delete(api, finalizers)
            spec = {"holderIdentity": "trainer", "leaseDurationSeconds": 1}
            api.touch(LEASE, {"spec": spec})
            api.transact(*KEY, "Syncing")
            await api.until(lambda: api.gate("rl") == "False")
            return lease_state.read(api.objects[LEASE]).phase

    assert asyncio.run(story()) is Phase.ABORTED


@FINALIZERS
def test_nothing_of_it_is_made_anew_and_its_gates_close_once_its_lease_is_collected(finalizers):
    async def story() -> list[str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            delete(api, finalizers)
            await api.until(lambda: api.reason(*KEY) == "Terminating")
            before = len(tried(api))
            await api.request("DELETE", paths.child("Service", "rl", "pool"))
            await api.request("DELETE", REGISTRY)
            await api.request("DELETE", LEASE)
            await api.until(lambda: api.gate("rl") == "False")
            for pod in api.pods("rl"):
                await api.request("DELETE", paths.pod("rl", pod["metadata"]["name"]))
                await asyncio.sleep(0.1)
            return tried(api)[before:]

    assert asyncio.run(story()) == []


def test_a_held_pool_whose_engines_are_gone_says_so_too():
    async def story() -> int:
        api = fake_api.Api()
        api.make(*KEY, suspend=True)
        async with fake_api.operator(api):
            await api.until(lambda: api.reason(*KEY) == "Suspended")
            delete(api, HELD)
            await api.until(lambda: api.reason(*KEY) == "Terminating")
            before = len(api.calls)
            await asyncio.sleep(0.2)
            return len(api.calls) - before

    assert asyncio.run(story()) <= 1, "an Event at most: nothing is written again and again"


def test_engines_that_are_to_be_orphans_keep_their_gates():
    async def story() -> str:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            delete(api, ["orphan"])
            api.touch(LEASE, {"metadata": {"ownerReferences": []}})
            await asyncio.sleep(0.2)
            return api.gate("rl")

    assert asyncio.run(story()) == "True"


@pytest.mark.parametrize("waits", ["status", "ends"])
def test_engines_become_orphans_while_a_pass_waits_for_the_api_server(waits, monkeypatch):
    """A Lease that the garbage collector had let go was somebody else's to the pass of before."""

    async def story() -> str:
        api, waiting, go_on = fake_api.Api(), asyncio.Event(), asyncio.Event()

        async def read_ends(*_: Any) -> bool:
            waiting.set()
            await go_on.wait()
            return True

        async with fake_api.operator(api) as room:
            await serving(api, room)
            if waits == "status":
                api.hangs = lambda method, path: path == paths.pool(*KEY) + "/status"
            else:
                monkeypatch.setattr(Observer, "read_ends", read_ends)
            api.touch(paths.pool(*KEY), {"metadata": {"generation": 2}})
            await api.until(lambda: api.hanging or waiting.is_set())
            delete(api, ["orphan"])
            api.touch(LEASE, {"metadata": {"ownerReferences": []}})
            await asyncio.sleep(0.1)
            go_on.set()
            await asyncio.sleep(0.1)
            return api.gate("rl")

    assert asyncio.run(story()) == "True"


def test_a_status_that_is_late_for_its_pool_is_no_error(caplog):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            pool = paths.pool(*KEY)
            gone: list[str] = []

            def fails(method: str, path: str) -> Exception | None:
                if method != "PATCH" or path != pool + "/status" or pool not in api.objects:
                    return None
                gone.append(path)
                if len(gone) == 1:
                    return ApiError(409, "Conflict", "the object has been modified", None)
                return ApiError(404, "NotFound", "not found", None, missing=True)

            api.fails = fails
            delete(api, HELD)
            await api.until(lambda: gone)
            await asyncio.sleep(0.1)

    asyncio.run(story())
    assert "the status is not written" not in caplog.text


def test_a_namespace_that_is_being_deleted_closes_the_gates_of_a_lease_that_it_took_first():
    async def story() -> list[str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            api.fails = refused
            await api.request("DELETE", LEASE)
            await api.until(lambda: api.gate("rl") == "False")
            await api.until(lambda: api.reason(*KEY) == "Terminating")
            before = len(tried(api))
            pod = api.pods("rl")[0]["metadata"]["name"]
            await api.request("DELETE", paths.pod("rl", pod))
            await asyncio.sleep(0.3)
            return tried(api)[before:]

    assert asyncio.run(story()) == []


def test_nothing_is_acknowledged_while_clients_reach_an_engine_of_an_earlier_pool():
    async def story() -> tuple[bool, bool]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            old = paths.pod("rl", api.pods("rl")[0]["metadata"]["name"])
            await api.request("DELETE", paths.pool(*KEY))
            for path in (LEASE, REGISTRY):
                await api.request("DELETE", path)
            api.make(*KEY)
            await api.until(lambda: len(api.pods("rl")) == 2 and REGISTRY in api.objects)
            await api.until(lambda: LEASE in api.objects)
            api.transact(*KEY, "Sleeping")
            await api.until(lambda: '"phase":"Sleeping"' in str(api.objects[REGISTRY]["data"]))
            await asyncio.sleep(0.2)
            before = acknowledged(api, "Sleeping")
            await api.request("DELETE", old)
            await api.until(lambda: acknowledged(api, "Sleeping"))
            return before, acknowledged(api, "Sleeping")

    assert asyncio.run(story()) == (False, True)


def test_a_namespace_that_is_there_after_all_is_worked_in_again(monkeypatch):
    """The cluster was put back to how it was before."""
    monkeypatch.setattr(memory, "REFUSED_BACKOFF", Backoff(0.1, 0.5))

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await serving(api, room)
            api.fails = refused
            await api.request("DELETE", REGISTRY)
            await api.until(lambda: api.reason(*KEY) == "Terminating")
            api.fails = lambda method, path: None
            await api.until(lambda: api.up(*KEY))

    asyncio.run(story())
