"""Process groups live as long as the engine's process: neither an old one nor none is met twice."""

import asyncio

import pytest

from sglang_operator.client import AsyncPool, EngineError, NotReady, StaleEpoch, Unsupported
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_roll import Cluster

JOIN, LEAVE = "/init_weights_update_group", "/destroy_weights_update_group"
WRITE = "/update_weights_from_distributed"
BUCKET = (["w"], ["bfloat16"], [[2]])


@pytest.fixture
def world():
    with FakePool() as made:
        for engine in made.engines:
            engine.groups = set()
        yield made


def run(world, train):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await train(pool)

    asyncio.run(story())


async def joined(sync, group="g"):
    await sync.init_weights_update_group(sync.nccl_plan("10.0.0.1", 29500, group_name=group))


def test_a_trainer_that_was_started_again_joins_engines_that_lived_on(world):
    async def train(pool):
        async with pool.sync("step-1") as sync:
            await joined(sync)
            await sync.update_weights_from_distributed(*BUCKET, group_name="g")

    run(world, train)
    run(world, train)
    assert {engine.gate_version for engine in world.engines} == {"step-1"}
    assert not any(engine.dead for engine in world.engines)


def test_a_trainer_that_keeps_its_group_sends_nothing_to_an_engine_that_restarted(world):
    """SGLang's scheduler asserts that it is in the group, and ends if it is not."""

    async def train(pool):
        async with pool.sync("step-1") as sync:
            await joined(sync)
            await sync.update_weights_from_distributed(*BUCKET, group_name="g")
        await asyncio.to_thread(world.restart, 1)
        world.engines[1].groups = set()
        with pytest.raises(StaleEpoch, match=r"engine 1 .* is not in the process group g"):
            async with pool.sync("step-2") as sync:
                await sync.update_weights_from_distributed(*BUCKET, group_name="g")
        assert not any(engine.dead for engine in world.engines)
        assert [engine.paths().count(WRITE) for engine in world.engines] == [1, 0, 1]
        async with pool.sync("step-2") as sync:
            await joined(sync)
            await sync.update_weights_from_distributed(*BUCKET, group_name="g")

    run(world, train)
    assert {engine.gate_version for engine in world.engines} == {"step-2"}


def test_who_does_not_look_at_that_error_commits_nothing(world):
    async def train(pool):
        async with pool.sync("step-1") as sync:
            await joined(sync)
            await sync.destroy_weights_update_group("g")
            with pytest.raises(StaleEpoch):
                await sync.update_weights_from_distributed(*BUCKET, group_name="g")

    with pytest.raises(StaleEpoch):
        run(world, train)
    assert world.state.phase is Phase.ABORTED
    assert not any(engine.dead for engine in world.engines)


def test_a_group_of_the_trainers_own_making_is_not_ours_to_judge(world):
    async def train(pool):
        async with pool.sync("step-1") as sync:
            for engine in world.engines:
                engine.groups.add("own")
            await sync.update_weights_from_distributed(*BUCKET, group_name="own")

    run(world, train)
    assert {engine.gate_version for engine in world.engines} == {"step-1"}


@pytest.mark.parametrize("answer", [(400, "The group to be destroyed does not exist."), (404, "")])
def test_that_there_is_no_group_to_leave_is_no_error(world, answer):
    world.engines[1].refuse[LEAVE] = answer

    async def train(pool):
        async with pool.sync("step-1") as sync:
            await joined(sync)

    run(world, train)
    assert all("g" in engine.groups for engine in world.engines)


def test_a_group_that_could_not_be_left_is_not_joined_again(world):
    world.engines[1].refuse[LEAVE] = (400, "Failed to destroy custom process group: NCCL.")

    async def train(pool):
        async with pool.sync("step-1") as sync:
            await joined(sync)

    with pytest.raises(EngineError, match="Failed to destroy"):
        run(world, train)
    assert not any(JOIN in engine.paths() for engine in world.engines)


# --- ROLL, whose groups have the same names in every job


def test_a_job_of_roll_that_was_started_again_trains_on(roll, reach, world):
    reach(world)

    async def train(address):
        async with Cluster(roll, 3, address=address) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")

    asyncio.run(train("10.0.0.1"))
    asyncio.run(train("10.0.0.2"))
    assert world.state.version == "step-2"
    assert {engine.gate_version for engine in world.engines} == {"step-2"}


def test_where_an_engine_cannot_leave_a_group_it_is_told_what_to_do(roll, reach):
    """ROLL gives both sides the name, which has to be the same: no other can be chosen here."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            with pytest.raises(Unsupported, match="kubectl sglang rollout restart"):
                await cluster.setup()
            found = await asyncio.gather(
                *(s.broadcast_parameter(*BUCKET, "g") for s in cluster.strategies[:1]),
                return_exceptions=True,
            )
            assert isinstance(found[0], StaleEpoch)
            assert not any(engine.dead for engine in world.engines)

    with FakePool(version="0.5.2") as world:
        for engine in world.engines:
            engine.groups = set()
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("late", [0, 2])
def test_a_bucket_that_is_refused_here_is_missing_in_the_commit(roll, reach, world, late):
    """Its worker has written others before: what its engine holds is half of two versions."""
    reach(world)

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *BUCKET, "g")
            wrong = (["v"], None, [[2]], "g")  # what ROLL never sends: no dtypes
            with pytest.raises(TypeError):
                await cluster.strategies[late].broadcast_parameter(*wrong)
            found = await asyncio.gather(
                *(s.process_weights_after_loading() for s in cluster.strategies),
                return_exceptions=True,
            )
            assert world.state.phase is Phase.ABORTED
            if late:
                assert isinstance(found[0], NotReady)
                assert "TypeError" in str(found[0])

    asyncio.run(train())


def test_an_engine_that_comes_between_two_buckets_is_in_the_way_of_none(roll, reach, world):
    reach(world)

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *BUCKET, "g")
            await asyncio.to_thread(world.grow)
            await cluster.strategies[2].pool.fresh()
            await cluster.all("broadcast_parameter", ["v"], *BUCKET[1:], "g")
            await cluster.all("process_weights_after_loading")
            assert {e.weights for e in world.engines[:3]} == {"v"}
            assert [e.gate for e in world.engines] == ["Open"] * 3 + ["Closed"]

    asyncio.run(train())
