"""ROLL on a pool: steps of generate, update, generate, as its workers call a strategy.

The base class is a transcription of ROLL's interface, unless ROLL itself can be imported.
"""

import asyncio
import dataclasses
import sys
from types import SimpleNamespace

import pytest

from sglang_operator.client import (
    EngineError,
    Expired,
    NotReady,
    StaleEpoch,
    Unsupported,
    following,
    sleeping,
)
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

ANSWER = {
    "output_token_ids": [[7, 8]],
    "finish_reasons": ["stop"],
    "output_logprobs": [[-0.5, -0.25]],
}


PAUSE, BEGIN = "/pause_generation", "/begin_weight_update"


class Cluster:
    """ROLL's inference workers: each call goes to all of them at once."""

    def __init__(self, roll, size, *, colocated=False, address="10.0.0.1"):
        self.strategies = [
            roll.OperatorPoolStrategy(worker(i, size, colocated, address)) for i in range(size)
        ]

    async def __aenter__(self):
        await self.all("initialize", model_provider=None)
        return self

    async def __aexit__(self, *_):
        for strategy in self.strategies:
            await strategy.pool.close()

    async def all(self, method, *arguments, **options):
        calls = (getattr(each, method)(*arguments, **options) for each in self.strategies)
        found = await asyncio.gather(*calls, return_exceptions=True)
        for each in found:  # once all have ended, and closed what they had opened
            if isinstance(each, BaseException):
                raise each
        return found

    async def setup(self, group="g", only=None):
        size = 1 + 2 * len(self.strategies)
        for rank, each in enumerate(self.strategies):
            if only is None or rank in only:
                await each.setup_collective_group("10.0.0.1", 29500, 1 + 2 * rank, size, group)

    async def model_update(self, *buckets):
        """As ROLL's MegatronWeightUpdater and BasePipeline.model_update do it."""
        for bucket in buckets:
            await self.all("broadcast_parameter", [bucket], ["torch.bfloat16"], [(2,)], "g")
        await self.all("process_weights_after_loading")
        await self.all("load_states")

    async def generate(self):
        payload = {
            "input_ids": [1, 2],
            "sampling_params": {"n": 1},
            "rid": "r",
            "return_logprob": True,
        }
        return await self.all("generate_request", payload)


def worker(rank, size, colocated, address):
    config = {"pool": POOL, "namespace": NAMESPACE, "mem_fraction_static": 0.7}
    return SimpleNamespace(
        rank=rank,
        world_size=size,
        cluster_name="actor_infer",
        master_addr=address,  # of the cluster's rank 0, as ROLL gives it to each worker
        master_port=29400,
        worker_config=SimpleNamespace(
            strategy_args=SimpleNamespace(strategy_config=config), offload_nccl=False
        ),
        pipeline_config=SimpleNamespace(is_actor_infer_colocated=colocated),
    )


def test_steps_of_update_and_generate(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            for step in range(1, 4):
                await cluster.model_update(f"a{step}", f"b{step}")
                assert world.state.version == f"step-{step}"
                assert {e.gate for e in world.engines} == {"Open"}
                assert {(e.weights, e.label) for e in world.engines} == {
                    (f"b{step}", f"step-{step}")
                }
                answers = await cluster.generate()
                assert answers[0] == ANSWER

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        groups = [
            body["rank_offset"]
            for engine in world.engines
            for path, body in engine.asked
            if path == "/init_weights_update_group"
        ]
        assert groups == [1, 3, 5]
        assert world.state.phase is Phase.COMMITTED


def test_the_engines_sleep_where_roll_offloads_them(roll, reach):
    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.model_update("a1")
            await cluster.all("offload_states")
            assert all(engine.released for engine in world.engines)
            assert {engine.gate for engine in world.engines} == {"Closed"}
            await cluster.model_update("a2")
            assert not any(engine.released for engine in world.engines)
            assert {engine.gate for engine in world.engines} == {"Open"}
            await cluster.all("offload_states", include="OffloadStateType.other_params")
            assert not any(engine.released for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_restarted_in_a_rollout_sleeps_like_the_others(roll, reach, monkeypatch):
    """Its worker waits for the pool to sleep, not for the instance that has ended."""
    monkeypatch.setattr(following, "FOLLOW_SECONDS", 1.0)

    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            await asyncio.to_thread(world.restart, 1)
            await cluster.generate()
            await cluster.all("offload_states")
            assert all(engine.released for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_one_that_loads_its_model_is_waited_for_before_the_pool_sleeps(roll, reach, monkeypatch):
    monkeypatch.setattr(following, "FOLLOW_SECONDS", 1.0)
    monkeypatch.setattr(sleeping, "ACKNOWLEDGE_SECONDS", 1.0)

    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            await asyncio.to_thread(world.restart, 1, told=False)
            world.engines[1].state, world.engines[1].dead = "Starting", True
            await asyncio.to_thread(world.call, world.publish)
            sleeping = asyncio.create_task(cluster.all("offload_states"))
            await asyncio.sleep(2.5)
            assert not sleeping.done()
            assert not any(engine.released for engine in world.engines)
            world.engines[1].state, world.engines[1].dead = "Up", False
            await asyncio.to_thread(world.call, world.publish)
            await sleeping
            assert all(engine.released for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_came_up_as_the_others_fell_asleep_sleeps_next(roll, reach):
    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            world.engines[1].stuck.add("/release_memory_occupation")
            sleeping = asyncio.create_task(cluster.all("offload_states"))
            while not world.engines[1].held:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(world.grow)
            world.engines[1].stuck.clear()
            await sleeping
            assert all(engine.released for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def every_second_step(cluster):
    """As in a file with actor_train.model_update_frequency: 2."""
    for each in cluster.strategies:
        each.worker.pipeline_config.actor_train = SimpleNamespace(model_update_frequency=2)
    return cluster


def test_a_step_without_an_update_goes_on_with_the_weights_of_the_last_one(roll, reach):
    """BasePipeline.model_update calls process_weights_after_loading in those, too."""

    async def train(world):
        async with every_second_step(Cluster(roll, 2, colocated=True)) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            await cluster.generate()
            await cluster.all("offload_states")
            assert {frozenset(engine.released) for engine in world.engines} == {
                frozenset({"kv_cache"})
            }
            await cluster.model_update()
            assert not any(engine.released or engine.paused for engine in world.engines)
            assert {(e.gate, e.weights) for e in world.engines} == {("Open", "a1")}
            assert await asyncio.wait_for(cluster.generate(), 20) == [ANSWER] * 2
            await cluster.all("offload_states")
            await cluster.model_update("a2")
            assert {(e.gate, e.weights) for e in world.engines} == {("Open", "a2")}

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


def test_steps_without_an_update_are_refused_where_every_sleep_takes_the_weights(roll, reach):
    async def attach(world):
        with pytest.raises(Unsupported, match="model_update_frequency is 2, and the pool sleeps"):
            async with every_second_step(Cluster(roll, 2, colocated=True)):
                pass

    with FakePool(engines=2, version="0.4.6") as world:
        asyncio.run(attach(reach(world)))


def test_no_worker_touches_an_engine_whose_weights_worker_0_has_not_resumed_yet(roll, reach):
    resume = "/resume_memory_occupation"

    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.model_update("a1")
            await cluster.all("offload_states")
            last = world.engines[-1]
            last.stuck.add(resume)
            asked = len(last.asked)
            updating = asyncio.create_task(cluster.model_update("a2"))
            while not last.held:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)  # for longer than a worker looks away
            touched = {path for path, _ in last.asked[asked:]}
            last.stuck.clear()
            await updating
            assert touched <= {"/pause_generation", "/abort_request"}
            assert not any(engine.dead for engine in world.engines)
            assert {(e.gate, e.weights) for e in world.engines} == {("Open", "a2")}

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_worker_that_waits_for_worker_0_to_resume_its_engine_is_told_that_it_could_not(
    roll, reach
):
    resume = "/resume_memory_occupation"

    async def train(world):
        async with Cluster(roll, 3, colocated=True) as cluster:
            await cluster.model_update("a1")
            await cluster.all("offload_states")
            last = world.engines[-1]
            last.refuse[resume] = (500, "no memory left")
            calls = (
                each.broadcast_parameter(["a2"], ["torch.bfloat16"], [(2,)], "g")
                for each in cluster.strategies
            )
            found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
            assert isinstance(found[0], EngineError)
            assert isinstance(found[-1], Expired)
            assert not any(engine.dead for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_pool_of_its_own_never_sleeps(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.all("offload_states")
            assert not world.puts

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_restart_is_told_to_set_up_again(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await asyncio.get_running_loop().run_in_executor(None, world.restart, 0)
            with pytest.raises(StaleEpoch, match="set the model update up again"):
                await cluster.strategies[0].broadcast_parameter(["a"], ["bf16"], [(2,)], "g")
            await cluster.setup()
            await cluster.model_update("a")
            assert world.state.version == "step-1"

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_bucket_that_fails_aborts(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            world.engines[0].refuse["/update_weights_from_distributed"] = (400, "no such group")
            with pytest.raises(EngineError, match="no such group"):
                await cluster.strategies[0].broadcast_parameter(["a"], ["bf16"], [(2,)], "g")
            assert world.state.phase is Phase.ABORTED
            world.engines[0].refuse.clear()
            await cluster.model_update("a")
            assert world.state.version == "step-1"

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_no_more_workers_than_engines(roll, reach):
    """Process groups of ROLL's have a place for each worker, which nobody would take."""

    async def attach(world):
        with pytest.raises(NotReady, match="3 inference workers, the pool has 2 engines"):
            async with Cluster(roll, 3):
                pass

    with FakePool(engines=2) as world:
        asyncio.run(attach(reach(world)))


def test_no_worker_that_attached_asks_for_a_gpu(roll, reach, monkeypatch):
    """ROLL's InferWorker and its judges call this next, and without a GPU it is None."""
    platform = SimpleNamespace(init=None)
    platforms = SimpleNamespace(current_platform=platform)
    monkeypatch.setitem(sys.modules, "roll.platforms", platforms)

    async def attach():
        async with Cluster(roll, 3):
            platform.init()

    with FakePool() as world:
        reach(world)
        asyncio.run(attach())


def test_judges_share_the_engines_of_a_pool_that_loads_its_own_weights(roll, reach):
    async def attach(world):
        for engine in world.engines:
            engine.gate = None
        judges = Cluster(roll, 3)
        for each in judges.strategies:
            each.worker.cluster_name = "reward-llm_judge"
        async with judges:  # no weights are written into theirs
            assert [each.engine.rank for each in judges.strategies] == [0, 1, 0]
            assert await judges.generate() == [ANSWER] * 3

    with FakePool(engines=2, gate="Off") as world:
        asyncio.run(attach(reach(world)))


def test_a_job_of_fewer_workers_than_engines_leaves_the_others_closed(roll, reach):
    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            assert [engine.gate for engine in world.engines] == ["Open", "Open", "Closed"]
            assert world.engines[2].weights == "random"
            assert not world.engines[2].asked

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_each_worker_opens_the_session_of_its_own_engine_once_that_is_paused(roll, reach):
    """SGLang changes the form of some weights as it opens one: nothing may be answered then."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            first, *others = cluster.strategies
            bucket = (["a1"], ["bf16"], [(2,)], "g")
            await first.broadcast_parameter(*bucket)
            assert [engine.session for engine in world.engines] == [True, True, False]
            await asyncio.gather(*(each.broadcast_parameter(*bucket) for each in others))
            assert all(engine.session for engine in world.engines)
            for engine in world.engines:
                order = [path for path in engine.paths() if path in (PAUSE, BEGIN)]
                assert order[0] == PAUSE and order[-1] == BEGIN
            await cluster.all("process_weights_after_loading")
            assert not any(engine.session for engine in world.engines)
            assert {(e.weights, e.gate) for e in world.engines} == {("a1", "Open")}

    with FakePool(version="0.5.23") as world:
        for engine in world.engines:
            engine.sessions = True
        world.engines[1].session = True  # a sync that was torn has left it open
        asyncio.run(train(reach(world)))


def test_no_worker_writes_once_worker_0_does_not_renew(roll, reach, monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            bucket = (["a1"], ["bf16"], [(2,)], "g")
            await cluster.all("broadcast_parameter", *bucket)
            await cluster.all("broadcast_parameter", *bucket)
            monkeypatch.setattr(following, "LEASE_SECONDS", 1)
            await asyncio.sleep(0.8)  # worker 0 renews every ten seconds
            sent = [len(engine.asked) for engine in world.engines]
            with pytest.raises(Expired, match="worker 0 keeps it, and may have ended"):
                await cluster.strategies[1].broadcast_parameter(*bucket)
            assert [len(engine.asked) for engine in world.engines] == sent

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_follower_that_stood_still_writes_nothing_into_another_trainers_update(roll, reach):
    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            bucket = (["a1"], ["torch.bfloat16"], [(2,)], "g")
            await cluster.all("broadcast_parameter", *bucket)
            follower = cluster.strategies[1]
            real = follower.pool.calls._ask

            async def late(*arguments):
                begun = dataclasses.replace(world.state, id="another", holder="trainer-b")
                await asyncio.to_thread(world.write_lease, begun)
                await follower.pool.transaction()  # as the look at the Lease does
                return await real(*arguments)

            follower.pool.calls._ask = late
            with pytest.raises(Expired):
                await follower.broadcast_parameter(["b1"], *bucket[1:])

    with FakePool(engines=2) as world:
        reach(world)
        asyncio.run(train(world))
        assert world.engines[1].weights == "a1"
