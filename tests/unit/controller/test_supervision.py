"""Nothing that must live dies in silence: an error that nobody expected is told and outlived."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from sglang_operator import clocks, supervision
from sglang_operator.ask.engines import Question, Topic
from sglang_operator.backoff import Backoff
from sglang_operator.cluster import recorder
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import loop, process, shell
from sglang_operator.controller.publishing import Publisher
from sglang_operator.controller.shell import SupervisedKopf
from sglang_operator.controller.workqueue import WorkQueue
from sglang_operator.fleet import poller, wording
from sglang_operator.fleet.poller import Poller
from sglang_operator.kube import informer, leader_election
from sglang_operator.plan import plan
from tests.unit.controller import fake_api

KEY = ("rl", "pool")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(supervision, "BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(supervision, "FAILURES", type(supervision.FAILURES)())
    monkeypatch.setattr(loop, "UNEXPECTED_BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(shell, "BACKOFF", Backoff(0.0, 0.0))
    monkeypatch.setattr(poller, "RETRY", Backoff(0.01, 0.01))


def failing_once(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, when: Callable[..., bool] | None = None
) -> None:
    """The next call of this fails as nobody expects, of those that ``when`` is true for."""
    well, left = getattr(place, name), [RuntimeError("a defect")]

    def call(*args: Any, **named: Any) -> Any:
        if left and (when is None or when(*args)):
            raise left.pop()
        return well(*args, **named)

    monkeypatch.setattr(place, name, call)


def terms(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """How long the Lease lasts and how often it is renewed."""
    defaults = leader_election.Terms.__init__.__kwdefaults__ or {}
    for name, value in seconds.items():
        monkeypatch.setitem(defaults, name, value)


def is_told(
    name: str, caplog: pytest.LogCaptureFixture, begins: str = "", level: int = logging.ERROR
) -> bool:
    told = [
        record
        for record in caplog.records
        if record.levelno == level and record.getMessage().startswith(begins or f"{name}: ")
    ]
    return supervision.FAILURES[name] == 1 and len(told) == 1 and bool(told[0].exc_info)


def of_pods(stream: informer.Informer[Any], *_: Any) -> bool:
    return stream.resource.name == "pods"


@pytest.mark.parametrize(
    ("name", "place", "method", "when"),
    [
        pytest.param("pods", informer.Informer, "_watch", of_pods, id="a watch"),
        pytest.param("pods", informer.Informer, "_relist", of_pods, id="a list"),
        pytest.param("pass", plan, "plan", None, id="a pass"),
        pytest.param("pass", Publisher, "publish", None, id="what a pass tells"),
        pytest.param("events", recorder.Recorder, "_tell", None, id="an Event"),
        pytest.param("election", leader_election.Elector, "_write", None, id="the election"),
        pytest.param("election", leader_election.Elector, "_read", None, id="who holds the Lease"),
    ],
)
def test_an_unexpected_error_is_told_and_outlived(monkeypatch, caplog, name, place, method, when):
    terms(monkeypatch, retry=0.02)
    failing_once(monkeypatch, place, method, when)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, lease_namespace="operator") as room:
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            await api.until(lambda: supervision.FAILURES[name])
            api.make("rl", "another")
            await api.until(lambda: api.reason("rl", "another") == "PoolReady")
            assert room.elector is not None
            assert room.elector.holds()

    asyncio.run(story())
    assert is_told(name, caplog)


@pytest.mark.parametrize(
    ("name", "place", "method"),
    [("dispatch", WorkQueue, "get"), ("election", leader_election.Elector, "_pause")],
)
def test_what_cannot_be_begun_again_ends_the_process_loudly(
    monkeypatch, caplog, name, place, method
):
    failing_once(monkeypatch, place, method)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, lease_namespace="operator"):
            api.make(*KEY)
            await api.until(lambda: supervision.FAILURES[name])
            await asyncio.sleep(0.05)

    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(story())
    assert is_told(name, caplog)


def test_a_holder_whose_renewals_fail_as_nobody_expects_gives_up_in_time(monkeypatch):
    terms(monkeypatch, retry=0.02)
    terms(monkeypatch, deadline=1.0)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, lease_namespace="operator") as room:
            assert room.elector is not None
            await asyncio.wait_for(room.elector.acquired.wait(), 5)
            api.fails = lambda method, path: RuntimeError("a defect") if method == "PUT" else None
            await api.until(lambda: not room.dispatching and room.reconciler)
            assert not room.elector.holds()
            await api.until(
                lambda: "operator" not in map(asyncio.Task.get_name, asyncio.all_tasks())
            )

    with pytest.raises(loop.LeadershipLostError):
        asyncio.run(story())


@pytest.mark.parametrize("ask", ["weight_version"])
def test_a_question_that_fails_is_asked_again(monkeypatch, caplog, ask):
    answers: list[Any] = [RuntimeError("a defect"), "step-1"]

    async def asked(*_: Any) -> str:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr(wording, ask, asked)

    async def story() -> None:
        woken = asyncio.Event()
        questions = Poller(None, lambda key, urgent: woken.set())  # type: ignore[arg-type]
        key = PoolKey(*KEY)
        question = Question(
            instance="i",
            topic=Topic.WEIGHTS,
            url="http://engine",
            features=None,  # type: ignore[arg-type]
            every=0.01,
        )
        questions.ask(key, [question], ["i"])
        await asyncio.wait_for(woken.wait(), 5)
        assert questions.reports(key)["i"].weight_version == "step-1"
        await questions.close()

    asyncio.run(story())
    assert is_told("questions", caplog)


def test_kopf_is_told_of_with_its_traceback(caplog):
    class Dying(SupervisedKopf):
        async def _kopf(self, flag: asyncio.Event) -> None:
            if self.starts == 1:
                raise RuntimeError("a defect")
            await flag.wait()

    supervised = Dying(None, (), lambda namespace, name: None)  # type: ignore[arg-type]
    supervised.start()
    deadline = time.monotonic() + 10
    while supervised.starts < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    supervised.stop(10)
    assert supervised.starts == 2
    # It gives up on a 401, an error in a stream or a 410: no error of ours.
    assert is_told("kopf", caplog, "kopf ended: RuntimeError: a defect", logging.WARNING)


def test_what_a_callback_of_the_loop_raises_is_told(caplog):
    def failing() -> None:
        raise RuntimeError("a defect")

    async def story() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(supervision.unhandled)
        running.call_soon(failing)
        await asyncio.sleep(0.01)

    asyncio.run(story())
    assert is_told("loop", caplog)
    assert "unhandled" in process.serve.__code__.co_names


def test_a_task_that_ends_by_itself_is_begun_again():
    runs = 0

    async def story() -> None:
        async def run() -> None:
            nonlocal runs
            runs += 1
            if runs > 2:
                await asyncio.Event().wait()

        task = asyncio.create_task(supervision.kept("x", run))
        async with asyncio.timeout(5):
            while runs < 3:
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert supervision.FAILURES["x"] == 2


def test_healthz_sees_a_stream_that_never_was_in_sync(monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        api.hangs = lambda method, path: path.endswith("/services")
        now = clocks.steady()
        async with asyncio.timeout(10):
            room = fake_api.a_room(api)
            running = asyncio.create_task(room.run())
            await api.until(lambda: api.hanging)
            assert room.stale() == []
            monkeypatch.setattr(informer, "steady", lambda: now + loop.STALE_SECONDS + 1)
            assert "services" in room.stale()
            monkeypatch.undo()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


def test_what_is_cancelled_before_it_began_is_closed():
    """A loop that ends tells of each that was not: a warning, in whoever's process it is."""

    async def work() -> None:
        raise AssertionError("it began")

    async def story() -> Any:
        made = work()
        task = supervision.begun("events", made)
        task.cancel()
        await asyncio.wait({task})
        return made

    assert asyncio.run(story()).cr_frame is None


def test_what_passes_have_begun_beside_them_ends_before_the_operator_does():
    """An Event was posted by a client that was closed: an error in the log, and no Event."""

    async def story() -> tuple[list[str], list[str]]:
        api, begun, ended = fake_api.Api(), list[str](), list[str]()
        plain = api.request

        async def slow(method: str, path: str, **rest: Any) -> bytes:
            if "/events" not in path or method == "GET":
                return await plain(method, path, **rest)
            begun.append(path)
            await asyncio.sleep(0.3)
            ended.append(path)
            return await plain(method, path, **rest)

        api.request = slow  # type: ignore[method-assign]
        async with fake_api.operator(api) as room:
            room.settings = dataclasses.replace(room.settings, drain_seconds=30.0)
            api.make(*KEY)
            await api.until(lambda: begun)
        return begun, list(ended)

    begun, ended = asyncio.run(story())
    assert len(begun) == len(ended) > 0
