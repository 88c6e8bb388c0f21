"""An engine whose delete is not taken runs on, and is told so."""

import asyncio
import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import trainer_registry
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY, Clock, Passes
from tests.unit.controller.test_reconcile import TWO_ENGINES, failing, story

REFUSALS = {
    "a webhook": ApiError(403, "Forbidden", 'admission webhook "w" denied the request: no', None),
    "no rights": ApiError(403, "Forbidden", 'pods "p" is forbidden: cannot delete', None),
    "changed": ApiError(409, "Conflict", "the object has been modified", None),
    "overloaded": ApiError(429, "TooManyRequests", "later", None),
    "no answer": ApiUnreachableError("no answer in time"),
}
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name(KEY.name))
SHARE = {"load_format": "auto", "mem_fraction_static": 0.7}
STRATEGY = {"strategy_name": "sglang", "strategy_config": SHARE}
CHANGED = {"strategy_name": "sglang", "strategy_config": {**SHARE, "log_level": "debug"}}


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def up(api: fake_api.Api) -> None:
    """All engines answer."""
    ready = [{"type": kind, "status": "True"} for kind in ("ContainersReady", "Ready")]
    for pod in api.pods("rl"):
        api.touch(paths.pod("rl", pod["metadata"]["name"]), {"status": {"conditions": ready}})


def told_of(api: fake_api.Api) -> tuple[Any, ...]:
    """What is told of the engines: in the status, and to trainers."""
    told = json.loads(api.objects[REGISTRY]["data"][trainer_registry.ENGINES_KEY])
    engines = [(each["pod"], each["state"]) for each in told["engines"]]
    status = api.pool(*KEY)["status"]
    return status["readySummary"], status["engines"]["up"], told["epoch"], engines


async def serving(clock: Clock) -> Passes:
    pool = Passes(clock, interval=1.0, device_mapping=TWO_ENGINES, strategy_args=STRATEGY)
    await pool.settle()
    up(pool.api)
    await pool.settle()
    assert told_of(pool.api)[:2] == ("2/2", 2)
    return pool


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"strategy_args": CHANGED}, id="another revision"),
        pytest.param({"device_mapping": "[8, 9, 10, 11]"}, id="other GPUs"),
    ],
)
def test_an_engine_that_is_not_deleted_is_told_as_it_is(clock, error, change):
    async def told() -> None:
        pool = await serving(clock)
        engines, epoch = pool.pod_names(), told_of(pool.api)[2]
        before = {pod["metadata"]["uid"] for pod in pool.api.pods("rl")}
        pool.api.fails = failing("DELETE", "/pods/", error)
        pool.change(**change)
        for _ in range(5):
            clock.advance(600)
            await pool.run()
            assert set(engines) <= set(pool.pod_names())
            up(pool.api)
            if "strategy_args" in change:
                expected = [(name, "InService") for name in engines]
                assert told_of(pool.api) == ("2/2", 2, epoch, expected)
            else:
                content = json.loads(
                    pool.api.objects[REGISTRY]["data"][trainer_registry.ENGINES_KEY]
                )
                states = {each["state"] for each in content.get("unlisted", ())}
                assert states <= {"InService"}
        assert any(method == "DELETE" for method, _ in pool.api.seen)
        pool.api.fails = lambda method, path: None
        for _ in range(8):
            clock.advance(600)
            await pool.run()
            up(pool.api)
        assert before.isdisjoint(pod["metadata"]["uid"] for pod in pool.api.pods("rl"))

    story(told)


def test_a_revision_that_is_only_tried_changes_nothing_that_is_told(clock):
    async def told() -> None:
        pool = await serving(clock)
        before = told_of(pool.api)
        refused = ApiError(403, "Forbidden", 'admission webhook "w" denied the request: no', None)

        def tried(collection: str, body: Any) -> Any:
            if "debug" in str(body):
                raise refused
            return body

        pool.api._tried = tried  # type: ignore[assignment,method-assign]
        pool.change(strategy_args=CHANGED)
        for _ in range(5):
            clock.advance(600)
            await pool.run()
            assert told_of(pool.api) == before
        assert pool.reason == "PodRejected"

    story(told)


def test_an_engine_is_told_as_it_is_until_its_delete_is_taken():
    """While the API server takes long over the delete, the pool is looked at and told of."""

    async def told() -> None:
        api = fake_api.Api()
        api.make(*KEY, strategy_args=STRATEGY, num_gpus_per_worker=1)
        async with fake_api.operator(api):
            await api.until(lambda: len(api.pods("rl")) == 2)
            up(api)
            await api.until(lambda: REGISTRY in api.objects and api.reason(*KEY) == "PoolReady")
            await api.until(lambda: {state for _, state in told_of(api)[3]} == {"InService"})
            before = told_of(api)
            assert before[:2] == ("2/2", 2)
            api.hangs = lambda method, path: method == "DELETE"
            api.change(*KEY, {**api.pool(*KEY)["spec"], "strategy_args": CHANGED})
            await api.until(lambda: api.hanging)
            generation = api.generation(*KEY)
            await api.until(lambda: api.pool(*KEY)["status"]["observedGeneration"] == generation)
            assert told_of(api) == before

    asyncio.run(told())
