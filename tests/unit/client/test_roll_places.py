"""ROLL's trainer and engines on the same GPUs: whose ids mean what, and who holds memory when."""

import asyncio
import base64
import fcntl
import os
import sys
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sglang_operator.client import (
    InvalidArgument,
    NotReady,
    PoolError,
    StaleEpoch,
    Unsupported,
    roll_places,
)
from sglang_operator.client import roll_updates as updates
from sglang_operator.client import slots as client_slots
from sglang_operator.placement import entry, slots
from sglang_operator.weights.lease_state import Phase
from sglang_operator.weights.turn import TRAINER
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import ANSWER, Cluster
from tests.unit.client.test_roll_colocated import configured
from tests.unit.placement.trainers import gpu

TENSORS = "/update_weights_from_tensor"
RESUME, RELEASE = "/resume_memory_occupation", "/release_memory_occupation"
POD = {"NODE_NAME": "gpu-1", "POD_NAME": "trainer-0", "POD_UID": "uid-0"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What trainer and engines share, where an engine has its numbers."""
    monkeypatch.setattr(client_slots, "FOLDER", str(tmp_path))
    lock = os.open(tmp_path / entry.LOCK.format(span=1), os.O_CREAT | os.O_RDWR, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield tmp_path
    os.close(lock)


@pytest.fixture
def trainer(folder, reach, monkeypatch):
    """A pod of the trainer's with eight GPUs, and SGLang in its image."""
    gpus = ",".join(gpu(0, index) for index in range(8))
    for name, value in {**POD, "NVIDIA_VISIBLE_DEVICES": gpus}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(roll_places, "find_spec", lambda _: SimpleNamespace())
    return folder


def joined(world, *, per_node=8, awaits=True):
    """A pool whose engines join their trainer: of two GPUs each, from id 0 on."""
    world.gpus_per_node, world.awaits_slots, world.memory_saver = per_node, awaits, True
    for engine in world.engines:
        engine.strict = True
    return world


def colocated(roll, engines=3, *, train=range(8), infer=None, per_node=8, colocated=True):
    infer = range(2 * engines) if infer is None else infer
    cluster = Cluster(roll, engines, colocated=colocated)
    return configured(cluster, train, infer, num_gpus_per_node=per_node)


def handle(*gpus):
    """What SGLang's serializer makes of memory on these GPUs, as far as it can be told."""
    text = b"\x80\x04tensor" + b"".join(each.removeprefix("GPU-").encode() for each in gpus)
    return base64.b64encode(text).decode()


def handles(rank):
    return [handle(gpu(0, 2 * rank + index)) for index in range(2)]


def run(story, world, cluster):
    async def live():
        try:
            await cluster.all("initialize", model_provider=None)
            await story(cluster)
        finally:
            for each in cluster.strategies:
                if each._pool is not None:
                    await each._pool.close()

    asyncio.run(live())


async def update(cluster, ranks=None):
    """As MegatronWeightUpdater does it where ids overlap, and BasePipeline.model_update."""
    calls = (
        each.update_parameter_in_bucket(handles(rank))
        for rank, each in enumerate(cluster.strategies)
        if ranks is None or rank in ranks
    )
    for found in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
    await cluster.all("process_weights_after_loading")
    await cluster.all("load_states")


def test_a_step_of_a_colocated_pipeline(roll, reach, trainer):
    """The engines are off but for an update's weights, and for the rollout that follows it."""

    async def story(cluster):
        await cluster.all("offload_states")  # as InferWorker.initialize ends
        for step in range(1, 4):
            before = [len(engine.asked) for engine in world.engines]
            assert all(engine.released == {"weights", "kv_cache"} for engine in world.engines)
            await update(cluster)
            assert world.state.version == f"step-{step}"
            assert {engine.gate for engine in world.engines} == {"Open"}
            assert await cluster.generate() == [ANSWER] * 3
            await cluster.all("offload_states")
            for engine, begun in zip(world.engines, before, strict=True):
                asked = engine.asked[begun:]
                order = [path for path, _ in asked if path in (RESUME, TENSORS, RELEASE)]
                assert order == [RESUME, TENSORS, RESUME, RELEASE]
                resumed = [body["tags"] for path, body in asked if path == RESUME]
                assert resumed == [["weights"], ["kv_cache"]], "no KV cache beside the trainer"

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))
        (body, *_) = (body for path, body in world.engines[1].asked if path == TENSORS)
        assert body == {
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "serialized_named_tensors": handles(1),
        }


def test_the_first_worker_on_each_node_says_which_gpus_its_pod_has(roll, reach, trainer):
    async def story(cluster):
        found = slots.published(world.slots, "slots")
        assert not found.problems
        assert found.slots[0].gpus == tuple(gpu(0, index) for index in range(8))
        assert (found.slots[0].node, found.slots[0].pod) == ("gpu-1", "trainer-0")
        assert [*found.slots] == [0]
        assert world.slots_asked == 1

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))


def test_pods_of_four_gpus_are_node_ranks_of_their_own(roll, reach, trainer, monkeypatch):
    """Two of the trainer's pods may be on one node; the test's process stands for both."""
    told = []
    monkeypatch.setattr(client_slots, "publish", lambda *of, **named: told.append((*of, named)))

    async def story(cluster):
        assert sorted(rank for _, rank, _ in told) == [0, 1]

    with FakePool() as world:
        run(story, joined(reach(world), per_node=4), colocated(roll, per_node=4))


def test_slots_that_the_pool_lists_itself_are_published_by_nobody(roll, reach, trainer):
    async def story(cluster):
        assert not world.slots_asked
        await update(cluster)

    with FakePool() as world:
        run(story, joined(reach(world), awaits=False), colocated(roll))


def test_engines_come_once_the_trainer_has_said_what_it_has(roll, reach, trainer):
    """Until then they wait, and the pool is there without an engine."""

    async def story(cluster):
        assert world.slots

    async def come(world):
        while not world.slots:
            await asyncio.sleep(0.01)
        for engine in world.engines:
            engine.state, engine.instance = "Up", f"ffff{engine.rank:04x}"
        world.call(world.publish)

    async def live():
        coming = asyncio.create_task(come(world))
        async with colocated(roll) as cluster:
            await story(cluster)
        await coming

    with FakePool() as world:
        for engine in joined(reach(world)).engines:
            engine.state, engine.instance = "Waiting", ""
        world.call(world.publish)
        asyncio.run(asyncio.wait_for(live(), 30))


@pytest.mark.parametrize(
    ("changes", "pool", "words"),
    [
        ({"per_node": 4}, {}, r"counts 4 GPUs on each node \(num_gpus_per_node\), and the pool 8"),
        ({"infer": range(2, 8)}, {}, r"worker 0 has the GPUs 2-3 .*engine 0 \(g0-1\) has 0-1"),
        ({"infer": [1, 0, 3, 2, 5, 4]}, {}, r"worker 0 has the GPUs 1,0 .*with ids in one order"),
        ({"infer": range(3)}, {}, r"worker 0 has the GPUs 0 in ROLL's file"),
        # Ids apart from the trainer's are GPUs of its nodes all the same.
        ({"train": range(8, 16), "infer": range(2, 8)}, {}, "their ids are the trainer's GPUs"),
    ],
)
def test_ids_that_mean_other_gpus_are_refused_in_words(roll, reach, trainer, changes, pool, words):
    with FakePool() as world:
        with pytest.raises(Unsupported, match=words):
            run(None, joined(reach(world), **pool), colocated(roll, **changes))
        assert not world.slots
        assert not any(engine.asked for engine in world.engines)


def test_an_image_that_takes_no_flattened_buckets_is_refused(roll, reach, trainer):
    words = r"SGLang 0\.4\.10\.post2 does not take"
    with FakePool(version="0.4.10.post2") as world, pytest.raises(Unsupported, match=words):
        run(None, joined(reach(world)), colocated(roll))


def test_a_trainers_image_without_sglang_is_refused_at_the_start(roll, reach, trainer, monkeypatch):
    monkeypatch.setattr(roll_places, "find_spec", lambda _: None)
    words = "there is no sglang in this image"
    with FakePool() as world, pytest.raises(Unsupported, match=words):
        run(None, joined(reach(world)), colocated(roll))


def test_a_pod_that_does_not_say_who_it_is_is_told_what_to_set(roll, reach, trainer, monkeypatch):
    monkeypatch.delenv("POD_UID")
    with FakePool() as world, pytest.raises(InvalidArgument, match="POD_UID not set"):
        run(None, joined(reach(world)), colocated(roll))


def test_a_pod_without_the_folder_of_the_engines_is_refused(roll, reach, trainer, monkeypatch):
    """An engine would die of the first handle."""
    empty = trainer / "own"
    empty.mkdir()
    monkeypatch.setattr(client_slots, "FOLDER", str(empty))
    with FakePool() as world, pytest.raises(Unsupported, match="have no folder in common"):
        run(None, joined(reach(world)), colocated(roll))


def test_a_handle_of_another_gpu_is_refused_before_anything_is_begun(roll, reach, trainer):
    async def story(cluster):
        for rank, each in enumerate(cluster.strategies):
            swapped = handles(rank)[::-1]
            with pytest.raises(Unsupported, match=f"engine {rank} .* is on {gpu(0, 2 * rank)}"):
                await each.update_parameter_in_bucket(swapped)
        assert not world.puts
        assert not any(TENSORS in engine.paths() for engine in world.engines)
        with pytest.raises(Unsupported):  # what was lost is in no commit
            await cluster.strategies[0].process_weights_after_loading()

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))


def of_two_nodes(*, per_node=2, uuids=()):
    """The places of a worker of four GPUs, whose pod sees those of its own node, and its engine."""
    mapping = SimpleNamespace(device_mapping=[0, 1, 2, 3], name="actor_infer")
    config = SimpleNamespace(num_gpus_per_node=per_node, actor_infer=mapping, actor_train=mapping)
    worker = SimpleNamespace(rank=0, world_size=1, pipeline_config=config)
    places = roll_places.RollPlaces(worker, cast(Any, SimpleNamespace(name="pool")))
    places.shares, places._gpus = True, tuple(gpu(0, index) for index in range(per_node))
    return places, SimpleNamespace(rank=0, engine="g0-3", gpus=4, uuids=uuids)


SPANNED = [gpu(node, index) for node in range(2) for index in range(2)]


@pytest.mark.parametrize(
    "uuids", [(), tuple(SPANNED), (SPANNED[0],)], ids=["untold", "told", "one"]
)
def test_of_an_engine_that_spans_nodes_the_other_pods_gpus_are_not_looked_up_in_this_one(uuids):
    places, engine = of_two_nodes(uuids=uuids)
    given = [handle(each) for each in SPANNED]
    assert places.body(given, engine)["serialized_named_tensors"] == given
    with pytest.raises(Unsupported, match=f"is on {gpu(0, 0)}"):
        places.body([given[1], given[0], *given[2:]], engine)


def test_what_is_told_of_the_gpus_in_other_pods_is_looked_at():
    places, engine = of_two_nodes(uuids=tuple(SPANNED))
    for wrong in (gpu(2, 0), gpu(0, 1)):
        with pytest.raises(Unsupported, match=f"of GPU {wrong}, .* is on {gpu(1, 0)}, {gpu(1, 1)}"):
            places.body([handle(each) for each in (*SPANNED[:3], wrong)], engine)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_other_than_one_handle_for_each_gpu_is_refused(count):
    places, engine = of_two_nodes(per_node=4)
    given = [handle(gpu(0, index)) for index in range(count)]
    words = rf"{count} handles for the 4 GPUs of engine 0 \(g0-3\)"
    with pytest.raises(Unsupported, match=words):
        places.body(given, engine)


def test_ids_in_common_on_a_pool_with_gpus_of_its_own_name_the_mode_to_use(roll, reach):
    with FakePool() as world:
        with pytest.raises(Unsupported, match=r"Give the pool placement\.mode Shared"):
            run(None, reach(world), colocated(roll))
        assert not world.puts


# --- some engines on the trainer's GPUs, others beside them


def test_engines_on_other_gpus_are_broadcast_to_in_the_same_update(roll, reach, trainer):
    """Train on 0 to 3, infer on 0 to 7 (partial_gpu_mode): two get handles, two a broadcast."""

    async def story(cluster):
        await cluster.all("offload_states")
        await cluster.setup("g", only=(2, 3))
        for step in range(1, 4):
            handed = (
                each.update_parameter_in_bucket(handles(rank))
                for rank, each in enumerate(cluster.strategies[:2])
            )
            sent = (
                each.broadcast_parameter([f"b{step}"], ["torch.bfloat16"], [(2,)], "g")
                for each in cluster.strategies[2:]
            )
            await asyncio.gather(*handed, *sent)
            await cluster.all("process_weights_after_loading")
            await cluster.all("load_states")
            assert {engine.label for engine in world.engines} == {f"step-{step}"}
            assert {engine.gate for engine in world.engines} == {"Open"}
            await cluster.all("offload_part", [0, 1])
            assert [bool(e.released) for e in world.engines] == [True, True, False, False]
            assert [e.gate for e in world.engines] == ["Closed", "Closed", "Open", "Open"]

    with FakePool(4) as world:
        run(story, joined(reach(world)), colocated(roll, 4, train=range(4)))


# --- engines that end, and engines of an earlier job


@pytest.mark.parametrize("rank", [0, 1])
def test_after_an_engine_ended_its_worker_has_the_next_one(roll, reach, trainer, rank):
    async def story(cluster):
        leader = cluster.strategies[0]
        await cluster.all("offload_states")
        await update(cluster)
        await cluster.all("offload_states")
        assert await leader.update_obstacle() == ""
        await asyncio.to_thread(world.restart, rank)
        assert "restarted" in await leader.update_obstacle()
        with pytest.raises(StaleEpoch):
            await update(cluster)
        await cluster.all("leave_groups")
        assert world.state.phase is Phase.AWAKE, "the trainer's turn is over"
        assert await leader.update_obstacle() == ""
        await update(cluster)
        assert {engine.gate for engine in world.engines} == {"Open"}
        assert await cluster.generate() == [ANSWER] * 3

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))


@pytest.mark.parametrize("rank", [0, 2])
def test_an_update_that_failed_amid_the_trainers_turn_is_run_once_more(roll, reach, trainer, rank):
    async def story(cluster):
        await cluster.all("offload_states")
        world.engines[rank].refuse[TENSORS] = (500, "CUDA error")
        with pytest.raises(PoolError):
            await update(cluster)
        world.engines[rank].refuse.clear()
        await cluster.all("leave_groups")
        assert world.state.phase is Phase.ABORTED
        await update(cluster)
        assert {engine.gate for engine in world.engines} == {"Open"}
        assert await cluster.generate() == [ANSWER] * 3

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))


def storage(*roles):
    """ROLL's SharedStorage, in which the workers that were made have left where they are."""

    left = {role: {"MASTER_ADDR": "10.0.0.1"} for role in roles}

    async def get(key):
        return left.get(key)

    async def put_if_absent(key, value):
        return left.setdefault(key, value) is value

    named = {"get": get, "put_if_absent": put_if_absent}
    return SimpleNamespace(**{name: SimpleNamespace(remote=each) for name, each in named.items()})


def first_worker(cluster, *roles):
    common = storage(*roles)
    for each in cluster.strategies:
        each.worker.shared_storage = common
    return cluster.strategies[0].worker


def test_engines_that_run_already_sleep_before_an_agentic_job_begins_with_its_trainer(
    roll, reach, trainer
):
    async def story(cluster):
        await cluster.all("offload_states")
        await update(cluster)

    with FakePool() as world:
        run(story, joined(reach(world)), colocated(roll))
        assert not any(engine.released for engine in world.engines)
        again = colocated(roll)
        roll_places.put_aside(first_worker(again, "actor_train"))
        assert all(engine.released for engine in world.engines)
        roll_places.put_aside(again.strategies[0].worker)  # also where they sleep by then

        async def goes_on(cluster):
            await cluster.all("offload_states")
            await update(cluster)
            assert world.state.version == "step-2"
            assert await cluster.generate() == [ANSWER] * 3

        run(goes_on, world, again)


def test_engines_that_are_about_to_start_sleep_before_the_trainer_comes(
    roll, reach, trainer, monkeypatch
):
    """A job before has published the GPUs: the engines come up by themselves."""
    with FakePool() as world:
        for engine in joined(reach(world)).engines:
            engine.state, engine.instance = "Pending", ""
        world.turns = True
        monkeypatch.setattr(world, "_waits", lambda _: False)  # their pods are there
        world.starts = False
        world.call(world.publish)

        def up():
            for engine in world.engines:
                engine.instance, engine.state = f"aaaa000{engine.rank}", "Up"
            world.publish()

        aside = threading.Thread(
            target=roll_places.put_aside, args=[first_worker(colocated(roll), "actor_train")]
        )
        aside.start()
        aside.join(1)
        assert aside.is_alive()
        assert not world.puts, "not before they are there: ROLL's workers attach to them"
        world.call(up)
        aside.join(20)
        assert all(engine.released for engine in world.engines)
        assert world.state.trainers == TRAINER


@pytest.mark.parametrize(
    ("roles", "per_node"), [((), 8), (("actor_infer",), 8), (("actor_train",), 0)]
)
def test_nobody_else_puts_them_to_sleep(roll, reach, trainer, roles, per_node):
    """A rollout job has no trainer, and a pool with GPUs of its own is in nobody's way."""
    with FakePool() as world:
        joined(reach(world), per_node=per_node)
        roll_places.put_aside(first_worker(colocated(roll), *roles))
        assert not world.puts


def test_a_rollout_job_finds_the_weights_that_a_job_before_has_left(roll, reach, trainer):
    """Its file is the trainer's own, so that its ids overlap; nobody would bring weights anew."""

    async def trains(cluster):
        await cluster.all("offload_states")
        await update(cluster)

    async def rolls_out(cluster):
        await cluster.all("offload_states")
        await cluster.all("load_states")
        assert await cluster.generate() == [ANSWER] * 3
        await cluster.all("offload_part", [0])
        assert not any(engine.released for engine in world.engines)

    with FakePool() as world:
        run(trains, joined(reach(world)), colocated(roll))
        again = colocated(roll)
        roll_places.put_aside(first_worker(again))
        run(rolls_out, world, again)


def test_a_pool_without_engines_or_without_a_registry_is_left_as_it_is(
    roll, reach, trainer, monkeypatch
):
    with FakePool() as world:
        for engine in joined(reach(world)).engines:
            engine.state, engine.instance = "Waiting", ""
        world.call(world.publish)
        made = first_worker(colocated(roll), "actor_train")
        roll_places.put_aside(made)

        async def absent(_):
            raise NotReady("no registry")

        monkeypatch.setattr("sglang_operator.client.pool.AsyncPool.fresh", absent)
        roll_places.put_aside(made)
        assert not world.puts


# --- process numbers


def test_engines_that_come_get_no_number_of_a_process_of_this_pod(folder, monkeypatch):
    own = 3 * entry.SPAN + 7
    monkeypatch.setattr(os, "listdir", lambda _: ["1", str(own), "self", "sys"])
    roll_places.keep_numbers()
    assert (folder / entry.LOCK.format(span=3)).exists()
    assert not (folder / entry.LOCK.format(span=0)).exists()
    roll_places.keep_numbers()


def test_a_number_that_an_engine_has_already_is_in_the_way_of_the_trainer_alone(
    folder, monkeypatch
):
    taken = entry.SPAN + 5
    monkeypatch.setattr(os, "listdir", lambda _: [str(taken)])
    roll_places.keep_numbers()
    monkeypatch.setattr(os, "getpid", lambda: taken)
    with pytest.raises(Unsupported, match="an engine has the process numbers of this process"):
        roll_places.claim(None)


class Worker:
    """One of ROLL's, by a handle of Ray's."""

    def __init__(self, called):
        self.__ray_call__ = SimpleNamespace(remote=called.append)


def clusters(called, train, infer, *, ours=True):
    src = SimpleNamespace(
        workers=[Worker(called) for _ in train],
        worker_config=SimpleNamespace(device_mapping=list(train)),
    )
    leader = SimpleNamespace(update_obstacle=None) if ours else SimpleNamespace()
    tgt = SimpleNamespace(
        workers=[leader], worker_config=SimpleNamespace(device_mapping=list(infer))
    )
    return src, tgt


@pytest.mark.parametrize(
    ("train", "infer", "ours", "asked"),
    [
        (range(4), range(2), True, 4),
        (range(2), range(4), True, 2),
        (range(2), range(2, 4), True, 0),
        (range(2), range(2), False, 0),
    ],
)
def test_each_process_that_hands_weights_over_claims_its_number_before_it_does(
    monkeypatch, train, infer, ours, asked
):
    called: list[object] = []
    made: list[object] = []
    ray = SimpleNamespace(get=lambda refs: made.append("claims" if refs else ""))
    monkeypatch.setitem(sys.modules, "ray", ray)

    def plain(group, src_cluster, tgt_cluster, pipeline_config, frequency=1):
        made.append((pipeline_config, frequency))

    src, tgt = clusters(called, train, infer, ours=ours)
    made_so = updates.claiming(plain)
    made_so(SimpleNamespace(), src, tgt_cluster=tgt, pipeline_config="config", frequency=2)
    assert called == [roll_places.claim] * asked
    assert made == [*(["claims"] if asked else []), ("config", 2)]
