"""What a worker objected to stands in the way until that very worker has made it good."""

import asyncio

import pytest

from sglang_operator.client import EngineError, NotReady
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster
from tests.unit.client.test_roll_sharing import ended, served

PAUSE, WRITE = "/pause_generation", "/update_weights_from_distributed"


def bucket(name):
    return [name], ["torch.bfloat16"], [(2,)], "g"


def once(engine, path, said):
    """The engine refuses this one time."""
    engine.refuse[path] = (500, said)


def story(roll, reach, act):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await act(world, cluster, world.engines[1], cluster.strategies[1])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


async def others(cluster, name):
    await asyncio.gather(
        *(each.broadcast_parameter(*bucket(name)) for each in cluster.strategies[::2])
    )


def test_an_engine_that_could_not_be_paused_is_written_after_all(roll, reach):
    async def act(world, cluster, engine, worker):
        once(engine, PAUSE, "busy")
        writing = asyncio.create_task(others(cluster, "a"))
        with pytest.raises(EngineError, match="busy"):
            await worker.broadcast_parameter(*bucket("a"))
        await writing
        assert "busy" in world.state.message
        engine.refuse.clear()
        await worker.broadcast_parameter(*bucket("a"))
        assert world.state.message == ""
        await cluster.all("process_weights_after_loading")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_another_bucket_does_not_make_good_the_one_that_never_began(roll, reach, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.shared.VOUCH_SECONDS", 2.0)

    async def act(world, cluster, engine, worker):
        once(engine, PAUSE, "busy")
        writing = asyncio.create_task(others(cluster, "a"))
        with pytest.raises(EngineError, match="busy"):
            await worker.broadcast_parameter(*bucket("a"))
        await writing
        engine.refuse.clear()
        await cluster.all("broadcast_parameter", *bucket("b"))
        assert "busy" in world.state.message
        calls = (each.process_weights_after_loading() for each in cluster.strategies)
        found = await ended(calls)
        assert isinstance(found[0], NotReady)
        assert world.state.phase is Phase.ABORTED

    story(roll, reach, act)


def test_of_two_objections_of_its_own_a_worker_retracts_the_one_that_stands(roll, reach):
    async def act(world, cluster, engine, worker):
        once(engine, WRITE, "the first")
        writing = asyncio.create_task(others(cluster, "a"))
        with pytest.raises(EngineError, match="the first"):
            await worker.broadcast_parameter(*bucket("a"))
        await writing
        once(engine, WRITE, "the second")
        with pytest.raises(EngineError, match="the second"):
            await worker.broadcast_parameter(*bucket("a"))
        engine.refuse.clear()
        await worker.broadcast_parameter(*bucket("a"))
        assert world.state.message == ""
        await cluster.all("process_weights_after_loading")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_what_failed_in_an_update_that_is_over_is_in_nobodys_way(roll, reach, monkeypatch):

    async def act(world, cluster, engine, worker):
        with monkeypatch.context() as hasty:
            hasty.setattr("sglang_operator.client.following.FOLLOW_SECONDS", 0.3)
            with pytest.raises(NotReady, match="worker 0 has not done its part"):
                await worker.broadcast_parameter(*bucket("never"))
        await worker.process_weights_after_loading()
        await cluster.model_update("a")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)
