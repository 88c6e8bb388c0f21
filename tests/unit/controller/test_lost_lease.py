"""A pool's weights Lease that is deleted or emptied while its engines run."""

import asyncio
from typing import Any

import pytest

from sglang_operator.api import names, texts
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiUnreachableError
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.controller import fake_api

KEY = PoolKey("rl", "pool")
LEASE = paths.child("Lease", "rl", names.weights_lease_name("pool"))
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name("pool"))
GATES = pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])


def says(api: fake_api.Api) -> Transaction:
    """What the Lease says; a phase that it has not where there is none."""
    return lease_state.read(api.objects[LEASE]) if LEASE in api.objects else Transaction(id="none")


def held(api: fake_api.Api) -> bool:
    """Whether there is a Lease by which nobody begins anything for a while."""
    state = says(api)
    until = state.renewed + lease_state.LEASE_SECONDS - 1
    return state.fenced and state.held_against("trainer", "t", state.renewed, until)


async def a_pool(api: fake_api.Api, **spec: Any) -> None:
    api.make(*KEY, **spec)
    await api.until(lambda: api.up(*KEY))
    await api.until(lambda: REGISTRY in api.objects)
    assert says(api) == Transaction(), "the first one is free"


async def a_step(api: fake_api.Api, phase: str, instances: str = "") -> None:
    """A trainer takes a step, and the operator has told that it did."""
    api.transact(*KEY, phase, instances)
    await api.until(lambda: f'"phase":"{phase}"' in api.objects[REGISTRY]["data"]["engines.json"])


async def a_sync(api: fake_api.Api, duration: int = lease_state.LEASE_SECONDS) -> None:
    spec = {"holderIdentity": "trainer", "leaseDurationSeconds": duration}
    api.touch(LEASE, {"spec": spec})
    await a_step(api, "Syncing")


async def lose(api: fake_api.Api, *, emptied: bool = False) -> None:
    if not emptied:
        await api.request("DELETE", LEASE)
        return
    notes = api.objects[LEASE]["metadata"]["annotations"]
    body = {"metadata": {"annotations": dict.fromkeys(notes)}, "spec": {"holderIdentity": None}}
    api.touch(LEASE, body)


@GATES
@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later"])
@pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "emptied"])
def test_one_that_is_lost_amid_a_sync_is_held_whatever_the_gate(gate, first, emptied):
    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api, weights={"gate": gate})
            if not first:
                await a_step(api, "Committed", fake_api.instances(room, KEY))
            await a_sync(api, duration=60)
            await lose(api, emptied=emptied)
            await api.until(lambda: held(api))
            return says(api)

    state = asyncio.run(story())
    assert (state.phase, state.duration) == (Phase.ABORTED, 60.0)
    assert state.message == texts.LEASE_FORGOTTEN.format(lease="pool-weights")


@pytest.mark.parametrize("gate", ["Versioned", "Off"])
@pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "emptied"])
def test_one_that_is_lost_between_syncs_closes_no_gate_that_it_does_not_open(gate, emptied):
    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api, weights={"gate": gate})
            await a_step(api, "Committed", fake_api.instances(room, KEY))
            for _ in range(2):
                await lose(api, emptied=emptied)
                await api.until(lambda: held(api))
            return says(api)

    assert asyncio.run(story()).phase is Phase.IDLE


@GATES
@pytest.mark.parametrize("missing", [(), (REGISTRY,)], ids=["", "with the registry"])
def test_an_operator_that_restarts_right_then_knows_what_it_said(gate, missing):
    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await a_pool(api, weights={"gate": gate})
            await a_sync(api)
            await api.until(lambda: api.pool(*KEY)["status"]["weights"]["phase"] == "Syncing")
        for path in (LEASE, *missing):
            await api.request("DELETE", path)
        async with fake_api.operator(api):
            await api.until(lambda: held(api))
            return says(api)

    assert asyncio.run(story()).phase is Phase.ABORTED


@pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "emptied"])
def test_what_it_said_for_a_moment_only_is_known_too(emptied):
    """No pass came between a trainer's last word and the end of the Lease: it was lost."""

    async def story() -> tuple[Transaction, str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api, weights={"gate": "Off"})
            run = fake_api.instances(room, KEY)
            await a_step(api, "Committed", run)
            notes = {
                names.ANNOTATION_PHASE: "Sleeping",
                names.ANNOTATION_TRANSACTION: "t",
                names.ANNOTATION_RELEASED: "weights,kv_cache",
                names.ANNOTATION_ASLEEP: run,
            }
            api.touch(LEASE, {"metadata": {"annotations": notes}})
            await lose(api, emptied=emptied)
            await api.until(lambda: held(api))
            return says(api), run

    state, run = asyncio.run(story())
    assert state.sleeps(run) == {"weights", "kv_cache"}


@pytest.mark.parametrize("woken", [set(), {"kv_cache"}])
def test_an_operator_that_restarts_right_then_knows_who_sleeps_without_a_gate(woken):
    async def story() -> tuple[Transaction, str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api, weights={"gate": "Off"})
            run = fake_api.instances(room, KEY)
            notes = {
                names.ANNOTATION_PHASE: "Sleeping",
                names.ANNOTATION_TRANSACTION: "t",
                names.ANNOTATION_RELEASED: "weights,kv_cache",
                names.ANNOTATION_ASLEEP: run,
                names.ANNOTATION_WOKEN: ",".join(f"{run}/{tag}" for tag in woken),
            }
            api.touch(LEASE, {"metadata": {"annotations": notes}})
            await api.until(lambda: '"released"' in api.objects[REGISTRY]["data"]["engines.json"])
        await api.request("DELETE", LEASE)
        async with fake_api.operator(api):
            await api.until(lambda: held(api))
            return says(api), run

    state, run = asyncio.run(story())
    assert state.sleeps(run) == {"weights", "kv_cache"} - woken


@pytest.mark.parametrize("data", [{}, {"engines.json": "{}"}, {"engines.json": "no JSON"}])
def test_what_a_spoilt_registry_does_not_tell_the_status_does(data):
    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await a_pool(api, weights={"gate": "Off"})
            await a_sync(api)
            await api.until(lambda: api.pool(*KEY)["status"]["weights"]["phase"] == "Syncing")
        await api.request("DELETE", LEASE)
        api.objects[REGISTRY]["data"] = data
        async with fake_api.operator(api):
            await api.until(lambda: held(api))
            return says(api)

    assert asyncio.run(story()).phase is Phase.ABORTED


def test_one_whose_making_has_no_answer_is_made_held_all_the_same():
    """What makes the other children makes it too, if it is still not there."""
    tries: list[str] = []

    def fails_once(method: str, path: str) -> Exception | None:
        if method != "POST" or not path.endswith("/leases"):
            return None
        tries.append(path)
        return ApiUnreachableError("cut off") if len(tries) == 1 else None

    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await a_pool(api, weights={"gate": "Off"})
            await a_sync(api)
            api.fails = fails_once
            await lose(api)
            await api.until(lambda: LEASE in api.objects)
            return says(api)

    assert asyncio.run(story()).fenced
    assert len(tries) > 1


def test_of_a_pool_that_is_refused_it_is_held_too():
    async def story() -> bool:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await a_pool(api, weights={"gate": "Off"})
            await a_sync(api)
            api.change(*KEY, {"device_mapping": "nothing of the kind"})
            await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))
            await lose(api)
            await api.until(lambda: held(api))
            return says(api).phase is Phase.ABORTED

    assert asyncio.run(story())


def test_of_a_suspended_pool_it_is_free_for_no_engine_could_be_written_to():
    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api)
            await a_step(api, "Committed", fake_api.instances(room, KEY))
            spec = api.pool(*KEY)["spec"]
            api.change(*KEY, {**spec, "suspend": True})
            await api.until(lambda: not api.pods("rl"))
            await lose(api)
            await api.until(lambda: LEASE in api.objects)
            api.change(*KEY, spec)
            await api.until(lambda: api.pods("rl") and api.reason(*KEY) == "PoolReady")
            await asyncio.sleep(0.1)
            return says(api)

    assert asyncio.run(story()) == Transaction()


@GATES
@pytest.mark.parametrize("away", [False, True], ids=["in its sight", "while no operator runs"])
def test_who_withdraws_by_one_that_was_put_back_gives_no_earlier_commit_back(gate, away):
    """It counts as far as the sync that was under way, by the id of the commit before."""

    def put(api: fake_api.Api, state: Transaction) -> Any:
        written = lease_state.written(api.objects[LEASE], state)
        body = {"metadata": {"annotations": written["metadata"]["annotations"]}}
        api.touch(LEASE, {**body, "spec": written["spec"]})
        return body["metadata"]["annotations"], written["spec"]

    def put_back(api: fake_api.Api, notes: Any, spec: Any) -> None:
        gone = dict.fromkeys(api.objects[LEASE]["metadata"]["annotations"])
        unheld = {"holderIdentity": None} | spec
        api.touch(LEASE, {"metadata": {"annotations": gone | notes}, "spec": unheld})

    def begins(api: fake_api.Api, name: str) -> Transaction:
        before, me = says(api), steps.Trainer(holder=name, transaction=name)
        put(api, steps.begin(before, me, epoch="e", version=name, now=1e9, seen=0))
        return before

    def in_vain(api: fake_api.Api) -> None:
        before, me = begins(api, "d"), steps.Trainer(holder="d", transaction="d")
        put(api, steps.withdraw(says(api), me, before, message="in vain", now=1e9))

    async def story() -> Transaction:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_pool(api, weights={"gate": gate})
            run = fake_api.instances(room, KEY)
            whole = Transaction(
                phase=Phase.COMMITTED,
                id="a",
                version="step-1",
                instances=frozenset({run}),
                intact=True,
                transitions=4,
            )
            kept = put(api, whole)
            begins(api, "c")
            await api.until(lambda: "Syncing" in api.objects[REGISTRY]["data"]["engines.json"])
            if not away:
                put_back(api, *kept)
                in_vain(api)
                await api.until(lambda: held(api))
                return says(api)
        put_back(api, *kept)
        in_vain(api)
        async with fake_api.operator(api):
            await api.until(lambda: held(api))
            return says(api)

    state = asyncio.run(story())
    assert state.phase is Phase.ABORTED
    assert state.message == texts.LEASE_PUT_BACK.format(lease="pool-weights", then=5, count=5)
