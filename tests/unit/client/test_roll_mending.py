"""ROLL's model update is mended: what is left of the try that failed spoils nothing."""

import asyncio
import concurrent.futures
import sys
import threading
import time
import types

import pytest

from sglang_operator.client import EngineError, Expired, NotReady, StaleEpoch, roll_groups
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import FakePool, other
from tests.unit.client.test_roll import Cluster
from tests.unit.client.test_roll_sharing import served
from tests.unit.client.test_roll_updates import Group, Loop, all_of, updates

INIT = "/init_weights_update_group"
WRITE = "/update_weights_from_distributed"


class Ray(Loop):
    """Ray with ROLL's lock, which knows who has it and whether somebody else took it away."""

    def __init__(self):
        super().__init__()
        self.holder = None
        self.at_work = set()  # stages that have the lock rightfully
        self.taken = []  # from whom it was taken

    def wait(self, refs, num_returns, timeout):
        done, left = concurrent.futures.wait(refs, timeout)
        return list(done), list(left)

    def get_actor(self, name, namespace):
        assert (name, namespace) == ("model_update_locker", "roll")
        remote = lambda: self.call(self.release())  # noqa: E731
        return types.SimpleNamespace(release=types.SimpleNamespace(remote=remote))

    async def acquire(self, stage):
        while self.holder is not None:
            await asyncio.sleep(0.02)
        self.holder = stage
        self.at_work.add(stage)

    async def release(self):
        assert self.holder is not None  # as ROLL's Locker asserts
        self.taken += [stage.number for stage in self.at_work]
        self.holder = None


class Stage:
    """A worker of a stage, as megatron/model_update.py makes it act: one call at a time."""

    def __init__(self, ray, number):
        self.ray, self.number = ray, number
        self.groups = {}
        self.step = 0
        self.serial = asyncio.Lock()
        self.before = None  # what happens before it waits for the lock
        self.during = None  # and once it has it

    async def setup_model_update(self, infer_cluster, model_update_name):
        async with self.serial:
            assert model_update_name not in self.groups
            name = f"{model_update_name}_pp{self.number}_ep0"
            self.groups[model_update_name] = (infer_cluster, name)
            await all_of(
                worker.setup_collective_group.remote("10.0.0.1", 29500, 1 + 2 * i, 7, name)
                for i, worker in enumerate(infer_cluster.workers)
            )

    async def start_model_update(self, model_update_name):
        async with self.serial:
            self.step += 1
            cluster, name = self.groups[model_update_name]
            happens, self.before = self.before, None
            if happens:
                await asyncio.to_thread(happens)
            await self.ray.acquire(self)
            try:
                happens, self.during = self.during, None
                if happens:
                    await asyncio.to_thread(happens)
                said = [f"s{self.step}p{self.number}"], ["torch.bfloat16"], [(2,)], name
                await all_of(worker.broadcast_parameter.remote(*said) for worker in cluster.workers)
            finally:
                self.ray.at_work.discard(self)
            await self.ray.release()  # not reached by one that fails


class Stages(Group):
    """A ModelUpdateGroup over a trainer with several stages."""

    def __init__(self, ray, stages, strategies):
        super().__init__(ray, stages[0], strategies)
        self.strategies = strategies
        self.src_cluster.workers = [ray.actor(each) for each in stages]
        for worker in self.src_cluster.workers[1:]:
            ray.get(worker.setup_model_update.remote(self.tgt_cluster, self.model_update_name))


@pytest.fixture
def staged(roll, reach, monkeypatch):
    """A pipeline whose trainer has two stages, on a world of three engines that mind groups."""
    ray = Ray()
    constants = types.ModuleType("roll.utils.constants")
    vars(constants)["RAY_NAMESPACE"] = "roll"
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "roll.utils", types.ModuleType("roll.utils"))
    monkeypatch.setitem(sys.modules, "roll.utils.constants", constants)
    with FakePool() as world:
        for engine in world.engines:
            engine.groups = set()
        reach(world)
        made = []

        async def start():
            made.append(await Cluster(roll, 3).__aenter__())
            return made[0].strategies

        strategies = ray.get(ray.call(start()))
        stages = [Stage(ray, 0), Stage(ray, 1)]
        yield world, Stages(ray, stages, strategies), stages
        ray.get([ray.call(each._follower.leave()) for each in strategies])
        ray.get(ray.call(made[0].__aexit__()))
    ray.close()


def restarts(world, rank):
    world.restart(rank)
    world.engines[rank].groups = set()


def unharmed(world, group, version):
    assert served(world, version) == [0, 1, 2]
    assert not [engine.rank for engine in world.engines if engine.dead]
    assert group.ray.holder is None
    assert not group.ray.taken


def test_the_lock_of_a_stage_that_failed_is_given_back_where_groups_form_at_once(staged):
    world, group, stages = staged
    group.run(1)
    stages[1].during = lambda: restarts(world, 1)
    group.run(2)
    unharmed(world, group, "step-2")


@pytest.mark.parametrize("said", ["in _broadcast_to_infer_workers: closed by peer", "closed"])
def test_a_lock_is_given_back_that_a_trainers_own_error_kept_while_another_stage_waits(
    staged, said, monkeypatch
):
    monkeypatch.setattr(updates, "_STUCK_SECONDS", 0.5)
    world, group, stages = staged
    group.run(1)
    waits = threading.Event()

    def broken():
        assert waits.wait(10)
        restarts(world, 1)
        raise RuntimeError(said)

    stages[0].during, stages[1].before = broken, waits.set
    group.run(2)
    unharmed(world, group, "step-2")


def test_a_lock_is_not_taken_from_a_stage_that_is_at_work(staged):
    """The other stage failed without it."""
    world, group, stages = staged
    group.run(1)
    at_work = threading.Event()

    def long():
        at_work.set()
        time.sleep(3.0)

    def broken():
        assert at_work.wait(10)
        restarts(world, 1)
        raise RuntimeError("out of memory")

    stages[0].before, stages[1].during = broken, long
    group.run(2)
    unharmed(world, group, "step-2")


def test_a_bucket_for_a_group_that_was_left_is_refused_while_new_ones_form(staged):
    """SGLang's scheduler ends over it, and all engines that lived on with it."""
    world, group, stages = staged
    group.run(1)
    old, tried = f"{group.model_update_name}_pp1_ep0", []

    def crash():
        restarts(world, 1)
        for engine in world.engines:
            engine.stuck.add(INIT)  # NCCL takes its time

    def meanwhile():
        assert until(lambda: all(engine.held for engine in world.engines))
        puts = len(world.puts)
        for worker in group.tgt_cluster.workers:
            try:
                worker.broadcast_parameter.remote(["w"], ["torch.bfloat16"], [(2,)], old).result(20)
            except StaleEpoch as error:
                tried.append(str(error))
        assert len(world.puts) == puts, "nothing was taken from clients"
        for engine in world.engines:
            engine.stuck.discard(INIT)

    stages[0].during = crash
    late = threading.Thread(target=meanwhile)
    late.start()
    group.run(2)
    late.join()
    assert len(tried) == 3
    assert all(old in each for each in tried)
    unharmed(world, group, "step-2")


def test_an_engine_that_left_all_its_groups_is_in_none(staged):
    world, group, _ = staged
    group.run(1)
    name, ray = f"{group.model_update_name}_pp0_ep0", group.ray
    ray.get([worker.leave_groups.remote() for worker in group.tgt_cluster.workers])
    for worker in group.tgt_cluster.workers:
        with pytest.raises(StaleEpoch, match=name):
            worker.broadcast_parameter.remote(["w"], ["torch.bfloat16"], [(2,)], name).result(20)
    assert not [engine.rank for engine in world.engines if engine.dead]


def until(check, most=20.0):
    """Wait for it; whether it came."""
    deadline = time.monotonic() + most
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_call_of_a_try_that_was_given_up_joins_no_later_one(staged):
    """Ray ends none: what waits for worker 0 goes on, with the engine as it was."""
    world, group, _ = staged
    group.run(1)
    follower = group.strategies[1]._follower
    name = f"{group.model_update_name}_pp0_ep0"
    late = group.tgt_cluster.workers[1].broadcast_parameter.remote(
        ["late"], ["torch.bfloat16"], [(2,)], name
    )
    assert until(lambda: follower._joining.locked())
    restarts(world, 1)
    group.run(2)
    with pytest.raises(Expired, match="given up"):
        late.result(20)
    unharmed(world, group, "step-2")
    names = [body["names"] for _, body in world.engines[1].asked if "names" in body]
    assert names == [["s2p0"], ["s2p1"]] or names == [["s2p1"], ["s2p0"]]


def test_a_sync_of_a_try_that_was_given_up_is_not_begun_any_more(staged):
    """Worker 0 waits for the Lease, which another trainer has."""
    world, group, _ = staged
    group.run(1)
    now = time.time()
    world.write_lease(steps.begin(world.state, other(), epoch="e", version="v", now=now, seen=now))
    name, leader = f"{group.model_update_name}_pp0_ep0", group.tgt_cluster.workers[0]
    late = leader.broadcast_parameter.remote(["late"], ["torch.bfloat16"], [(2,)], name)
    assert until(lambda: group.strategies[0]._beginning.locked())
    left = [worker.leave_groups.remote() for worker in group.tgt_cluster.workers]
    world.write_lease(steps.aborted(world.state, "it ended"))
    group.ray.get(left)
    with pytest.raises(Expired, match="given up"):
        late.result(20)
    assert world.state.phase is Phase.ABORTED


@pytest.mark.parametrize("rank", [0, 1])
def test_an_engine_that_ended_before_the_registry_knows_is_waited_for(staged, rank):
    """Its worker learns of the end at once, the operator from kubelet."""
    world, group, stages = staged
    group.run(1)
    asked = len(world.engines[2].asked)

    def told_late():
        until(lambda: any("destroy" in path for path, _ in world.engines[2].asked[asked:]))
        time.sleep(1.0)  # the ended engine's worker has asked it, too
        restarts(world, rank)

    late = threading.Thread(target=told_late)

    def ends():
        world.engines[rank].dead = True
        late.start()

    stages[0].during = ends
    group.run(2)
    late.join()
    unharmed(world, group, "step-2")


def test_an_engine_that_is_up_and_never_answers_is_told_of(staged, monkeypatch):
    monkeypatch.setattr(roll_groups, "_ENDED_SECONDS", 0.1)
    world, group, _ = staged
    group.run(1)
    world.engines[1].dead = True
    with pytest.raises(NotReady, match=r"delete the pod actor-infer-1"):
        group.tgt_cluster.workers[1].leave_groups.remote().result(20)


def test_a_refusal_to_leave_a_group_is_told_at_once(staged):
    world, group, _ = staged
    group.run(1)
    world.engines[1].refuse["/destroy_weights_update_group"] = (401, "Unauthorized")
    with pytest.raises(EngineError, match="Unauthorized"):
        group.tgt_cluster.workers[1].leave_groups.remote().result(5)


def test_an_engine_that_waits_for_a_broadcast_is_waited_for_until_its_pod_is_gone(staged, caplog):
    """NCCL ends it after ten minutes; a user who deletes its pod is quicker."""
    world, group, _ = staged
    group.run(1)
    world.engines[1].dead = True
    left = group.tgt_cluster.workers[1].leave_groups.remote()
    until(lambda: "to go on at once, delete the pod actor-infer-1" in caplog.text)
    restarts(world, 1)
    left.result(20)
    assert caplog.text.count("delete the pod") == 1
