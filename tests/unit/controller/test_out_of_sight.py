"""Pods that lost the label by which the operator's stream chooses them: what they do to pools."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from sglang_operator.api import device_variables, names
from sglang_operator.backoff import Backoff
from sglang_operator.cluster import seeking, unseen
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import memory
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from tests.builders import guide_spec
from tests.unit.controller import fake_api
from tests.unit.controller.test_trainers import (
    SLOTS,
    a_pool_that_joined,
    engines,
    publish,
    run_trainer,
)
from tests.unit.placement.trainers import SHARED, a_slot

KEY = PoolKey("rl", "pool")
FIRST = paths.pod("rl", "pool-g0-1-0")
PODS = paths.pods("rl") + "/"


class Choosing(fake_api.Api):
    """Streams of pods choose by labels and their values, as an API server's do."""

    def __init__(self) -> None:
        super().__init__()
        self._hidden: set[str] = set()

    def _tell(self, kind: str, path: str, body: Any) -> None:
        if "/pods/" not in path or _is_chosen(body):
            self._hidden.discard(path)
            super()._tell(kind, path, body)
        elif path not in self._hidden:
            self._hidden.add(path)
            super()._tell("DELETED", path, body)

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        if (method, path) == ("GET", paths.pods("rl")) and "labelSelector" not in rest["params"]:
            return json.dumps(super()._found(path)).encode()
        return await super().request(method, path, **rest)

    def _found(self, path: str) -> Any:
        found = super()._found(path)
        if path.endswith("/pods"):
            found["items"] = [each for each in found["items"] if _is_chosen(each)]
        return found


def _is_chosen(pod: Any) -> bool:
    labels = pod["metadata"].get("labels") or {}
    managed = labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
    return managed or names.LABEL_TRAINER in labels


def decoy(api: fake_api.Api, number: int, namespace: str = "tenant") -> str:
    """A pod that a tenant makes: pending for ever, of no pool, and told of no more."""
    path = paths.pod(namespace, f"decoy-{number}")
    env = [{"name": device_variables.NVIDIA, "value": f"GPU-{number:08x}-0000-0000-0000-0000"}]
    engine = {"name": names.ENGINE_CONTAINER, "image": "pause", "env": env}
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    api.add(path, {"metadata": {"labels": labels}, "spec": {"containers": [engine]}})
    api.objects[path]["status"] = {"phase": "Pending", "conditions": [], "containerStatuses": []}
    hide(api, path)
    return path


def hide(api: fake_api.Api, path: str, to: str | None = None) -> None:
    api.touch(path, {"metadata": {"labels": {names.LABEL_MANAGED_BY: to}}})


def message(api: fake_api.Api) -> str:
    return str(api.pool(*KEY)["status"]["conditions"][0]["message"])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(seeking, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(memory, "REFUSED_BACKOFF", Backoff(0.1, 0.2))


def an_engines_pod(api: fake_api.Api) -> str:
    return next((path for path in api.objects if path.startswith(PODS)), "")


def test_passes_of_other_pools_wait_for_no_answer_about_a_tenants_pods():
    """Each asked for all of them, one after another: 256 took five seconds."""

    async def story() -> None:
        api = Choosing()
        async with fake_api.operator(api, watch_nodes=False) as room:
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            api.hangs = lambda method, path: "/decoy-" in path
            for number in range(20):
                decoy(api, number)
            await api.until(lambda: len(room.pods.unseen) == 20)
            await api.until(lambda: api.hanging == seeking.AT_ONCE_OF_ONE)
            await api.request("DELETE", an_engines_pod(api))
            await api.until(lambda: an_engines_pod(api), 5)
            await api.until(lambda: api.up(*KEY), 5)
            assert api.hanging == seeking.AT_ONCE_OF_ONE

    asyncio.run(story())


def test_a_namespace_that_refuses_reads_is_no_reason_to_leave_another_pool_without_engines():
    """Its pool was told of as failing, with the name of the tenant's pod."""

    async def story() -> None:
        api = Choosing()
        spaces = ("rl", "tenant")
        async with fake_api.operator(api, watch_nodes=False, namespaces=spaces) as room:
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            decoy(api, 0)
            await api.until(lambda: len(room.pods.unseen) == 1)
            api.refuse(lambda path: "/namespaces/tenant/" in path)
            left = [1]

            def fails(method: str, path: str) -> Exception | None:
                if method == "POST" and path == paths.pods("rl") and left[0]:
                    left[0] = 0
                    return ApiUnreachableError("no answer in time")
                return None

            api.fails = fails
            await api.request("DELETE", an_engines_pod(api))
            await api.until(lambda: not left[0])
            await api.until(lambda: an_engines_pod(api), 10)
            await api.until(lambda: api.up(*KEY), 10)
            assert room.reconciler is not None
            assert not room.reconciler._memories[KEY].acting.count

    asyncio.run(story())


def test_however_many_a_tenant_hides_no_engine_is_put_beside_one_that_runs_on(monkeypatch):
    """The oldest were forgotten: 256 decoys, and a second engine was on the GPUs of a first."""
    monkeypatch.setattr(unseen, "MOST", 4)

    async def story() -> None:
        api = Choosing()
        async with fake_api.operator(api, watch_nodes=False) as room:
            await a_pool_that_joined(api, a_slot(0))
            hide(api, FIRST)
            await api.until(lambda: api.reason(*KEY) == "WaitingForTrainersGPUs")
            for number in range(300):
                decoy(api, number)
            await api.until(lambda: room.pods.unseen.beyond("tenant"))
            await asyncio.sleep(0.5)
            assert [pod["metadata"]["name"] for pod in engines(api)] == ["pool-g0-1-0"]
            assert "pool-g0-1-0 is not gone yet" in message(api)

    asyncio.run(story())


@pytest.mark.parametrize("to", [None, "Helm"])
def test_a_pool_of_which_more_are_hidden_than_are_kept_makes_none_and_says_why(monkeypatch, to):
    monkeypatch.setattr(unseen, "MOST", 2)

    async def story() -> None:
        api = Choosing()
        async with fake_api.operator(api, watch_nodes=False) as room:
            run_trainer(api, a_slot(0))
            spec = guide_spec(device_mapping="list(range(0,8))", placement=SHARED)
            api.add(paths.pool(*KEY), {"metadata": {"generation": 1}, "spec": spec})
            await api.until(lambda: SLOTS in api.objects)
            publish(api, a_slot(0))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert len(engines(api)) == 4
            for pod in engines(api):
                hide(api, paths.pod("rl", pod["metadata"]["name"]), to)
            await api.until(lambda: room.pods.unseen.beyond("rl"))
            await api.until(lambda: "lost their label" in message(api))
            await asyncio.sleep(0.5)
            used = Counter(
                each["value"]
                for pod in engines(api)
                for each in pod["spec"]["containers"][0]["env"]
                if each["name"] == device_variables.NVIDIA
            )
            assert set(used.values()) == {1}
            for pod in engines(api):
                await api.request("DELETE", paths.pod("rl", pod["metadata"]["name"]))
            await api.until(lambda: api.reason(*KEY) == "PoolReady", 10)
            assert len(engines(api)) == 4

    asyncio.run(story())


# --- pods that come out otherwise than they were asked for


class Relabelling(Choosing):
    """A policy changes what is made; a scheduler binds it before its delete arrives."""

    policy = True
    refused = 0  # deletes that are yet to meet an error
    deletes = 0

    def _create(self, collection: str, content: Any) -> Any:
        if collection.endswith("/pods") and self.policy:
            content["metadata"]["labels"][names.LABEL_MANAGED_BY] = "platform"
        return super()._create(collection, content)

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        if method == "DELETE" and path in self.objects and "/pods/" in path:
            self.policy = False
            self.deletes += 1
            self.touch(path, {"spec": {"nodeName": "gpu-0"}})
            if self.refused:
                self.refused -= 1
                raise ApiError(500, "InternalError", "etcd: request timed out", None)
        return await super().request(method, path, **rest)


@pytest.mark.parametrize("refused", [0, 3])
def test_a_pod_that_no_pool_would_know_is_taken_back_whatever_became_of_it(refused):
    """Its delete named the version that was answered: a scheduler was quicker, and it ran on."""

    async def story() -> None:
        api = Relabelling()
        api.refused = refused
        async with fake_api.operator(api, watch_nodes=False) as room:
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            assert api.deletes == refused + 1
            assert [
                pod["metadata"]["labels"][names.LABEL_MANAGED_BY] for pod in api.pods("rl")
            ] == [names.MANAGED_BY]
            await api.until(lambda: not room.pods.unseen and len(room.pods) == 1)

    asyncio.run(story())


def test_none_is_made_beside_a_pod_that_is_yet_to_be_taken_back():
    async def story() -> None:
        api = Relabelling()
        api.refused = 10**6
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY)
            await api.until(lambda: api.deletes > 3)
            assert api.seen.count(("POST", paths.pods("rl"))) == 1
            api.refused = 0
            await api.until(lambda: api.up(*KEY), 20)

    asyncio.run(story())


def test_one_whose_labels_are_put_right_before_it_could_be_taken_back_is_an_engine():
    async def story() -> None:
        api = Relabelling()
        api.refused = 10**6
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY)
            await api.until(lambda: api.deletes > 1)
            hide(api, FIRST, names.MANAGED_BY)
            await api.until(lambda: api.up(*KEY), 20)
            api.refused, before = 0, api.deletes
            await asyncio.sleep(0.5)
            assert api.deletes == before
            assert FIRST in api.objects

    asyncio.run(story())


def test_what_a_create_without_an_answer_has_made_is_looked_at_as_its_answer_would_be():
    async def story() -> None:
        api = Relabelling()
        create = api.request

        async def unanswered(method: str, path: str, **rest: Any) -> bytes:
            answer = await create(method, path, **rest)
            if method == "POST" and path == paths.pods("rl") and api.policy:
                raise ApiUnreachableError("no answer in time")
            return answer

        api.request = unanswered  # type: ignore[method-assign]
        async with fake_api.operator(api, watch_nodes=False):
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            assert ("DELETE", FIRST) in api.seen
            assert len(api.pods("rl")) == 1

    asyncio.run(story())


def test_a_pod_that_only_an_answer_told_of_and_that_is_gone_is_no_engine_any_more():
    """It stood aside for ever, and the pool could not sleep."""

    async def story() -> None:
        api = Choosing()
        async with fake_api.operator(api, watch_nodes=False) as room:
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            hide(api, FIRST, "Helm")
            api.touch(FIRST, {"status": {"podIP": "10.0.0.2"}})
            await api.until(lambda: len(api.pods("rl")) == 2)
            await api.until(lambda: len(room.pods) == 2)  # its name was met
            api.objects.pop(FIRST)  # no stream tells
            await api.until(lambda: len(room.pods) == 1)
            assert not room.pods.unseen

    asyncio.run(story())
