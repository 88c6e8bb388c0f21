"""A commit vouches for every update of its sync: for those that nobody asked about too."""

import asyncio
import threading
import time

import pytest

from sglang_operator.client import (
    AsyncPool,
    EngineError,
    Expired,
    InvalidArgument,
    NotReady,
    Pool,
    ledger,
)
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

STORY = 30.0
BUCKET = (["w"], ["bfloat16"], [[2]])


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def wait(check, seconds=STORY):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def aborted(world):
    return world.state.phase is Phase.ABORTED and not any(
        engine.gate_version == "step-1" for engine in world.engines
    )


def test_an_update_that_failed_and_nobody_asked_about_is_not_committed(world, pool):
    world.engines[1].refuse["/update_weights_from_disk"] = (400, "no such file")
    with pytest.raises(EngineError, match=r"engine 1 .* no such file"), pool.sync("step-1") as s:
        submitted = s.submit("update_weights_from_disk", "/c/1")
        wait(submitted.done)
    assert aborted(world)


def test_an_error_that_the_trainer_swallowed_is_not_committed(world, pool):
    world.engines[1].refuse["/update_weights_from_distributed"] = (500, "out of memory")
    with pytest.raises(EngineError, match="out of memory"), pool.sync("step-1") as sync:
        with pytest.raises(EngineError):
            sync.update_weights_from_distributed(*BUCKET, group_name="g")
        world.engines[1].refuse.clear()
        sync.update_weights_from_distributed(["v"], *BUCKET[1:], group_name="g")
    assert aborted(world)


def test_a_commit_waits_for_updates_under_way(world, pool):
    world.engines[1].stuck.add("/update_weights_from_disk")
    with pool.sync("step-1") as sync:
        sync.submit("update_weights_from_disk", "/c/1")
        wait(lambda: world.engines[1].held)
        timer = threading.Timer(0.3, world.engines[1].stuck.clear)
        timer.start()
    assert {(e.weights, e.gate_version) for e in world.engines} == {("/c/1", "step-1")}
    timer.join()


def test_an_update_that_does_not_end_aborts_in_words(world, pool, monkeypatch):
    monkeypatch.setattr(ledger, "UNDER_WAY_SECONDS", 0.2)
    world.engines[1].stuck.add("/update_weights_from_disk")
    with pytest.raises(NotReady, match="still under way"), pool.sync("step-1") as sync:
        sync.submit("update_weights_from_disk", "/c/1")
    assert aborted(world)


def test_a_task_that_was_just_created_is_waited_for(world):
    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1") as sync,
        ):
            world.engines[1].stuck.add("/update_weights_from_disk")
            asyncio.get_running_loop().call_later(0.3, world.engines[1].stuck.clear)
            task = asyncio.create_task(sync.update_weights_from_disk("/c/1"))
        assert task.done()

    asyncio.run(train())
    assert {(e.weights, e.gate_version) for e in world.engines} == {("/c/1", "step-1")}


def test_an_update_that_comes_once_the_sync_commits_aborts_it(world):
    """It is refused, so that the commit would be without it."""

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False)
            await sync.begin()
            real = pool.calls.post

            async def post(engine, path, payload, **rest):
                if path == "/update_weight_version":
                    with pytest.raises(NotReady, match="was not sent"):
                        await sync.update_weights_from_disk("/c/1")
                return await real(engine, path, payload, **rest)

            pool.calls.post = post  # type: ignore[method-assign]
            await sync.finish()

    with pytest.raises(NotReady, match="comes after the sync was told to commit"):
        asyncio.run(train())
    assert aborted(world)
    assert all("/continue_generation" not in engine.paths() for engine in world.engines)


def test_an_update_that_was_cancelled_is_not_committed(world, monkeypatch):
    monkeypatch.setattr("sglang_operator.sending.DELIVERY_SECONDS", 0.5)
    world.engines[1].stuck.add("/update_weights_from_disk")

    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1") as sync,
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sync.update_weights_from_disk("/c/1"), 0.2)

    with pytest.raises(NotReady, match="was cancelled before every engine had answered"):
        asyncio.run(train())
    assert aborted(world)


def test_what_could_not_even_be_sent_is_not_committed(world, pool):
    with pytest.raises(InvalidArgument), pool.sync("step-1") as sync:
        wait(sync.submit("update_weights_from_disk", "").done)
    assert aborted(world)


def test_a_session_that_could_not_be_opened_is_a_bucket_that_is_missing():
    with FakePool(version="0.5.23") as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        made.engines[1].refuse["/begin_weight_update"] = (500, "boom")
        with pytest.raises(EngineError, match="boom"), pool.sync("step-1") as sync:
            submitted = sync.submit("update_weights_from_distributed", *BUCKET, group_name="g")
            wait(submitted.done)
        assert aborted(made)


@pytest.mark.parametrize("whole", [True, False])
def test_an_update_that_is_made_again_makes_good_what_failed(world, pool, whole):
    world.engines[1].refuse["/update_weights_from_distributed"] = (400, "not yet")
    with pool.sync("step-1") as sync:
        with pytest.raises(EngineError):
            sync.update_weights_from_distributed(*BUCKET, group_name="g")
        world.engines[1].refuse.clear()
        if whole:
            sync.update_weights_from_disk("/c/1")
        else:
            sync.update_weights_from_distributed(*BUCKET, group_name="g")
    assert {engine.gate_version for engine in world.engines} == {"step-1"}


def test_weights_from_disk_in_one_engine_make_nothing_good_in_another(world):
    for engine in world.engines:
        engine.refuse["/update_weights_from_tensor"] = (400, "no")

    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1") as sync,
        ):
            with pytest.raises(EngineError):
                await sync.update_weights_from_tensor({"serialized_named_tensors": ["x"]})
            body = {"model_path": "/c/1"}
            for engine in sync.engines[:2]:
                await sync.call_one(engine, "/update_weights_from_disk", body)

    with pytest.raises(EngineError, match="engine 2"):
        asyncio.run(train())
    assert aborted(world)


def test_a_sync_is_not_left_to_another_process_over_an_update_that_failed(world):
    world.engines[1].refuse["/update_weights_from_disk"] = (400, "no such file")

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False)
            await sync.begin()
            task = asyncio.create_task(sync.update_weights_from_disk("/c/1"))
            try:
                await sync.detach()
            finally:
                await asyncio.wait({task})
                assert isinstance(task.exception(), EngineError)

    with pytest.raises(EngineError, match="no such file"):
        asyncio.run(train())
    assert aborted(world)


def test_buckets_that_are_sent_at_once_share_one_session():
    with FakePool(version="0.5.23") as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        with pool.sync("step-1") as sync:
            for name in "abc":
                sync.submit("update_weights_from_distributed", [name], *BUCKET[1:], group_name="g")
        for engine in made.engines:
            assert engine.paths().count("/begin_weight_update") == 1
            assert engine.paths().count("/end_weight_update") == 1
            assert engine.paths().count("/update_weights_from_distributed") == 3
        assert made.state.version == "step-1"


def test_an_engine_that_got_no_update_while_others_did_is_not_committed(world):
    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1") as sync,
        ):
            for engine in sync.engines[:2]:
                path = {"model_path": "/c/1"}
                await sync.call_one(engine, "/update_weights_from_disk", path)

    with pytest.raises(NotReady, match=r"1 engines got no update .* engine 2 "):
        asyncio.run(train())
    assert aborted(world)


def test_a_trainer_with_means_of_its_own_writes_nothing_through_us(world, pool):
    with pool.sync("step-1"):
        pass
    assert {engine.gate_version for engine in world.engines} == {"step-1"}


def test_who_takes_a_sync_over_does_not_know_what_was_written_before(world):
    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="a") as pool:
            begun = pool.sync("step-1", interrupts=False)
            await begun.begin()
            await begun.update_weights_from_disk("/c/1")
            await begun.detach()
            later = await pool.attach()
            path = {"model_path": "/c/1"}
            await later.call_one(later.engines[0], "/update_weights_from_disk", path)
            await later.finish()

    asyncio.run(train())
    assert {(e.weights, e.gate_version) for e in world.engines} == {("/c/1", "step-1")}


# --- an update counts from when the trainer asks for it


def in_a_sync(world, act):
    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1") as sync,
        ):
            await act(sync)

    asyncio.run(train())


@pytest.mark.parametrize("one", [True, False])
def test_a_call_that_came_while_the_fence_was_down_is_not_committed(world, monkeypatch, one):
    async def act(sync):
        await sync.update_weights_from_distributed(*BUCKET, group_name="g")
        path, body = "/update_weights_from_tensor", {"serialized_named_tensors": ["x"]}
        with monkeypatch.context() as patch:
            patch.setattr(sync._hold, "alive", lambda: False)  # the process stood still
            with pytest.raises(Expired):
                if one:
                    await sync.call_one(sync.engines[1], path, body)
                else:
                    await sync.call(path, body)

    with pytest.raises(Expired, match="stood still"):
        in_a_sync(world, act)
    assert aborted(world)


UPDATES = {
    "update_weights_from_disk": ("/c/1",),
    "update_weights_from_tensor": ({"serialized_named_tensors": ["x"]},),
    "call": ("/update_weights_from_tensor", {"serialized_named_tensors": ["x"]}),
}


@pytest.mark.parametrize("method", UPDATES)
def test_an_update_that_was_cancelled_before_its_first_step_is_not_committed(world, method):
    async def act(sync):
        await sync.update_weights_from_distributed(*BUCKET, group_name="g")
        task = asyncio.create_task(getattr(sync, method)(*UPDATES[method]))
        task.cancel()
        assert isinstance(
            (await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError
        )

    with pytest.raises(NotReady, match="was cancelled"):
        in_a_sync(world, act)
    assert aborted(world)


@pytest.mark.parametrize("by_engine", [True, False])
def test_a_bucket_by_value_that_was_cancelled_and_is_sent_again_is_made_good(world, by_engine):
    body = {"serialized_named_tensors": ["x"]}

    def payload(engine):
        return body

    async def act(sync):
        sent = payload if by_engine else body
        world.engines[1].stuck.add("/update_weights_from_tensor")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sync.update_weights_from_tensor(sent), 0.2)
        world.engines[1].stuck.clear()
        await sync.update_weights_from_tensor(dict(body) if not by_engine else payload)

    in_a_sync(world, act)
    assert {engine.gate_version for engine in world.engines} == {"step-1"}
