"""A pool whose changed spec is refused is told so, whatever becomes of its other objects."""

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import judging
from sglang_operator.controller.reconcile import Reconciler
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire
from sglang_operator.pool.model import Pool, Refused
from sglang_operator.weights import lease_state
from tests.unit.controller import fake_api
from tests.unit.controller.passes import Clock, Passes

KEY = PoolKey("rl", "pool")
LEASE = paths.child("Lease", "rl", names.weights_lease_name("pool"))
MAPPING = {"device_mapping": "[0, 1, 2, 3]"}
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name("pool"))


def test_a_refused_spec_is_told_where_the_registry_cannot_be_written():
    """An engine ends as well; the registry was tried ever again, and the status never told."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY, weights={"gate": "Committed"})
            await api.until(lambda: api.up(*KEY))
            denied = ApiError(
                403, "Forbidden", 'admission webhook "a" denied the request: no', None
            )
            api.fails = lambda method, path: (
                denied if method == "PATCH" and "/configmaps/" in path else None
            )
            gone = api.pods("rl")[0]["metadata"]["name"]
            spec = api.pool(*KEY)["spec"]
            api.change(*KEY, {**spec, "device_mapping": "nothing of the kind"})
            await api.request("DELETE", paths.pod("rl", gone))
            await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))

    asyncio.run(story())


@pytest.fixture
def slow(monkeypatch):
    """Reading a spec takes so many seconds."""
    judge, seconds = judging.judge, 0.2

    def judged(*arguments: Any) -> Pool | Refused:
        time.sleep(seconds)
        return judge(*arguments)

    monkeypatch.setattr(judging, "judge", judged)
    return seconds


@pytest.fixture
def costs(monkeypatch):
    """What each pass cost, in seconds."""
    told, costs = Reconciler.planning_seconds, []

    def noted(self: Reconciler, key: PoolKey) -> float:
        costs.append(told(self, key))
        return costs[-1]

    monkeypatch.setattr(Reconciler, "planning_seconds", noted)
    return costs


def test_passes_of_a_pool_whose_spec_is_refused_are_spaced_by_what_they_cost(slow, costs):
    """What reading it costs was not counted: each edit was read at once, however much it was."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY, podTemplate={"metadata": {"labels": {"a b": "v"}}})
            await api.until(lambda: api.reason(*KEY) != "")
            await api.until(lambda: any(cost > slow for cost in costs))

    asyncio.run(story())


def test_what_comes_of_engines_does_not_wait_because_a_spec_took_long_to_read(slow, costs):
    """Engines that came up were seen up to two seconds later, whenever the spec had been edited."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            await api.until(lambda: costs and costs[-1] < slow)

    asyncio.run(story())


def registry(api: fake_api.Api) -> Any:
    return json.loads(api.objects[REGISTRY]["data"]["engines.json"])


def instances(api: fake_api.Api) -> list[str]:
    """The engines that run, by the registry."""
    return [each["instance"] for each in registry(api)["engines"] if each["instance"]]


def step(api: fake_api.Api, phase: str, covered: str = "") -> None:
    """A trainer's, which holds the Lease."""
    holder = {"holderIdentity": "trainer", "leaseDurationSeconds": lease_state.LEASE_SECONDS}
    api.touch(LEASE, {"spec": holder})
    api.transact(*KEY, phase, covered)


async def says(api: fake_api.Api, phase: str) -> None:
    """The operator has told that it acted upon this phase."""

    def told() -> bool:
        acted = registry(api)["weights"]
        return bool(acted["phase"] == phase and acted["transaction"])

    await api.until(told)


async def refused(api: fake_api.Api, **spec: Any) -> Any:
    """A pool that is up, and whose spec is refused now; its registry before."""
    api.make(*KEY, **spec)
    api.change(*KEY, {**api.pool(*KEY)["spec"], **MAPPING})
    await api.until(lambda: REGISTRY in api.objects and len(instances(api)) == 2)
    await api.until(lambda: api.up(*KEY))
    before = registry(api)
    api.change(*KEY, {**api.pool(*KEY)["spec"], "device_mapping": "nothing of the kind"})
    await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))
    return before


def test_a_trainers_steps_are_acknowledged_and_its_commit_opens_the_gates():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            before = await refused(api, weights={"gate": "Committed"})
            assert {each["gate"] for each in before["engines"]} == {"Closed"}
            for phase, gate in (
                ("Syncing", "Closed"),
                ("Committed", "Open"),
                ("Aborted", "Closed"),
            ):
                covered = fake_api.instances(room, KEY) if phase == "Committed" else ""
                step(api, phase, covered)
                await says(api, phase)
                now = registry(api)
                assert {each["gate"] for each in now["engines"]} == {gate}
                assert now["epoch"] == before["epoch"]

    asyncio.run(story())


def test_what_the_spec_says_stays_as_it_was_last_understood():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            before = await refused(api)
            step(api, "Syncing")
            await says(api, "Syncing")
            now = registry(api)
            for told in (before, now):
                for changing in ("phase", "transaction", "seen", "count", "version"):
                    del told["weights"][changing]
            assert now == before

    asyncio.run(story())


def test_an_engine_that_ended_is_no_engine_of_the_registry_and_makes_another_epoch():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            before = await refused(api)
            gone = before["engines"][0]["pod"]
            await api.request("DELETE", paths.pod("rl", gone))
            await api.until(lambda: registry(api)["epoch"] != before["epoch"])
            first, second = registry(api)["engines"]
            assert (first["url"], first["instance"], first["pod"]) == (None, None, None)
            assert second == before["engines"][1]
            assert first["state"] not in ("Up", "InService")
            assert not api.objects[REGISTRY]["data"]["slime"]  # by place: none may be left out

    asyncio.run(story())


def test_a_registry_that_somebody_wrote_to_is_left_alone_until_the_spec_is_mended():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await refused(api)
            mended = {**api.pool(*KEY)["spec"], **MAPPING}
            spoilt = {"data": {"engines.json": '{"engines": [{"rank": "?"}]}'}}
            api.touch(REGISTRY, spoilt)
            step(api, "Syncing")
            await asyncio.sleep(0.3)
            assert api.objects[REGISTRY]["data"]["engines.json"] == spoilt["data"]["engines.json"]
            api.change(*KEY, mended)
            await api.until(lambda: "epoch" in registry(api))

    asyncio.run(story())


SERVICE = paths.child("Service", "rl", names.service_name("pool"))
HEADLESS = paths.child("Service", "rl", names.engines_service_name("pool"))
BUDGET = paths.child("PodDisruptionBudget", "rl", names.disruption_budget_name("pool"))


def spec_of(api: fake_api.Api, path: str) -> dict[str, Any]:
    return json.loads(json.dumps(api.objects[path]["spec"]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("registry_told", [True, False], ids=["registry", "no registry"])
def test_whoever_changes_what_clients_reach_is_put_right(registry_told):
    """Else they reached engines with a closed gate for as long as the spec was refused."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await refused(api, network={"headlessService": True})
            objects = (SERVICE, HEADLESS, BUDGET)
            await api.until(lambda: all(path in api.objects for path in objects))
            before = {path: spec_of(api, path) for path in objects}
            if not registry_told:
                api.touch(REGISTRY, {"data": {"engines.json": "{}"}})
            api.touch(SERVICE, {"spec": {"publishNotReadyAddresses": True}})
            await api.until(lambda: not spec_of(api, SERVICE).get("publishNotReadyAddresses"))
            for path in (SERVICE, HEADLESS):
                api.touch(path, {"spec": {"selector": {"app": "another"}}})
            api.touch(BUDGET, {"spec": {"selector": {"matchLabels": {"app": "another"}}}})
            await api.until(lambda: {path: spec_of(api, path) for path in objects} == before)

    asyncio.run(story())


def test_the_port_and_a_service_that_is_gone_are_as_the_registry_tells():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await refused(api)
            before = spec_of(api, SERVICE)
            other = [{**before["ports"][0], "port": 1}]
            api.touch(SERVICE, {"spec": {"ports": other}})
            await api.until(lambda: spec_of(api, SERVICE) == before)
            await api.request("DELETE", SERVICE)
            await api.until(lambda: SERVICE in api.objects and spec_of(api, SERVICE) == before)

    asyncio.run(story())


def test_what_only_the_spec_tells_stays_as_it_is_found():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            await refused(api)
            await api.until(lambda: BUDGET in api.objects)
            api.touch(BUDGET, {"spec": {"minAvailable": 0}})
            api.touch(SERVICE, {"spec": {"publishNotReadyAddresses": True}})
            await api.until(lambda: not spec_of(api, SERVICE).get("publishNotReadyAddresses"))
            assert spec_of(api, BUDGET)["minAvailable"] == 0
            assert HEADLESS not in api.objects

    asyncio.run(story())


def test_a_refused_pool_is_looked_at_again_when_a_silent_node_counts_as_lost(monkeypatch):
    """Nothing else wakes it: the node and its pods stay as they are."""

    async def story() -> None:
        pool = Passes(Clock(monkeypatch), interval=1.0)
        await pool.settle()
        path = paths.pod("rl", pool.pod_names()[0])
        pool.api.objects[path]["spec"]["nodeName"] = "n"
        pool.api.touch(path, {})
        pool.change(device_mapping="nothing of the kind")
        await pool.settle()
        assert pool.status["engines"]["up"] == 1
        node = {
            "metadata": {"name": "n", "resourceVersion": "1"},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        }
        pool.nodes.replace("", [msgspec.convert(node, wire.NodeObject)], 1)
        delay = (await pool.run()).delay()
        assert delay is not None
        pool.clock.advance(delay + 1)
        await pool.run()
        assert pool.status["engines"]["up"] == 0

    asyncio.run(story())
