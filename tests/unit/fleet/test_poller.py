"""The poller: asks what it is told to, no more; news wakes the pool, and nothing else does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.engine import versions
from sglang_operator.fleet import poller as module
from sglang_operator.fleet.client import EngineClient
from sglang_operator.fleet.poller import Poller
from sglang_operator.planner.observed import Loading
from sglang_operator.planner.questions import Question, Topic
from tests.unit.fleet.engines import Engine, an_engine, eventually

KEY = PoolKey("rl", "actor-infer")
OTHER = PoolKey("rl", "reward")
FEATURES = versions.features(versions.parse("0.5.14"))
OLD = versions.features(versions.parse("0.5.2"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "RETRY", (0.01, 0.02))


class World:
    """A poller, an engine, and how often the pool was woken."""

    def __init__(self, poller: Poller, engine: Engine, woken: list[PoolKey]) -> None:
        self.poller = poller
        self.engine = engine
        self.woken = woken

    def question(self, topic: Topic = Topic.WEIGHTS, **changes: Any) -> Question:
        values: dict[str, Any] = {
            "instance": "0a1b2c3d",
            "topic": topic,
            "url": self.engine.url,
            "features": FEATURES,
            "every": None if topic is Topic.RESOLVED else 0.02,
        }
        return Question(**{**values, **changes})

    def ask(self, *questions: Question, key: PoolKey = KEY) -> None:
        self.poller.ask(key, questions, {question.instance for question in questions})

    def version(self, instance: str = "0a1b2c3d", key: PoolKey = KEY) -> str | None:
        report = self.poller.reports(key).get(instance)
        return report.weight_version if report else None


def in_a_world(test: Callable[[World], Awaitable[None]], **told: Any) -> None:
    async def run() -> None:
        woken: list[PoolKey] = []
        async with (
            EngineClient(user_agent="test", timeout=0.2) as client,
            an_engine(**told) as engine,
        ):
            poller = Poller(client, lambda key, urgent: woken.append(key))
            try:
                await test(World(poller, engine, woken))
            finally:
                await poller.close()

    asyncio.run(run())


def test_an_answer_becomes_a_report_and_wakes_the_pool():
    async def test(world: World) -> None:
        world.ask(world.question())
        await eventually(lambda: world.version() == "unsynced", "a report")
        assert world.woken == [KEY]

    in_a_world(test, model_info={"weight_version": "unsynced"})


def test_only_news_wakes_the_pool():
    async def test(world: World) -> None:
        world.ask(world.question())
        await eventually(lambda: world.engine.times("/model_info") >= 4, "polls")
        assert len(world.woken) == 1
        world.engine.answers["/model_info"] = {"weight_version": "step-1"}
        await eventually(lambda: world.version() == "step-1", "the new version")
        assert len(world.woken) == 2

    in_a_world(test, model_info={"weight_version": "unsynced"})


def test_what_is_asked_once_is_not_asked_again_though_passes_go_on():
    async def test(world: World) -> None:
        for _ in range(3):
            world.ask(world.question(Topic.RESOLVED))
            await eventually(lambda: world.poller.reports(KEY), "a report")
        world.ask(world.question(Topic.RESOLVED), world.question())
        await eventually(world.version, "another answer")
        assert world.engine.times("/server_info") == 1
        resolved = world.poller.reports(KEY)["0a1b2c3d"].resolved
        assert resolved is not None
        assert resolved.version == "0.5.14"

    in_a_world(test, server_info={"version": "0.5.14"}, model_info={"weight_version": "v"})


def test_another_instance_is_asked_anew_and_the_first_is_forgotten():
    async def test(world: World) -> None:
        world.ask(world.question(Topic.RESOLVED))
        await eventually(lambda: world.poller.reports(KEY), "a report")
        world.ask(world.question(Topic.RESOLVED, instance="ffffffff"))
        await eventually(lambda: set(world.poller.reports(KEY)) == {"ffffffff"}, "the new one")
        assert world.engine.times("/server_info") == 2

    in_a_world(test, server_info={"version": "0.5.14"})


def test_an_old_version_is_asked_by_its_old_paths():
    async def test(world: World) -> None:
        world.ask(world.question(features=OLD), world.question(Topic.RESOLVED, features=OLD))
        await eventually(world.version, "the version")
        await eventually(lambda: world.engine.times("/get_server_info"), "its arguments")

    in_a_world(test, get_model_info={"weight_version": "v"}, get_server_info={"version": "0.5.2"})


def test_nothing_is_asked_any_more_when_the_questions_are_gone():
    async def test(world: World) -> None:
        world.ask(world.question())
        await eventually(world.version, "the version")
        world.poller.forget(KEY)
        await asyncio.sleep(0)  # the task ends
        before = len(world.engine.asked)
        await asyncio.sleep(0.1)  # five intervals
        assert len(world.engine.asked) <= before + 1  # one may have been on its way
        assert world.poller.reports(KEY) == {}

    in_a_world(test, model_info={"weight_version": "v"})


def test_pools_do_not_mix():
    async def test(world: World) -> None:
        world.ask(world.question())
        world.ask(world.question(instance="ffffffff"), key=OTHER)
        await eventually(lambda: world.version() and world.version("ffffffff", OTHER), "both")
        world.poller.forget(OTHER)
        assert set(world.poller.reports(KEY)) == {"0a1b2c3d"}

    in_a_world(test, model_info={"weight_version": "v"})


def test_an_engine_that_is_silent_keeps_its_last_report_and_is_asked_on():
    async def test(world: World) -> None:
        world.ask(world.question())
        await eventually(world.version, "the version")
        world.engine.answers["/model_info"] = 500
        before = world.engine.times("/model_info")
        await eventually(lambda: world.engine.times("/model_info") > before + 2, "more polls")
        assert world.version() == "v"
        assert len(world.woken) == 1

    in_a_world(test, model_info={"weight_version": "v"})


def test_an_engine_that_never_says_what_it_runs_is_given_up():
    async def test(world: World) -> None:
        world.ask(world.question(Topic.RESOLVED))
        await eventually(lambda: world.engine.times("/server_info") >= module.TRIES, "tries")
        await asyncio.sleep(0.1)
        assert world.engine.times("/server_info") == module.TRIES
        assert world.woken == []

    in_a_world(test, server_info=500)


def test_an_engine_that_wants_a_key_is_asked_what_it_runs_once_only():
    async def test(world: World) -> None:
        world.ask(world.question(Topic.RESOLVED))
        await eventually(lambda: world.engine.times("/server_info"), "a try")
        await asyncio.sleep(0.1)
        assert world.engine.times("/server_info") == 1

    in_a_world(test, server_info=401)


def test_only_so_many_requests_are_under_way(monkeypatch):
    monkeypatch.setattr(module, "CONCURRENCY", 3)

    async def test(world: World) -> None:
        world.engine.slow = 0.02
        world.ask(*(world.question(instance=f"{n:08x}") for n in range(20)))
        await eventually(lambda: len(world.poller.reports(KEY)) == 20, "all reports")
        assert world.engine.busiest == 3

    in_a_world(test, model_info={"weight_version": "v"})


def test_weights_are_loaded_once_and_the_report_says_so():
    async def test(world: World) -> None:
        def loading() -> Loading | None:
            report = world.poller.reports(KEY).get("0a1b2c3d")
            return report.loading if report else None

        for _ in range(3):
            world.poller.load(KEY, "0a1b2c3d", world.engine.url, "/ckpt/7", "step-7")
        assert loading() == Loading(path="/ckpt/7", version="step-7")
        done = Loading(path="/ckpt/7", version="step-7", done=True)
        await eventually(lambda: loading() == done, "the weights")
        world.poller.load(KEY, "0a1b2c3d", world.engine.url, "/ckpt/7", "step-7")
        assert world.engine.times("/update_weights_from_disk") == 1
        assert len(world.woken) == 2

    in_a_world(test, update_weights_from_disk={"success": True, "message": ""})


def test_weights_that_could_not_be_loaded_are_told_and_tried_again():
    async def test(world: World) -> None:
        def loading() -> Loading:
            found = world.poller.reports(KEY)["0a1b2c3d"].loading
            assert found is not None
            return found

        def load() -> None:
            world.poller.load(KEY, "0a1b2c3d", world.engine.url, "/ckpt/7", "step-7")

        load()
        await eventually(lambda: loading().error, "the error")
        assert loading().error == "no such file"
        world.engine.answers["/update_weights_from_disk"] = {"success": True}
        load()
        assert loading() == Loading(path="/ckpt/7", version="step-7", tries=2)
        await eventually(lambda: loading().done, "success")

    body = {"success": False, "message": "no such file"}
    in_a_world(test, update_weights_from_disk={"status": 400, "body": body})
