"""What waits for its grammar as a worker pauses its engine, in a sync that another one leads."""

import asyncio

import pytest

from sglang_operator.client import EngineError, pausing
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_late_requests import Late
from tests.unit.client.test_roll import BEGIN, PAUSE, Cluster
from tests.unit.client.test_roll_objections import bucket, others
from tests.unit.client.test_roll_sharing import ended, served

RUN, WRITE = "/continue_generation", "/update_weights_from_distributed"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pausing, "QUICK_SECONDS", 0.1)
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.5)


def story(roll, reach, act, *, sessions=False, colocated=False):
    async def train(world):
        for engine in world.engines:
            engine.sessions = sessions
        async with Cluster(roll, 3, colocated=colocated) as cluster:
            await cluster.setup()
            await act(world, cluster, world.engines[1])

    version = "0.5.23" if sessions else "0.5.14"
    with FakePool(version=version) as world:
        asyncio.run(train(reach(world)))


def comes_late(engine):
    """How many requests the engine had got, before something that waits for a grammar came."""
    Late(engine, RUN).come()
    return len(engine.asked)


@pytest.mark.parametrize("updates", [0, 1, 2])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_it_is_ended_at_every_workers_engine(roll, reach, rank, updates):
    async def act(world, cluster, _):
        for number in range(updates):
            await cluster.model_update(f"a{number}")
        engine = world.engines[rank]
        since = comes_late(engine)
        await cluster.model_update("b")
        assert served(world, f"step-{updates + 1}") == [0, 1, 2]
        asked = engine.paths()[since:]
        assert asked.index(RUN) < asked.index(WRITE)
        written = len(asked) - 1 - asked[::-1].index(WRITE)
        between = engine.asked[since + asked.index(RUN) : since + written]
        assert [body["mode"] for path, body in between if path == PAUSE] == ["abort", "retract"]

    story(roll, reach, act)


def test_over_weights_that_an_update_left_torn_no_engine_is_let_run(roll, reach, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.shared.VOUCH_SECONDS", 1.0)

    async def act(world, cluster, engine):
        await cluster.model_update("a")
        world.engines[2].refuse[WRITE] = (500, "out of memory")
        await ended(each.broadcast_parameter(*bucket("b")) for each in cluster.strategies)
        await ended(each.process_weights_after_loading() for each in cluster.strategies)
        assert world.state.phase is Phase.ABORTED
        world.engines[2].refuse.clear()
        since = comes_late(engine)
        found = await ended(each.broadcast_parameter(*bucket("c")) for each in cluster.strategies)
        assert isinstance(found[1], EngineError)
        assert "Restart the engine" in str(found[1])
        assert RUN not in engine.paths()[since:]

    story(roll, reach, act)


def test_once_a_session_may_be_open_the_engine_is_not_let_run(roll, reach):
    """Its weights may stand in the form in which they are loaded."""

    async def act(world, cluster, engine):
        await cluster.model_update("a")
        engine.refuse[BEGIN] = (500, "its answer got lost")
        writing = asyncio.create_task(others(cluster, "b"))
        with pytest.raises(EngineError, match="got lost"):
            await cluster.strategies[1].broadcast_parameter(*bucket("b"))
        await writing
        engine.refuse.clear()
        since = comes_late(engine)
        with pytest.raises(EngineError, match="Restart the engine"):
            await cluster.strategies[1].broadcast_parameter(*bucket("b"))
        assert RUN not in engine.paths()[since:]

    story(roll, reach, act, sessions=True)


def test_what_lets_the_engine_run_arrives_before_another_attempt_pauses_it(roll, reach):
    """It would run amid the buckets: the attempt was given up, and is slow to end."""

    async def act(world, cluster, engine):
        await cluster.model_update("a")
        worker = cluster.strategies[1]
        since = comes_late(engine)
        engine.stuck.add(RUN)
        writing = asyncio.create_task(others(cluster, "b"))
        first = asyncio.create_task(worker.broadcast_parameter(*bucket("b")))
        async with asyncio.timeout(20):
            while not engine.held:
                await asyncio.sleep(0.01)
        await writing
        await worker._follower.give_up()
        engine._flush_cache = lambda payload: (200, {})  # nothing is left any more
        second = asyncio.create_task(worker.broadcast_parameter(*bucket("b")))
        await asyncio.sleep(0.5)
        assert WRITE not in engine.paths()[since:]
        engine.stuck.clear()
        assert await ended([first]) != [None]
        await second
        asked = engine.paths()[since:]
        assert asked.count(RUN) == 1
        assert asked.index(RUN) < len(asked) - 1 - asked[::-1].index(PAUSE) < asked.index(WRITE)
        await cluster.all("process_weights_after_loading")
        assert served(world, "step-2") == [0, 1, 2]

    story(roll, reach, act)


@pytest.mark.parametrize("rank", [0, 1])
def test_beside_a_part_that_sleeps_it_is_ended_at_an_engine_that_serves(roll, reach, rank):
    async def act(world, cluster, _):
        await cluster.model_update("a")
        await cluster.all("offload_part", [2])
        engine, sleeper = world.engines[rank], world.engines[2]
        since, before = comes_late(engine), len(sleeper.asked)
        await cluster.model_update("b")
        assert served(world, "step-2") == [0, 1, 2]
        asked, other = engine.paths()[since:], sleeper.paths()[before:]
        assert asked.index(RUN) < asked.index(WRITE)
        assert other.index(RUN) > other.index(WRITE), "it has no weights to run from"

    story(roll, reach, act, colocated=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_engine_that_gave_its_weights_up_in_a_part_is_not_let_run(roll, reach, rank):
    """It is awake, and behind the commit that covers the others."""

    async def act(world, cluster, _):
        await cluster.model_update("a")
        await cluster.all("offload_part", [rank])
        await cluster.all("load_part", [rank])
        assert world.state.phase is Phase.COMMITTED
        engine = world.engines[rank]
        since = comes_late(engine)
        found = await ended(each.broadcast_parameter(*bucket("b")) for each in cluster.strategies)
        assert isinstance(found[rank], EngineError)
        assert "Restart the engine" in str(found[rank])
        assert RUN not in engine.paths()[since:]

    story(roll, reach, act, colocated=True)
