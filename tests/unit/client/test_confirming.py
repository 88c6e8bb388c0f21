"""Nothing is sent to an address that no operator has told of since: it may be another pod's."""

import asyncio
import dataclasses
import time

import pytest
from aiohttp import web

from sglang_operator.client import (
    AsyncPool,
    Expired,
    NotReady,
    Pool,
    StaleEpoch,
    confirming,
    groups,
    registry,
)
from sglang_operator.client.calls import EngineCalls
from sglang_operator.client.errors import GroupsTaken
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import GroupsOwner, Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_calls import engine_that
from tests.unit.client.test_roll import Cluster

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


def test_first_syncs_that_no_operator_confirms_leave_the_weights_whole(world, pool):
    for _ in range(3):
        world.operates = False
        with pytest.raises(NotReady, match=UNTOLD):
            pool.update_from_disk("/c/1", "step-1")
        assert not asked(world)
        assert world.state.initial and not world.state.holder
        world.operates = True
        world._operate()


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


@pytest.mark.parametrize("step", ["sync", "sleep"])
def test_a_step_that_the_operator_has_ended_is_not_confirmed(world, pool, step, monkeypatch):
    """The Lease was put back, say, and engines sleep of which it says nothing."""
    pool.update_from_disk("/c/1", "step-1")
    forget(world)
    operate = world._operate

    def ends():
        if world.state.phase in (Phase.SYNCING, Phase.SLEEPING):
            over = steps.ended(world.state, "operator", message="put back", now=time.time())
            world.lease = lease_state.written(world.lease, over)
            world._bump_lease()
        else:
            operate()

    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 30.0)
    monkeypatch.setattr(world, "_operate", ends)
    begun = time.monotonic()
    with pytest.raises((Expired, StaleEpoch)):
        if step == "sync":
            pool.update_from_disk("/c/2", "step-2")
        else:
            pool.sleep(settle=0)
    assert time.monotonic() - begun < 20
    assert not asked(world)


# --- process groups of ROLL's, which are set up outside of any transaction

GROUPS = ("/destroy_weights_update_group", "/init_weights_update_group")


def told_of_groups(world):
    return [sum(path in GROUPS for path in engine.paths()) for engine in world.engines]


async def claimed_untold(world, cluster):
    """Worker 0 sets its group up, and has claimed it; no operator tells of that."""
    world.operates = False
    starting = asyncio.create_task(cluster.setup(only=[0]))
    while not world.puts:
        await asyncio.sleep(0.01)
    return starting


def test_a_group_that_no_operator_confirms_is_told_to_no_engine(roll, reach, world):
    """The address may be another pool's engine's, which would hang in it for ever."""
    reach(world)

    async def train():
        async with Cluster(roll, 3) as cluster:
            world.operates = False
            before = asked(world)
            with pytest.raises(NotReady, match=r"told of the engines .* process groups -, claim 0"):
                await cluster.setup(only=[0])
            assert asked(world) == before
            world.operates = True
            await asyncio.to_thread(world.call, world._operate)
            await cluster.setup()
            assert all(told_of_groups(world))

    asyncio.run(train())


def test_a_group_is_left_by_no_engine_that_no_operator_confirms(roll, reach, world, monkeypatch):
    reach(world)
    monkeypatch.setattr(groups, "_FRESH_SECONDS", 0.0)  # what was confirmed is long ago

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            before = told_of_groups(world)
            world.operates = False
            with pytest.raises(NotReady, match=UNTOLD):
                await cluster.strategies[0].leave_groups()
            assert told_of_groups(world) == before

    asyncio.run(train())


@pytest.mark.parametrize("leaves", [False, True])
def test_an_engine_that_is_another_by_the_operators_word_is_told_of_no_group(
    roll, reach, world, monkeypatch, leaves
):
    """It went while no operator told of it, and its address may be anybody's."""
    reach(world)
    monkeypatch.setattr(groups, "_FRESH_SECONDS", 0.0)

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            before = told_of_groups(world)
            put, world.operates = world.put_lease, False

            async def slower(request):
                answer = await put(request)
                world.put_lease, world.operates = put, True
                world._restart(1, False)
                world._operate()
                return answer

            world.put_lease = slower
            one = cluster.strategies[1]
            if leaves:
                await one.leave_groups()
            else:
                engine = one.engine
                with pytest.raises(StaleEpoch, match="restarted, since ROLL formed"):
                    await one._groups.claim("h")
                    await one._groups.join(engine, {"group_name": "h"})
            assert told_of_groups(world) == [before[0], 0, before[2]]

    asyncio.run(train())


def test_groups_that_are_set_up_one_after_the_other_wait_for_the_operator_once(
    roll, reach, world, monkeypatch
):
    """ROLL has one for each stage of its pipeline."""
    reach(world)
    monkeypatch.setattr(groups, "_FRESH_SECONDS", 60.0)

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup("a")
            told = world.told
            world.operates = False  # and nobody waits for it
            for name in "bcd":
                await cluster.setup(name)
            assert world.told == told
            assert told_of_groups(world) == [8, 8, 8]

    asyncio.run(train())


def test_a_claim_of_groups_that_another_took_is_waited_for_no_longer(
    roll, reach, world, monkeypatch
):
    """No registry tells of it any more."""
    reach(world)
    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 60.0)

    async def train():
        async with Cluster(roll, 3) as cluster:
            starting = await claimed_untold(world, cluster)
            owner = GroupsOwner(id="other", holder="job-b", since=time.time(), seen=time.time())
            taken = dataclasses.replace(world.state, groups=owner)
            await asyncio.to_thread(world.write_lease, taken)
            with pytest.raises(GroupsTaken, match="job-b"):
                async with asyncio.timeout(30):
                    await starting
            assert told_of_groups(world) == [0, 0, 0]

    asyncio.run(train())


def test_beside_an_operator_that_does_not_tell_of_groups_they_are_set_up_as_before(
    roll, reach, world
):
    world.tells_groups = False
    reach(world)

    async def train():
        async with Cluster(roll, 3) as cluster:
            world.operates = False
            await cluster.setup()
            assert all(told_of_groups(world))

    asyncio.run(train())


def test_an_operator_that_takes_its_time_has_the_claim_said_again(roll, reach, world, monkeypatch):
    """Another one came in place of one that was gone, and the first claim may be over by then."""
    reach(world)
    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 10.0)
    monkeypatch.setattr(groups, "_FRESH_SECONDS", 0.2)

    async def train():
        async with Cluster(roll, 3) as cluster:
            starting = await claimed_untold(world, cluster)
            await asyncio.sleep(0.3)
            assert told_of_groups(world) == [0, 0, 0]
            assert [state.groups.claims for state in world.puts] == [1]
            world.operates = True
            await asyncio.to_thread(world.call, world._operate)
            await starting
            assert [state.groups.claims for state in world.puts][:2] == [1, 2]
            assert told_of_groups(world) == [2, 0, 0]

    asyncio.run(train())


def test_rolls_flush_asks_no_engine_out_of_a_sync(roll, reach, world):
    """It took the admin key to whoever was at the address."""
    reach(world)

    async def train():
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("flush_cache")
            assert "/flush_cache" not in asked(world)
            await cluster.model_update("w")
            assert asked(world).count("/flush_cache") >= 3

    asyncio.run(train())


def test_what_a_registry_says_of_groups_is_no_claim_of_another_owner_and_no_earlier_one():
    owner = GroupsOwner(id="a1", holder="job", claims=3)
    for groups_id, claims, tells in (("a1", 3, 1), ("a1", 4, 1), ("a1", 2, 0), ("b2", 3, 0)):
        section = {"groups": groups_id, "claims": claims}
        assert confirming.shows(registry._gates(section), owner) is bool(tells)
    assert confirming.shows(registry._gates({}), owner), "an operator of before"
