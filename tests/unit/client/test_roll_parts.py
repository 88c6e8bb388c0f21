"""ROLL's partial_gpu_mode: some engines sleep while the trainer has their GPUs, others serve."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator.client import NotReady, Unsupported, following
from sglang_operator.client.following import Follower
from sglang_operator.client.sleeping import Sleeper
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import ANSWER, Cluster
from tests.unit.client.test_roll_stand_in import worker_class

assert worker_class  # a fixture
LOGPROBS: dict[str, Any] = {"return_logprob": True}


def trained(story, reach, *, engines=4, roll=None, **more):
    async def live(world):
        async with Cluster(roll, engines, colocated=True) as cluster:
            for each in cluster.strategies:
                vars(each.worker.pipeline_config).update(more)
            await cluster.setup()
            await cluster.model_update("a1")
            await story(world, cluster)

    with FakePool(engines) as world:
        for engine in world.engines:
            engine.strict = True
        asyncio.run(live(reach(world)))


def gates(world):
    return [engine.gate for engine in world.engines]


@pytest.mark.parametrize("ranks", [[0, 1], [2, 3], [1], [3]])
def test_a_step_of_the_agentic_pipeline(roll, reach, ranks):
    """Shrink to train, then an update of all, and the router has all again (skip_load)."""

    async def story(world, cluster):
        for step in range(2, 5):
            await cluster.all("offload_part", ranks)
            assert [bool(e.released) for e in world.engines] == [rank in ranks for rank in range(4)]
            assert gates(world) == ["Closed" if rank in ranks else "Open" for rank in range(4)]
            serving = [each for rank, each in enumerate(cluster.strategies) if rank not in ranks]
            payload = {"input_ids": [1], "sampling_params": {"n": 1}, "rid": "r"} | LOGPROBS
            answers = [await each.generate_request(payload) for each in serving]
            assert answers == [ANSWER] * len(serving)
            await cluster.all("offload_states", include="OffloadStateType.other_params")
            await cluster.model_update(f"a{step}", f"b{step}")
            assert gates(world) == ["Open"] * 4
            assert {(e.weights, e.label) for e in world.engines} == {(f"b{step}", f"step-{step}")}
            assert await cluster.generate() == [ANSWER] * 4

    trained(story, reach, roll=roll)


def test_the_workers_of_the_others_go_on_while_those_sleep(roll, reach):
    async def story(world, cluster):
        world.engines[1].stuck.add("/release_memory_occupation")
        shrinks = [asyncio.create_task(each.offload_part([1])) for each in cluster.strategies]
        await asyncio.wait_for(asyncio.gather(shrinks[2], shrinks[3]), 5)
        assert not shrinks[1].done()
        while not world.engines[1].held:
            await asyncio.sleep(0.01)
        assert not shrinks[1].done(), "its memory is not free yet"
        world.engines[1].stuck.clear()
        await asyncio.gather(*shrinks)

    trained(story, reach, roll=roll)


def test_expand_wakes_the_part_alone_where_the_weights_were_kept(roll, reach):
    async def story(world, cluster):
        await cluster.all("offload_part", [2, 3])
        assert [sorted(e.released) for e in world.engines[2:]] == [["kv_cache"]] * 2
        await cluster.all("load_part", [2, 3])
        assert gates(world) == ["Open"] * 4
        assert world.state.phase is Phase.COMMITTED
        assert await cluster.generate() == [ANSWER] * 4
        assert all(each.is_model_in_gpu for each in cluster.strategies)

    every_second = SimpleNamespace(model_update_frequency=2)
    trained(story, reach, roll=roll, actor_train=every_second)


def test_an_engine_that_gave_up_its_weights_leaves_its_requests_to_the_others(roll, reach):
    """Expanded without an update it is paused, and keeps what it is asked."""

    async def story(world, cluster):
        await cluster.all("offload_part", [2, 3])
        assert [sorted(e.released) for e in world.engines[2:]] == [["kv_cache", "weights"]] * 2
        await cluster.all("load_part", [2, 3])
        assert gates(world) == ["Open", "Open", "Closed", "Closed"]
        for engine in world.engines:
            engine.asked.clear()
            if engine.paused:
                engine.stuck.add("/generate")
        payload = {"input_ids": [1], "sampling_params": {"n": 1}, "rid": "r"} | LOGPROBS
        own = (each.generate_request(payload) for each in cluster.strategies[2:])
        assert await asyncio.wait_for(asyncio.gather(*own), 5) == [ANSWER] * 2
        asked = [[path for path, _ in e.asked if path == "/generate"] for e in world.engines]
        assert [len(each) for each in asked] in ([1, 1, 0, 0], [2, 0, 0, 0], [0, 2, 0, 0])
        await cluster.model_update("a2", "b2")
        for engine in world.engines:
            engine.stuck.clear()
            engine.asked.clear()
        assert await cluster.strategies[2].generate_request(payload) == ANSWER
        assert "/generate" in [path for path, _ in world.engines[2].asked], "its own again"

    trained(story, reach, roll=roll)


def test_a_step_without_an_update_wakes_the_part_where_roll_loads_all(roll, reach):
    """Also where worker 0's own engine does not sleep."""

    async def story(world, cluster):
        await cluster.all("offload_part", [2])
        await cluster.model_update()
        assert gates(world) == ["Open"] * 4
        assert not any(engine.released for engine in world.engines)

    trained(story, reach, roll=roll, actor_train=SimpleNamespace(model_update_frequency=2))


@pytest.mark.parametrize("ranks", [[0], [1]])
def test_the_others_sleep_too_where_roll_offloads_all(roll, reach, ranks):
    """Also where worker 0's own engine sleeps; the others' workers wait until it is done."""

    async def story(world, cluster):
        await cluster.all("offload_part", ranks)
        await cluster.all("offload_states")
        assert all(engine.released for engine in world.engines)
        assert not any(each.is_model_in_gpu for each in cluster.strategies)
        await cluster.all("load_states")
        assert not any(engine.released for engine in world.engines)
        assert all(each.is_model_in_gpu for each in cluster.strategies)

    trained(story, reach, roll=roll)


def test_the_rest_wakes_where_roll_loads_all_after_a_part(roll, reach):
    async def story(world, cluster):
        await cluster.all("offload_states")
        await cluster.all("load_part", [0, 1])
        assert [bool(engine.released) for engine in world.engines] == [False, False, True, True]
        await asyncio.wait_for(cluster.all("load_states"), 20)
        assert not any(engine.released for engine in world.engines)

    trained(story, reach, roll=roll)


def test_an_engine_that_restarted_in_the_rollout_sleeps_with_its_part(roll, reach, monkeypatch):
    monkeypatch.setattr(following, "FOLLOW_SECONDS", 1.0)

    async def story(world, cluster):
        await asyncio.to_thread(world.restart, 1)
        await cluster.all("offload_part", [0, 1])
        assert [bool(engine.released) for engine in world.engines] == [True, True, False, False]

    trained(story, reach, roll=roll)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_the_part_that_has_no_process_keeps_no_worker_waiting(roll, reach, rank):
    async def story(world, cluster):
        world.engines[rank].state, world.engines[rank].instance = "Pending", ""
        await asyncio.to_thread(world.call, world.publish)
        await asyncio.wait_for(cluster.all("offload_part", [0, 1]), 20)
        assert [bool(e.released) for e in world.engines[:2]] == [rank == 1, rank == 0]

    trained(story, reach, roll=roll)


def test_one_of_the_part_that_restarts_while_another_loads_keeps_no_worker_waiting(
    roll, reach, monkeypatch
):
    """Worker 0 waits for the one that loads its model, and puts to sleep who is there by then."""
    waits, until = [], Follower.until

    async def waited(follower, *of, **more):
        waits.append(follower)
        return await until(follower, *of, **more)

    monkeypatch.setattr(Follower, "until", waited)

    async def story(world, cluster):
        before, second = world.engines[1].instance, world.engines[2]
        waits.clear()
        second.state, second.dead = "Starting", True
        await asyncio.to_thread(world.call, world.publish)
        shrinks = [asyncio.create_task(e.offload_part([1, 2])) for e in cluster.strategies]
        await asyncio.wait_for(asyncio.gather(shrinks[3]), 5)
        while len(set(waits)) < 2:  # workers 1 and 2 have looked who has their ranks
            await asyncio.sleep(0.01)
        await asyncio.to_thread(world.restart, 1)
        assert world.engines[1].instance != before
        assert not any(each.done() for each in shrinks[:3])
        second.state, second.dead = "Up", False
        await asyncio.to_thread(world.call, world.publish)
        await asyncio.wait_for(asyncio.gather(*shrinks), 20)
        assert [bool(e.released) for e in world.engines] == [False, True, True, False]
        await asyncio.wait_for(cluster.all("load_part", [1, 2]), 20)
        assert not any(engine.released for engine in world.engines)

    trained(story, reach, roll=roll)


@pytest.mark.parametrize("again", ["load_part", "load_states"])
def test_a_part_that_ended_before_it_slept_is_awake_where_roll_expands(
    roll, reach, monkeypatch, again
):
    """The Lease says Sleeping of nobody, and is held: no gate of that part would open."""
    closed = Sleeper._closed

    async def story(world, cluster):
        async def ends(sleeper, *of, **more):
            world.engines[1].dead, world.engines[1].state = True, "Pending"
            world.engines[1].instance = ""
            await asyncio.to_thread(world.call, world.publish)
            while (await sleeper._pool.registry()).engines[1].instance:
                await asyncio.sleep(0.01)  # the worker is told of it
            return await closed(sleeper, *of, **more)

        with monkeypatch.context() as patched:
            patched.setattr(Sleeper, "_closed", ends)
            await asyncio.wait_for(cluster.all("offload_part", [1]), 20)
        assert (world.state.phase, world.state.released) == (Phase.SLEEPING, ())
        assert world.state.holder
        await asyncio.to_thread(world.restart, 1)
        ranks = ([1],) if again == "load_part" else ()
        await asyncio.wait_for(cluster.all(again, *ranks), 20)
        assert (world.state.phase, world.state.holder) == (Phase.COMMITTED, "")
        assert not world.state.apart

    trained(story, reach, roll=roll)


def test_nothing_sleeps_where_no_role_shares_gpus_with_the_engines(roll, reach):
    async def story(world, cluster):
        for each in cluster.strategies:
            each.worker.pipeline_config.is_actor_infer_colocated = False
        await cluster.all("offload_part", [0])
        assert not any(engine.released for engine in world.engines)

    trained(story, reach, roll=roll)


def test_engines_without_ids_cannot_sleep_alone(roll, reach, monkeypatch):
    def without(world, engine, entry=FakePool._entry):
        return entry(world, engine) | {"devices": []}

    async def story(world, cluster):
        monkeypatch.setattr(FakePool, "_entry", without)
        await asyncio.to_thread(world.call, world.publish)
        with pytest.raises(Unsupported, match="give the pool a device_mapping"):
            await cluster.strategies[0].offload_part([0])

    trained(story, reach, roll=roll)


def test_a_part_that_does_not_get_to_sleep_fails_for_its_worker_too(roll, reach, monkeypatch):
    async def story(world, cluster):
        monkeypatch.setattr("sglang_operator.client.roll_memory.READY_SECONDS", 0.5)
        world.engines[1].state, world.engines[1].dead = "Starting", True
        await asyncio.to_thread(world.call, world.publish)
        found = await asyncio.gather(
            *(each.offload_part([1]) for each in cluster.strategies), return_exceptions=True
        )
        assert [type(each) for each in found] == [NotReady, NotReady, type(None), type(None)]
        assert cluster.strategies[1].is_model_in_gpu

    trained(story, reach, roll=roll)


def test_rolls_worker_tells_every_strategy_which_ranks_are_meant(worker_class):
    told = []

    async def part(ranks):
        told.append(ranks)

    worker = worker_class("config")
    worker.strategy = SimpleNamespace(offload_part=part, load_part=part)
    asyncio.run(worker.offload_states_partial([2, 3]))
    asyncio.run(worker.load_states_partial([2]))
    assert told == [[2, 3], [2]]
