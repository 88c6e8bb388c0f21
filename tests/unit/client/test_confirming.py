"""Nothing is sent to an address that no operator has told of since: it may be another pod's."""

import asyncio

import pytest
from aiohttp import web

from sglang_operator.client import (
    AsyncPool,
    NotReady,
    Pool,
    StaleEpoch,
    confirming,
    registry,
)
from sglang_operator.client.calls import EngineCalls
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_calls import engine_that

UNTOLD = "the operator has not told of the engines since this was begun"
LOOKS = ("/model_info", "/server_info")


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 0.3)
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def asked(world):
    return [path for engine in world.engines for path in engine.paths() if path not in LOOKS]


def forget(world):
    for engine in world.engines:
        engine.asked.clear()


def test_a_sync_that_no_operator_confirms_changes_no_engine_and_no_gate(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    before = world.state
    forget(world)
    world.operates = False
    with pytest.raises(NotReady, match=UNTOLD):
        pool.update_from_disk("/c/2", "step-2")
    assert not asked(world)
    after = world.state
    assert (after.phase, after.id, after.version) == (Phase.COMMITTED, before.id, "step-1")
    assert after.intact and after.instances == before.instances and not after.holder
    assert after.checkpoint == before.checkpoint
    assert {engine.gate for engine in world.engines} == {"Open"}
    world.operates = True
    pool.update_from_disk("/c/2", "step-2")
    assert {engine.weights for engine in world.engines} == {"/c/2"}


def test_a_first_sync_that_no_operator_confirms_leaves_the_weights_whole(world, pool):
    world.operates = False
    with pytest.raises(NotReady, match=UNTOLD):
        pool.update_from_disk("/c/1", "step-1")
    assert not asked(world)
    assert world.state.initial and not world.state.holder


def test_of_a_pool_that_sleeps_it_stays_on_record_who_does(world, pool):
    """The sync is aborted: nobody else may take for awake who sleeps."""
    pool.update_from_disk("/c/1", "step-1")
    pool.sleep(settle=0)
    before = world.state
    world.operates = False
    with pytest.raises(NotReady, match=UNTOLD):
        pool.update_from_disk("/c/2", "step-2")
    after = world.state
    assert (after.phase, after.released) == (Phase.ABORTED, before.released)
    assert after.asleep == before.asleep and after.woken == before.woken
    world.operates = True
    pool.update_from_disk("/c/2", "step-2")
    assert not any(engine.released for engine in world.engines)


def test_where_an_engine_is_another_by_then_nothing_is_written(world, pool):
    """The registry of before named it still; its address may be anybody's."""
    pool.update_from_disk("/c/1", "step-1")
    forget(world)
    put, world.operates = world.put_lease, False

    async def slower(request):
        answer = await put(request)
        world.put_lease, world.operates = put, True
        world._restart(1, False)
        world._operate()
        return answer

    world.put_lease = slower
    with pytest.raises(StaleEpoch):
        pool.update_from_disk("/c/2", "step-2")
    assert not asked(world)
    assert world.state.phase is Phase.COMMITTED


def test_a_sleeper_is_not_woken_before_the_operator_has_told_where_it_is(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    pool.sleep(settle=0)
    forget(world)
    world.operates = False
    with pytest.raises(NotReady, match=UNTOLD):
        pool.wake()
    assert not asked(world)
    assert world.state.phase is Phase.SLEEPING
    world.operates = True
    pool.wake()
    assert not any(engine.released for engine in world.engines)


def test_a_sync_that_another_process_goes_on_with_is_confirmed_too(world):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="job") as first:
            sync = first.sync("step-1")
            await sync.begin()
            await sync.detach()
        forget(world)
        world.operates = False
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="job") as second:
            with pytest.raises(NotReady, match=UNTOLD):
                await second.attach()

    asyncio.run(story())
    assert not asked(world)
    assert world.state.phase is Phase.ABORTED, "half of it may be written"


def test_nothing_is_taken_from_an_engine_that_may_be_a_strangers():
    with FakePool(version="0.5.23") as world:
        for engine in world.engines:
            engine.groups = {"slime-pp_0"}
        world.operates = False

        async def story():
            async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
                await pool.reset()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(confirming, "CONFIRM_SECONDS", 0.3)
            with pytest.raises(NotReady, match=UNTOLD):
                asyncio.run(story())
        assert not asked(world)
        assert not world.state.holder


def test_who_is_found_at_an_address_is_sent_no_key():
    seen = []

    async def handle(request):
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"model_path": "Qwen/Qwen3-8B"})

    async def ask():
        calls = EngineCalls("api", "admin")
        async with engine_that(handle) as engine:
            engine.features = registry.features_of("0.5.7")
            await calls.find(engine)
            await calls.close()

    asyncio.run(ask())
    assert seen == [None]
