"""What a worker objected to stands in the way until that very worker has made it good."""

import asyncio

import pytest

from sglang_operator.client import ClusterError, EngineError, NotReady, StaleEpoch, Unsupported
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
        with pytest.raises(NotReady, match="worker 0 has not done its part"):
            await worker.process_weights_after_loading()
        await cluster.model_update("a")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


# --- a bucket counts from when the trainer asks for it


async def in_the_way(world, cluster, why):
    """Everybody gets bucket b, and nothing is committed: somebody did not get bucket a."""
    await cluster.all("broadcast_parameter", *bucket("b"))
    found = await ended(each.process_weights_after_loading() for each in cluster.strategies)
    assert why in str(found[0])
    assert world.state.phase is Phase.ABORTED
    assert served(world, "step-1") == []


async def lost(task):
    task.cancel()
    assert [type(each) for each in await asyncio.gather(task, return_exceptions=True)] == [
        asyncio.CancelledError
    ]


@pytest.mark.parametrize("again", [False, True])
def test_a_bucket_that_was_cancelled_before_the_leader_began_is_in_the_way(roll, reach, again):
    async def act(world, cluster, engine, worker):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.broadcast_parameter(*bucket("a")), 0.2)
        if again:
            await cluster.model_update("a", "b")
            assert served(world, "step-1") == [0, 1, 2]
            return
        await others(cluster, "a")
        await in_the_way(world, cluster, "was cancelled")

    story(roll, reach, act)


def test_a_bucket_that_was_cancelled_while_its_engine_was_paused_is_in_the_way(roll, reach):
    async def act(world, cluster, engine, worker):
        engine.stuck.add(PAUSE)
        writing = asyncio.create_task(others(cluster, "a"))
        task = asyncio.create_task(worker.broadcast_parameter(*bucket("a")))
        while not engine.held:
            await asyncio.sleep(0.01)
        await lost(task)
        engine.stuck.clear()
        await writing
        await in_the_way(world, cluster, "was cancelled")

    story(roll, reach, act)


def test_a_bucket_that_was_cancelled_while_worker_0_began_for_another_is_in_the_way(roll, reach):
    async def act(world, cluster, engine, worker):
        leader, own = cluster.strategies[0], world.engines[0]
        own.stuck.add(PAUSE)
        begins = asyncio.create_task(leader.broadcast_parameter(*bucket("b")))
        while not own.held:
            await asyncio.sleep(0.01)
        waits = asyncio.create_task(leader.broadcast_parameter(*bucket("a")))
        await asyncio.sleep(0.05)
        await lost(waits)
        own.stuck.clear()
        for each in cluster.strategies[1:]:
            await each.broadcast_parameter(*bucket("a"))
        await begins
        await in_the_way(world, cluster, "was cancelled")

    story(roll, reach, act)


@pytest.mark.parametrize("who", [0, 1])
def test_a_bucket_that_was_cancelled_before_its_first_step_is_in_the_way(roll, reach, who):
    async def act(world, cluster, _, __):
        await cluster.all("broadcast_parameter", *bucket("c"))
        tasks = [
            asyncio.create_task(each.broadcast_parameter(*bucket("a")))
            for each in cluster.strategies
        ]
        tasks[who].cancel()
        found = await ended(tasks)
        assert isinstance(found[who], asyncio.CancelledError)
        await in_the_way(world, cluster, "was cancelled")

    story(roll, reach, act)


@pytest.mark.parametrize("who", [0, 1])
def test_the_end_of_an_update_that_was_cancelled_before_its_first_step_ends_it(roll, reach, who):
    async def act(world, cluster, _, __):
        await cluster.all("broadcast_parameter", *bucket("a"))
        tasks = [
            asyncio.create_task(each.process_weights_after_loading()) for each in cluster.strategies
        ]
        tasks[who].cancel()
        found = await ended(tasks)
        assert isinstance(found[who], asyncio.CancelledError)
        assert isinstance(found[0], (asyncio.CancelledError, NotReady))
        assert world.state.phase is Phase.ABORTED
        for each in cluster.strategies:
            await each.pool.fresh()
        await cluster.model_update("a")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_an_engine_whose_joining_was_cancelled_before_its_first_step_gets_no_bucket(roll, reach):
    """SGLang ends over the bucket of a group that it is not in."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup(only=[0, 2])
            await lost(
                asyncio.create_task(
                    cluster.strategies[1].setup_collective_group("10.0.0.1", 29500, 3, 7, "g")
                )
            )
            found = await ended(
                each.broadcast_parameter(*bucket("a")) for each in cluster.strategies
            )
            assert isinstance(found[1], StaleEpoch)
            assert WRITE not in world.engines[1].paths()

    with FakePool() as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("who", [0, 1])
def test_a_bucket_that_failed_before_its_worker_asked_to_join_is_in_the_way(roll, reach, who):
    async def act(world, cluster, _, __):
        worker = cluster.strategies[who]

        async def silent():
            raise ClusterError("no API server")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker.pool, "registry", silent)
            patch.setattr(worker.pool, "fresh", silent)
            with pytest.raises(ClusterError):
                await worker.broadcast_parameter(*bucket("a"))
        rest = [each for each in cluster.strategies if each is not worker]
        both = [each.broadcast_parameter(*bucket("a")) for each in rest]
        await asyncio.gather(*both, *([] if who else [worker.broadcast_parameter(*bucket("b"))]))
        await in_the_way(world, cluster, "no API server")

    story(roll, reach, act)


def test_a_bucket_for_a_group_that_was_never_formed_is_in_the_way(roll, reach):
    async def act(world, cluster, engine, worker):
        writing = asyncio.create_task(others(cluster, "a"))
        with pytest.raises(StaleEpoch):
            await worker.broadcast_parameter(*bucket("a")[:3], "another")
        await writing
        await in_the_way(world, cluster, "another")

    story(roll, reach, act)


def test_a_bucket_by_handle_that_is_refused_is_in_the_way(roll, reach):
    async def act(world, cluster, engine, worker):
        with pytest.raises(Unsupported):
            await worker.update_parameter_in_bucket(["x"])
        await in_the_way(world, cluster, "Unsupported")

    story(roll, reach, act)


@pytest.mark.parametrize("again", [False, True])
def test_what_worker_0_could_not_write_is_in_the_way_of_its_next_sync(roll, reach, again):
    async def act(world, cluster, _, __):
        once(world.engines[0], PAUSE, "busy")
        found = await ended(each.broadcast_parameter(*bucket("a")) for each in cluster.strategies)
        assert isinstance(found[0], EngineError)
        world.engines[0].refuse.clear()
        if again:
            await cluster.model_update("a", "b")
            assert served(world, "step-1") == [0, 1, 2]
        else:
            await in_the_way(world, cluster, "busy")

    story(roll, reach, act)


@pytest.mark.parametrize("again", [False, True])
def test_what_was_written_before_an_abort_is_written_again_or_in_the_way(roll, reach, again):
    """Others may have had the engines meanwhile."""

    async def act(world, cluster, _, __):
        await cluster.all("broadcast_parameter", *bucket("a"))
        once(world.engines[0], WRITE, "no memory")
        with pytest.raises(EngineError):
            await cluster.strategies[0].broadcast_parameter(*bucket("b"))
        world.engines[0].refuse.clear()
        for each in cluster.strategies:
            await each.pool.fresh()
        if again:
            await cluster.model_update("a", "b")
            assert served(world, "step-1") == [0, 1, 2]
        else:
            await in_the_way(world, cluster, "in a sync that is over")

    story(roll, reach, act)


def test_an_update_of_which_nothing_began_does_not_end_well(roll, reach):
    async def act(world, cluster, _, __):
        for each in cluster.strategies:
            with pytest.raises(StaleEpoch):
                await each.broadcast_parameter(*bucket("a")[:3], "another")
        found = await ended(each.process_weights_after_loading() for each in cluster.strategies)
        assert [type(each) for each in found] == [StaleEpoch] * 3
        await cluster.model_update("a")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_an_update_does_not_end_before_what_was_asked_for_has_joined(roll, reach):
    async def act(world, cluster, _, __):
        early = [
            asyncio.create_task(each.broadcast_parameter(*bucket("a")))
            for each in cluster.strategies
        ]
        await cluster.all("process_weights_after_loading")
        await asyncio.gather(*early)
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_nothing_of_an_attempt_that_was_given_up_is_in_the_way_of_the_next(roll, reach):
    async def act(world, cluster, engine, worker):
        once(world.engines[0], PAUSE, "busy")
        found = await ended(each.broadcast_parameter(*bucket("a")) for each in cluster.strategies)
        assert isinstance(found[0], EngineError)
        world.engines[0].refuse.clear()
        await cluster.all("leave_groups")
        with pytest.raises(StaleEpoch):  # it comes late
            await worker.broadcast_parameter(*bucket("a"))
        await cluster.setup("again")
        await cluster.all("broadcast_parameter", *bucket("b")[:3], "again")
        await cluster.all("process_weights_after_loading")
        assert served(world, "step-1") == [0, 1, 2]

    story(roll, reach, act)


def test_a_bucket_that_comes_while_its_worker_vouches_is_in_the_way(roll, reach, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.following.STAGGER_SECONDS", 0.3)

    async def act(world, cluster, engine, worker):
        await cluster.all("broadcast_parameter", *bucket("a"))

        async def late():
            await asyncio.sleep(0.15)
            await worker.broadcast_parameter(*bucket("b"))

        found = await ended(
            [late(), *(each.process_weights_after_loading() for each in cluster.strategies)]
        )
        assert "was not sent" in str(found[0])
        assert "was not sent" in str(found[1])
        assert isinstance(found[2], NotReady)
        assert world.state.phase is Phase.ABORTED
        assert served(world, "step-1") == []

    story(roll, reach, act)
