"""Who rules a namespace takes the operator's rights away there; all other namespaces go on."""

import asyncio
from collections.abc import Callable

import pytest

from sglang_operator import clocks
from sglang_operator.backoff import Backoff
from sglang_operator.controller import coverage, loop
from sglang_operator.controller.exposition import MetricsReader
from sglang_operator.kube import informer, paths
from tests.builders import guide_spec
from tests.unit.controller import fake_api

BOTH = ("team-a", "team-b")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What is refused is asked for again soon."""
    monkeypatch.setattr(informer, "BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(coverage, "TOLD_AFTER_SECONDS", 0.0)


def of_team_b(path: str) -> bool:
    return "/namespaces/team-b/" in path


def leases_of_team_b(path: str) -> bool:
    return path == paths.children("Lease", "team-b")


async def lives(room: loop.ControlLoop, api: fake_api.Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return once the liveness probe calls no refused stream dead, though minutes have gone by."""
    with monkeypatch.context() as later:
        now = clocks.steady()
        later.setattr(informer, "steady", lambda: now + loop.STALE_SECONDS + 1)
        await api.until(lambda: not named(room.stale(), "(refused"))


def named(words: list[str], ending: str) -> list[str]:
    return [word for word in words if ending in word]


REFUSALS = pytest.mark.parametrize(
    "refuses",
    [
        pytest.param(of_team_b, id="all of it"),
        pytest.param(leases_of_team_b, id="its Leases"),
        pytest.param(lambda path: path == paths.pods("team-b"), id="its pods"),
    ],
)


@REFUSALS
def test_an_operator_that_starts_serves_the_others_and_the_refused_once_it_may(
    refuses: Callable[[str], bool], monkeypatch
):
    async def story() -> None:
        api = fake_api.Api()
        for team in BOTH:
            api.make(team, "actor")
        api.refuse(refuses)
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            await api.until(lambda: api.reason("team-a", "actor"))
            assert room.unsynced() == []
            await lives(room, api, monkeypatch)
            assert [words.split(" (")[0] for words in room.coverage.told()] == ["namespace team-b"]
            assert not api.pods("team-b")
            assert not api.reason("team-b", "actor")
            api.refuse(lambda path: False)
            await api.until(lambda: api.reason("team-b", "actor"))
            assert api.pods("team-b")
            assert room.coverage.told() == []

    asyncio.run(story())


@REFUSALS
def test_nothing_is_planned_from_what_was_seen_before_the_refusal(
    refuses: Callable[[str], bool], monkeypatch
):
    async def story() -> None:
        api = fake_api.Api()

        def planned() -> list[tuple[str, str]]:
            """Events may come late: they tell of what was before."""
            calls = (call for call in api.calls if of_team_b(call[1]))
            return [call for call in calls if not call[1].endswith("/events")]

        for team in BOTH:
            api.make(team, "actor")
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            await api.until(lambda: all(api.up(team, "actor") for team in BOTH))
            api.refuse(refuses)
            await api.until(lambda: not room.coverage.reads("team-b"))
            await lives(room, api, monkeypatch)
            writes = planned()
            spec = guide_spec(device_mapping="[0, 1, 2, 3]")
            for team in BOTH:
                api.change(team, "actor", spec)
            await api.until(lambda: len(api.pods("team-a")) == 2)
            assert planned() == writes
            assert len(api.pods("team-b")) == 1
            api.refuse(lambda path: False)
            await api.until(lambda: len(api.pods("team-b")) == 2)

    asyncio.run(story())


def test_while_all_are_refused_the_operator_is_not_ready_but_alive(monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        api.make("team-a", "actor")
        api.refuse(lambda path: "/namespaces/team-" in path)
        room = fake_api.a_room(api, namespaces=BOTH, watch_nodes=False)
        running = asyncio.create_task(room.run())
        await api.until(lambda: set(room.coverage.refused()) == set(BOTH))
        assert not room.dispatching
        await api.until(lambda: named(room.unsynced(), "pods in team-a (refused: 403 Forbidden"))
        await lives(room, api, monkeypatch)
        api.refuse(of_team_b)
        await api.until(lambda: api.reason("team-a", "actor"))
        assert room.unsynced() == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


def test_a_kind_that_is_refused_cluster_wide_is_told_by_readyz_and_ends_nobody(monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        api.make("team-a", "actor")
        api.refuse(lambda path: path.endswith("/poddisruptionbudgets"))
        room = fake_api.a_room(api, watch_nodes=False)
        running = asyncio.create_task(room.run())
        await api.until(lambda: room.coverage.refused())
        await api.until(lambda: len(room.unsynced()) == 1)
        assert named(room.unsynced(), "poddisruptionbudgets (refused: 403 Forbidden")
        assert room.coverage.told() == ["all namespaces (poddisruptionbudgets)"]
        await lives(room, api, monkeypatch)
        assert not room.dispatching
        api.refuse(lambda path: False)
        await api.until(lambda: api.reason("team-a", "actor"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


def test_once_all_are_refused_an_operator_that_was_ready_is_so_no_more(monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        api.make("team-a", "actor")
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            await api.until(lambda: api.reason("team-a", "actor"))
            assert room.unready() == []
            api.refuse(of_team_b)
            await api.until(lambda: room.coverage.told())
            assert room.unready() == []  # the others are served
            api.refuse(lambda path: "/namespaces/team-" in path)
            await api.until(lambda: named(room.unready(), "pods in team-a (refused: 403 Forbidden"))
            assert room.unsynced() == []
            await lives(room, api, monkeypatch)
            api.refuse(lambda path: False)
            await api.until(lambda: room.unready() == [])

    asyncio.run(story())


def test_nodes_that_may_no_longer_be_read_do_not_end_the_operator(monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await api.until(lambda: room.nodes.known is not None)
            api.refuse(lambda path: path == paths.NODES)
            await api.until(lambda: room.nodes.known is None)
            await lives(room, api, monkeypatch)
            api.refuse(lambda path: False)
            await api.until(lambda: room.nodes.known is not None)

    asyncio.run(story())


def test_what_is_refused_is_a_metric_and_told_once(caplog):
    async def story() -> None:
        api = fake_api.Api()
        api.refuse(of_team_b)
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            found = {metric.name: metric for metric in MetricsReader(room, lambda: 0).collect()}
            refused = {
                sample.labels["resource"]: sample.value
                for sample in found["sglang_operator_watch_refused"].samples
            }
            assert refused["pods in team-b"] == 1
            assert refused["pods in team-a"] == 0
            await api.until(lambda: said(caplog))
            assert said(caplog) == ["namespace team-b"]

    asyncio.run(story())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The scopes of which it was told that nothing is done there."""
    told = [r for r in caplog.records if "nothing is done for its pools" in r.message]
    return [record.message.split(":")[0] for record in told]


def test_what_may_be_listed_and_not_watched_is_not_served_by_turns(caplog):
    """Each list had its pools served for a moment, and the refused watch ended that again."""

    async def story() -> None:
        api = fake_api.Api()
        for team in BOTH:
            api.make(team, "actor")
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            await api.until(lambda: api.pods("team-b"))
            api.refuse_watches(of_team_b)
            await api.until(lambda: not room.coverage.reads("team-b"))
            stream = next(i for i in room.informers if i.resource.path == paths.pods("team-b"))
            lists, read = stream.lists, []
            while stream.lists < lists + 5:
                read.append(room.coverage.reads("team-b"))
                await asyncio.sleep(0.002)
            assert not any(read)
            assert said(caplog) == ["namespace team-b"]
            api.refuse_watches(lambda path: False)
            await api.until(lambda: room.coverage.reads("team-b"))

    asyncio.run(story())


def test_a_refusal_that_passes_in_a_moment_is_not_told_as_an_error(caplog, monkeypatch):
    """An API server that has just begun knows no roles yet."""
    monkeypatch.setattr(coverage, "TOLD_AFTER_SECONDS", 0.2)

    async def story() -> None:
        api = fake_api.Api()
        for team in BOTH:
            api.make(team, "actor")
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:
            await api.until(lambda: api.pods("team-b"))
            api.refuse(of_team_b)
            await api.until(lambda: not room.coverage.reads("team-b"))
            api.refuse(lambda path: False)
            await api.until(lambda: room.coverage.reads("team-b"))
            await asyncio.sleep(0.4)
            assert said(caplog) == []

    asyncio.run(story())


def test_of_pools_that_cannot_be_read_there_are_no_metrics():
    async def story() -> None:
        api = fake_api.Api()
        for team in BOTH:
            api.make(team, "actor")
        async with fake_api.operator(api, namespaces=BOTH, watch_nodes=False) as room:

            def counted() -> set[str]:
                found = {metric.name: metric for metric in MetricsReader(room, lambda: 0).collect()}
                samples = found["sglang_operator_pool_engines"].samples
                return {sample.labels["namespace"] for sample in samples}

            await api.until(lambda: counted() == set(BOTH))
            api.refuse(of_team_b)
            await api.until(lambda: counted() == {"team-a"})
            api.refuse(lambda path: False)
            await api.until(lambda: counted() == set(BOTH))

    asyncio.run(story())
