"""The poller: asks what it is told to, no more; news wakes the pool, and nothing else does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sglang_operator.ask.engines import Question, Topic
from sglang_operator.backoff import Backoff
from sglang_operator.clocks import steady
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.engine import versions
from sglang_operator.fleet import poller as module
from sglang_operator.fleet import wording
from sglang_operator.fleet.client import EngineClient, EngineUnreachableError
from sglang_operator.fleet.poller import Permit, Poller
from sglang_operator.observed.model import Loading
from tests.unit.fleet.engines import Engine, an_engine, eventually

KEY = PoolKey("rl", "actor-infer")
OTHER = PoolKey("rl", "reward")
FEATURES = versions.features(versions.parse("0.5.14"))
OLD = versions.features(versions.parse("0.5.2"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "RETRY", Backoff(0.01, 0.02))


class World:
    """A poller, an engine, and how often the pool was woken."""

    def __init__(
        self, poller: Poller, engine: Engine, woken: list[PoolKey], client: EngineClient
    ) -> None:
        self.client = client
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
    patience = 0.2 if None in told.values() else 30.0  # with one that never answers

    async def run() -> None:
        woken: list[PoolKey] = []
        async with (
            EngineClient(user_agent="test", timeout=patience) as client,
            an_engine(**told) as engine,
        ):
            poller = Poller(client, lambda key, urgent: woken.append(key))
            try:
                await test(World(poller, engine, woken, client))
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


def test_an_engine_that_is_older_than_is_thought_says_so():
    async def test(world: World) -> None:
        world.ask(world.question(Topic.RESOLVED))
        await eventually(lambda: world.poller.reports(KEY), "a report")
        resolved = world.poller.reports(KEY)["0a1b2c3d"].resolved
        assert resolved is not None
        assert resolved.version == "0.5.2"

    in_a_world(test, get_server_info={"version": "0.5.2"})


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


RUN = "0a1b2c3d"


class Loads:
    """Loads of one engine under a permit."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.woken = world.woken
        self.moved = ""  # why the engine may not be at its address
        self.confirmed = 0

    def permit(self, commit: str = "t1", instance: str = RUN, seconds: float = 60.0) -> None:
        until = steady() + seconds
        permit = Permit(commit=commit, instances=frozenset({instance}), until=until)
        self.world.poller.permit(KEY, permit)

    def load(self, commit: str = "t1", *, pause: str = "") -> None:
        self.world.poller.load(
            *(KEY, RUN, self.world.engine.url, "/ckpt/7", "step-7"),
            commit=commit,
            pause=pause,
            confirm=self._confirm,
        )

    async def _confirm(self) -> str:
        self.confirmed += 1
        return self.moved

    @property
    def sent(self) -> int:
        return self.world.engine.times("/update_weights_from_disk")

    @property
    def loading(self) -> Loading | None:
        report = self.world.poller.reports(KEY).get(RUN)
        return report.loading if report else None

    async def its_time(self) -> None:
        """Until it may be tried again."""
        assert self.loading is not None
        again = self.loading.again
        await eventually(lambda: steady() >= again, "its time")

    async def ends(self) -> Loading:
        def ended() -> bool:
            return self.loading is not None and bool(self.loading.done or self.loading.error)

        await eventually(ended, "the end of the load")
        assert self.loading is not None
        return self.loading


SUCCESS = {"success": True, "message": ""}


def test_weights_are_loaded_once_and_the_report_says_so():
    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        for _ in range(3):
            loads.load()
        assert loads.loading == Loading(path="/ckpt/7", version="step-7", commit="t1")
        assert (await loads.ends()).done
        loads.load()
        assert loads.sent == 1
        assert len(world.woken) == 2

    in_a_world(test, update_weights_from_disk=SUCCESS)


def test_an_engine_that_may_be_paused_goes_on_once_it_has_its_weights():
    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        loads.load(pause="retract")
        assert (await loads.ends()).done
        paths = [path for _, path, _ in world.engine.asked]
        assert paths == [
            "/pause_generation",
            "/abort_request",
            "/update_weights_from_disk",
            "/flush_cache",
            "/update_weight_version",
            "/continue_generation",
        ]

    in_a_world(
        test,
        pause_generation={},
        abort_request={},
        update_weights_from_disk=SUCCESS,
        flush_cache={},
        continue_generation={},
    )


def test_nothing_is_sent_of_what_the_lease_does_not_know():
    async def test(world: World) -> None:
        loads = Loads(world)
        loads.load()
        assert loads.loading is not None
        assert loads.loading.error == module.NOT_PERMITTED
        for permit in (
            {"commit": "t0"},
            {"instance": "ffffffff"},
            {"seconds": -1.0},
        ):
            loads.permit(**permit)
            await loads.its_time()
            loads.load()
        await asyncio.sleep(0.05)
        assert loads.sent == 0

    in_a_world(test, update_weights_from_disk=SUCCESS)


def test_a_permit_that_ends_ends_its_loads_and_a_later_one_begins_anew():
    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        loads.load()
        await eventually(lambda: loads.sent, "the request")
        loads.permit()  # another pass: it goes on
        assert loads.loading is not None
        loads.permit("t2")  # a trainer was there
        assert loads.loading is None
        world.engine.answers["/update_weights_from_disk"] = SUCCESS
        loads.load("t2")
        assert (await loads.ends()).done
        world.poller.permit(KEY, None)
        assert loads.sent == 2

    in_a_world(test, update_weights_from_disk=None)


def test_weights_that_could_not_be_loaded_are_told_and_tried_again_in_their_time():
    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        begun = steady()
        loads.load()
        failed = await loads.ends()
        assert failed.error == "no such file"
        assert failed.again > begun
        world.engine.answers["/update_weights_from_disk"] = SUCCESS
        await eventually(lambda: steady() >= failed.again, "its time")
        loads.load()
        assert loads.loading == Loading(path="/ckpt/7", version="step-7", commit="t1", tries=2)
        assert (await loads.ends()).done

    body = {"success": False, "message": "no such file"}
    in_a_world(test, update_weights_from_disk={"status": 400, "body": body})


def test_nothing_is_sent_to_an_address_that_may_be_anothers_by_now():
    """Each try is confirmed: in between the pod may go, and another pool's engine come."""

    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        for tries in (1, 2):
            loads.moved = "it does not run there any more"
            loads.load(pause="retract")
            failed = await loads.ends()
            assert (failed.error, failed.tries) == (loads.moved, tries)
            await loads.its_time()
        assert world.engine.asked == []
        loads.moved = ""
        loads.load()
        assert (await loads.ends()).done
        assert loads.confirmed == 3

    in_a_world(test, update_weights_from_disk=SUCCESS)


def test_a_load_whose_end_is_not_known_ends_once_its_request_cannot_arrive_any_more(monkeypatch):
    monkeypatch.setattr(module, "DELIVERY_SECONDS", 0.2)

    async def test(world: World) -> None:
        loads = Loads(world)
        loads.permit()
        begun = steady()

        async def vanish(*_: object, **__: object) -> None:
            raise EngineUnreachableError("reset")

        world.client.update_weights_from_disk = vanish  # type: ignore[method-assign]
        loads.load()
        assert (await loads.ends()).error == "reset"
        assert steady() - begun >= 0.2

        async def break_(*_: object, **__: object) -> None:
            raise RuntimeError("a defect")

        world.client.update_weights_from_disk = break_  # type: ignore[method-assign]
        await loads.its_time()
        loads.load()
        assert (await loads.ends()).error == "RuntimeError: a defect"

    in_a_world(test)


@pytest.mark.parametrize("pools", [1, 500])
def test_engines_of_one_namespace_that_do_not_answer_take_no_turns_from_another(monkeypatch, pools):
    """With 500 pools of one engine each, another namespace's gate waited for 16 s."""

    async def asked(client: EngineClient, url: str, features: object) -> str:
        if url == "hangs":
            await asyncio.sleep(60)
        return "step-1"

    monkeypatch.setattr(wording, "weight_version", asked)

    async def test(world: World) -> None:
        for number in range(pools):
            questions = [
                world.question(url="hangs", instance=f"{number}-{engine}")
                for engine in range(500 // pools)
            ]
            world.ask(*questions, key=PoolKey("hangs", f"pool-{number}"))
        await asyncio.sleep(0.1)
        begun = steady()
        world.ask(world.question())
        await eventually(lambda: world.version() == "step-1", "an answer")
        assert steady() - begun < 5

    in_a_world(test)
