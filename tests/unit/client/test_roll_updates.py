"""ROLL's pipeline goes on with engines that are not those of its process groups any more."""

import asyncio
import pickle
import sys
import threading
import types

import pytest

from sglang_operator.client import EngineError, Held, NotReady, StaleEpoch
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster
from tests.unit.client.test_roll_sharing import served

updates = pytest.importorskip("sglang_operator.client.roll_updates")
WRITE = "/update_weights_from_distributed"


class Loop:
    """Where the actors live; Ray as the pipeline's process calls it."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.released = 0

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def get(self, refs):
        return [each.result(30) for each in refs] if isinstance(refs, list) else refs.result(30)

    def wait(self, refs, num_returns, timeout):
        return refs, []

    def actor(self, target):
        return Actor(self, target)


class Actor:
    def __init__(self, ray, target):
        self._ray, self._target = ray, target

    def __getattr__(self, name):
        method = getattr(self._target, name)
        return types.SimpleNamespace(remote=lambda *a, **o: self._ray.call(method(*a, **o)))


class Trainer:
    """A worker of actor_train, as fsdp2/model_update.py makes it act."""

    def __init__(self, buckets):
        self.buckets = buckets
        self.groups = {}
        self.step = 0
        self.during = None  # what happens between two buckets

    async def setup_model_update(self, infer_cluster, model_update_name):
        assert model_update_name not in self.groups  # as ROLL's strategies assert
        name = f"{model_update_name}_fsdp2"
        self.groups[model_update_name] = (infer_cluster, name)
        joining = (
            worker.setup_collective_group.remote("10.0.0.1", 29500, 1 + 2 * i, 7, name)
            for i, worker in enumerate(infer_cluster.workers)
        )
        await all_of(joining)

    async def start_model_update(self, model_update_name):
        cluster, name = self.groups[model_update_name]
        self.step += 1
        for bucket in range(self.buckets):
            if bucket and self.during:
                happens, self.during = self.during, None
                await asyncio.to_thread(happens)
            said = [f"s{self.step}b{bucket}"], ["torch.bfloat16"], [(2,)], name
            await all_of(worker.broadcast_parameter.remote(*said) for worker in cluster.workers)


async def all_of(futures):
    waited = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    for each in waited:
        if isinstance(each, BaseException):
            raise each


class Group:
    """ModelUpdateGroup, and BasePipeline.model_update around it."""

    def __init__(self, ray, trainer, strategies):
        self.ray, self.frequency = ray, 1
        self.src_cluster = types.SimpleNamespace(workers=[ray.actor(trainer)])
        self.tgt_cluster = types.SimpleNamespace(workers=list(map(ray.actor, strategies)))
        self.model_update_name = "model_update/actor_train_2_actor_infer"
        for worker in self.src_cluster.workers:
            ray.get(worker.setup_model_update.remote(self.tgt_cluster, self.model_update_name))

    def plain(self, step=None):
        name = self.model_update_name
        self.ray.get([w.start_model_update.remote(name) for w in self.src_cluster.workers])
        return {"step": step}

    def run(self, step):
        found = updates.mending(Group.plain)(self, step)
        after = "process_weights_after_loading"
        self.ray.get([getattr(w, after).remote() for w in self.tgt_cluster.workers])
        return found


@pytest.fixture
def pipeline(roll, reach, monkeypatch):
    """A pipeline on a world of three engines."""
    ray = Loop()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with FakePool() as world:
        reach(world)
        made = []

        async def start():
            cluster = await Cluster(roll, 3).__aenter__()
            made.append(cluster)
            return cluster.strategies

        trainer = Trainer(buckets=2)
        group = Group(ray, trainer, ray.get(ray.call(start())))
        yield world, group, trainer
        ray.get([ray.call(each._follower.leave()) for each in made[0].strategies])
        ray.get(ray.call(made[0].__aexit__()))
    ray.close()


def paths(engine):
    return [path for path in engine.paths() if "group" in path]


def test_an_engine_that_restarted_between_updates_is_in_the_next_one(pipeline):
    world, group, _ = pipeline
    group.run(1)
    world.restart(1)
    assert group.run(2) == {"step": 2}
    assert served(world, "step-2") == [0, 1, 2]
    assert {engine.weights for engine in world.engines} == {"s2b1"}
    assert "/init_weights_update_group" in paths(world.engines[1])
    name = "model_update/actor_train_2_actor_infer"
    left = [body["group_name"] for path, body in world.engines[0].asked if "destroy" in path]
    assert f"{name}_fsdp2" in left[1:], "the old group"
    assert group.model_update_name == f"{name}_again1"
    world.restart(2)
    group.run(3)
    assert group.model_update_name == f"{name}_again2"
    assert served(world, "step-3") == [0, 1, 2]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_update_over_which_an_engine_restarts_is_run_once_more(pipeline, rank):
    world, group, trainer = pipeline
    group.run(1)
    trainer.during = lambda: world.restart(rank)
    group.run(2)
    assert served(world, "step-2") == [0, 1, 2]
    assert {engine.weights for engine in world.engines} == {"s3b1"}, "whole, from the second try"


def test_an_update_is_run_once_more_where_the_trainer_is_the_first_to_see_that_an_engine_ended(
    pipeline,
):
    """Its broadcast fails before it looks at what the workers say (megatron/model_update.py)."""
    world, group, trainer = pipeline
    group.run(1)

    def broken():
        world.restart(1)
        raise RuntimeError("Connection closed by peer")

    trainer.during = broken
    group.run(2)
    assert served(world, "step-2") == [0, 1, 2]
    assert {engine.weights for engine in world.engines} == {"s3b1"}


def test_a_trainers_error_of_its_own_stays_one(pipeline, monkeypatch):
    monkeypatch.setattr(updates, "_NOTICE_SECONDS", 0.1)
    _, group, trainer = pipeline
    group.run(1)

    def broken():
        raise RuntimeError("out of memory")

    trainer.during = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        group.run(2)
    assert trainer.step == 2, "it was not run again"


def test_what_does_not_mend_is_an_error_after_the_second_try(pipeline):
    world, group, trainer = pipeline
    group.run(1)
    world.engines[0].refuse[WRITE] = (400, "shape mismatch")
    with pytest.raises(EngineError, match="shape mismatch"):
        group.run(2)
    assert trainer.step == 3
    assert not served(world, "step-2")


def test_engines_that_are_the_same_cost_one_look(pipeline):
    world, group, _ = pipeline
    group.run(1)
    before = [len(paths(engine)) for engine in world.engines]
    group.run(2)
    assert [len(paths(engine)) for engine in world.engines] == before
    assert group.model_update_name == "model_update/actor_train_2_actor_infer"


def test_other_workers_than_ours_are_left_alone(pipeline):
    _, group, _ = pipeline
    group.tgt_cluster.workers = [types.SimpleNamespace()]
    assert updates.mending(lambda group, step: {"plain": step})(group, 7) == {"plain": 7}


class Handed(Exception):
    """An error as Ray hands it on."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


def test_an_error_is_known_through_two_processes():
    stale = StaleEpoch("engine 1 restarted")
    assert updates._cause(Handed(Handed(stale))) is stale
    assert updates._cause(Handed(ValueError("other"))).args == ("other",)


@pytest.mark.parametrize(
    "error",
    [
        EngineError(rank=1, url="http://10.0.0.1", path="/x", status=400, said="no", sent=False),
        Held("by b", holder="b", since=1.0, until=2.0, recovering=True),
        NotReady("not yet"),
    ],
)
def test_errors_go_from_process_to_process(error):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))
