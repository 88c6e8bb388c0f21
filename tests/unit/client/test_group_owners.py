"""Process groups have an owner on record: whoever it is not sends nothing to an engine."""

import asyncio
import dataclasses
import logging
import time

import pytest

from sglang_operator.client import (
    AsyncPool,
    Expired,
    Held,
    StaleEpoch,
    groups,
    roll_groups,
)
from sglang_operator.client.errors import GroupsTaken
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_cli import weights as weights
from tests.unit.client.test_roll import Cluster

JOIN, LEAVE = "/init_weights_update_group", "/destroy_weights_update_group"
WRITE = "/update_weights_from_distributed"
FSDP = "model_update/actor_train_2_actor_infer_fsdp2"
BUCKET = (["w"], ["bfloat16"], [[2]])


@pytest.fixture
def world():
    with FakePool() as made:
        for engine in made.engines:
            engine.groups = set()
        yield made


def pools(world, *holders):
    return [AsyncPool(POOL, NAMESPACE, identity=world.identity, holder=each) for each in holders]


def together(world, act, *holders):
    """``act`` with a pool for each of these trainers."""

    async def story():
        opened = pools(world, *holders)
        try:
            return await act(*opened)
        finally:
            for pool in opened:
                await pool.close()

    return asyncio.run(story())


async def trains(pool, version, *, joins, group="weight_update_group"):
    async with pool.sync(version) as sync:
        if joins:
            await sync.init_weights_update_group(
                sync.nccl_plan("10.0.0.1", 29500, group_name=group)
            )
        await sync.update_weights_from_distributed(*BUCKET, group_name=group)


def bucket(name, group=FSDP):
    return [name], ["torch.bfloat16"], [(2,)], group


def counts(world, *paths):
    return [sum(map(engine.paths().count, paths)) for engine in world.engines]


def unseen(world):
    """The owner on record has not been seen for a while."""
    owner = dataclasses.replace(world.state.groups, seen=time.time() - 60)
    world.write_lease(dataclasses.replace(world.state, groups=owner))


# --- trainers by the client


def test_trainers_that_take_turns_are_told_to_set_their_groups_up_again(world, caplog):
    async def turns(a, b):
        await trains(a, "a-1", joins=True)
        await trains(b, "b-1", joins=True)
        before = counts(world, WRITE)
        with pytest.raises(StaleEpoch, match=r"groups of b since .* in turns, set the group up"):
            await trains(a, "a-2", joins=False)
        assert counts(world, WRITE) == before
        await trains(a, "a-2", joins=True)
        await trains(a, "a-3", joins=False)
        with pytest.raises(StaleEpoch, match="groups of a since"):
            await trains(b, "b-2", joins=False)

    with caplog.at_level(logging.WARNING):
        together(world, turns, "a", "b")
    assert "leave the process groups of a, which has set them up" in caplog.text
    assert not any(engine.dead for engine in world.engines)


def test_who_writes_from_disk_in_between_takes_no_group(world):
    async def turns(a, b):
        await trains(a, "a-1", joins=True)
        await b.update_from_disk("/c/b", "b-1")
        await trains(a, "a-2", joins=False)

    together(world, turns, "a", "b")
    assert world.state.groups.holder == "a"
    assert world.state.version == "a-2"


def test_a_trainer_that_has_set_none_up_broadcasts_into_nobody_elses(world):
    async def turns(a, b):
        await trains(a, "a-1", joins=True)
        with pytest.raises(StaleEpoch, match="this trainer has set none up"):
            await trains(b, "b-1", joins=False)

    together(world, turns, "a", "b")
    assert counts(world, WRITE) == [1, 1, 1]


def test_a_later_process_of_the_name_is_another_one(world):
    """Its earlier life may still be at it, and joins no group that is not set up anew."""

    async def lives(first, second):
        await trains(first, "1", joins=True)
        await trains(second, "2", joins=True)
        with pytest.raises(StaleEpoch):
            await trains(first, "3", joins=False)

    together(world, lives, "a", "a")


def test_who_has_lost_its_groups_does_not_take_another_out_of_its_own(world):
    async def turns(a, b):
        await trains(a, "a-1", joins=True)
        await trains(b, "b-1", joins=True)
        async with a.sync("a-2") as sync:
            await sync.destroy_weights_update_group("weight_update_group")
            await sync.update_weights_from_disk("/c/a")
        await trains(b, "b-2", joins=False)

    together(world, turns, "a", "b")
    assert world.state.version == "b-2"
    assert not any(engine.dead for engine in world.engines)


def test_calls_that_name_sglangs_paths_are_no_way_around(world):
    async def turns(a, b):
        await trains(a, "a-1", joins=True)
        async with b.sync("b-1") as sync:
            plan = sync.nccl_plan("10.0.0.2", 29500, group_name="own")
            await sync.call(JOIN, lambda engine: plan.payload(engine.rank))
            await sync.update_weights_from_distributed(*BUCKET, group_name="own")
        before = counts(world, WRITE, LEAVE)
        for path in (WRITE, LEAVE):
            with pytest.raises(StaleEpoch, match="groups of b since"):
                async with a.sync("a-2") as sync:
                    await sync.call(path, {"group_name": "weight_update_group"})
        assert counts(world, WRITE, LEAVE) == before

    together(world, turns, "a", "b")


def test_after_the_lease_was_made_anew_nobody_knows_whose_they_are(world):
    async def train(a):
        await trains(a, "a-1", joins=True)
        await asyncio.to_thread(world.delete_lease)
        await asyncio.to_thread(world.make_lease, Transaction(phase=Phase.ABORTED))
        with pytest.raises(StaleEpoch, match="does not say any more whose"):
            await trains(a, "a-2", joins=False)
        await trains(a, "a-2", joins=True)

    together(world, train, "a")
    assert world.state.version == "a-2"


def test_after_the_lease_was_made_anew_nobody_broadcasts_into_groups_that_engines_kept(world):
    """Who has set none up would have engines wait for whoever did, which may be gone."""

    async def train(a, b):
        await trains(a, "a-1", joins=True)
        last = world.state.groups
        await asyncio.to_thread(world.delete_lease)
        anew = Transaction(phase=Phase.ABORTED, groups=weights_groups.lost(last))
        await asyncio.to_thread(world.make_lease, anew)
        sent = counts(world, WRITE)
        with pytest.raises(StaleEpoch):
            await trains(b, "b-1", joins=False)
        with pytest.raises(StaleEpoch, match="does not say any more whose"):
            await trains(a, "a-2", joins=False)
        assert counts(world, WRITE) == sent
        await trains(b, "b-2", joins=True)
        await trains(a, "a-3", joins=True)
        assert world.state.groups.id not in (last.id, weights_groups.LOST)

    together(world, train, "a", "b")


def test_in_a_lease_of_before_a_trainer_with_groups_of_its_own_making_goes_on(world):
    async def train(a):
        for engine in world.engines:
            engine.groups.add("own")
        await trains(a, "a-1", joins=False, group="own")
        assert world.state.groups is None

    together(world, train, "a")
    assert world.state.version == "a-1"


def test_no_commit_covers_what_was_broadcast_in_groups_that_were_taken(world):
    """By somebody who did not ask for the Lease: its rules do not let it come to that."""

    async def train(a):
        with pytest.raises(StaleEpoch, match="groups of b"):
            async with a.sync("a-1") as sync:
                await sync.init_weights_update_group(sync.nccl_plan("10.0.0.1", 29500))
                await sync.update_weights_from_distributed(
                    *BUCKET, group_name="weight_update_group"
                )
                taken = dataclasses.replace(world.state, groups=GroupsOwner(id="b1", holder="b"))
                await asyncio.to_thread(world.write_lease, taken)

    together(world, train, "a")
    assert world.state.phase is Phase.ABORTED


# --- jobs of ROLL


def test_a_second_job_of_roll_takes_the_groups_and_the_first_sends_nothing(roll, reach, world):
    reach(world)

    async def train():
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            await one.setup(FSDP)
            await one.all("broadcast_parameter", *bucket("a1"))
            await one.all("process_weights_after_loading")
            await two.setup(FSDP)
            asked = [len(engine.asked) for engine in world.engines]
            found = await asyncio.gather(
                *(each.broadcast_parameter(*bucket("a2")) for each in one.strategies),
                return_exceptions=True,
            )
            assert all(isinstance(each, GroupsTaken) for each in found)
            assert "actor_infer_10.0.0.2_29400" in str(found[1])
            assert [len(engine.asked) for engine in world.engines] == asked
            assert {engine.gate for engine in world.engines} == {"Open"}
            await two.all("broadcast_parameter", *bucket("b1"))
            await two.all("process_weights_after_loading")

    asyncio.run(train())
    assert {(e.gate, e.weights) for e in world.engines} == {("Open", "b1")}
    assert not any(engine.dead for engine in world.engines)


def test_each_worker_of_a_job_is_told_of_its_own_groups(roll, reach, world):
    """One that has not set its own up again since is not in the job's new ones."""
    reach(world)

    async def train():
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            await one.setup(FSDP)
            await one.all("broadcast_parameter", *bucket("a1"))
            await one.all("process_weights_after_loading")
            await two.setup(FSDP)
            await two.all("broadcast_parameter", *bucket("b1"))
            await two.all("process_weights_after_loading")
            await one.setup(FSDP, only=[0, 1])
            calls = [each.broadcast_parameter(*bucket("a2")) for each in one.strategies]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert found[:2] == [None, None]
            assert isinstance(found[2], GroupsTaken)
            assert world.engines[2].weights == "b1"

    asyncio.run(train())
    assert not any(engine.dead for engine in world.engines)


def test_while_a_job_forms_its_groups_another_waits(roll, reach, world, monkeypatch):
    reach(world)
    monkeypatch.setattr(groups, "FORMING_SECONDS", 1.0)
    monkeypatch.setattr("sglang_operator.weights.groups.FORMING_SECONDS", 1.0)
    monkeypatch.setattr(groups, "_FRESH_SECONDS", 0.2)
    monkeypatch.setattr(groups, "counted", lambda seconds: seconds / 2)

    async def train():
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            await one.setup(FSDP, only=[0])
            before = counts(world, JOIN)
            starting = asyncio.create_task(two.setup(FSDP))
            await asyncio.sleep(0.5)
            assert counts(world, JOIN) == before
            await starting
            assert world.state.groups.holder.startswith("actor_infer_10.0.0.2")

    asyncio.run(train())


def test_a_worker_that_stood_still_as_it_formed_a_group_sends_nothing(
    roll, reach, world, monkeypatch
):
    reach(world)
    monkeypatch.setattr(groups, "counted", lambda seconds: -1.0)

    async def train():
        async with Cluster(roll, 3) as one:
            with pytest.raises(Expired, match="was not sent"):
                await one.setup(FSDP, only=[0])

    asyncio.run(train())
    assert counts(world, JOIN, LEAVE) == [0, 0, 0]


def test_the_workers_of_a_job_write_the_record_once(roll, reach, world):
    reach(world)

    async def train():
        async with Cluster(roll, 3) as one:
            calls = (
                each.setup_collective_group("10.0.0.1", 29500, 1 + 2 * rank, 7, f"{FSDP}{name}")
                for name in range(4)
                for rank, each in enumerate(one.strategies)
            )
            await asyncio.gather(*calls)
            assert len(world.puts) <= len(one.strategies)
            assert {state.groups.id for state in world.puts} == {world.state.groups.id}

    asyncio.run(train())


def test_a_job_that_has_lost_its_groups_leaves_none_of_the_others(roll, reach, world, monkeypatch):
    reach(world)
    monkeypatch.setattr(roll_groups, "HELD_SECONDS", 0.0)

    async def train():
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            for cluster, name in ((one, "a1"), (two, "b1")):
                await cluster.setup(FSDP)
                await cluster.all("broadcast_parameter", *bucket(name))
                await cluster.all("process_weights_after_loading")
            with pytest.raises(GroupsTaken):
                await one.all("update_obstacle")
            with pytest.raises(GroupsTaken):
                await one.all("leave_groups")
            assert all(FSDP in engine.groups for engine in world.engines)

    asyncio.run(train())


# --- a reset


@pytest.mark.parametrize("force", [True, False])
def test_a_reset_between_two_updates_is_told_to_the_job_before_its_next_bucket(
    roll, reach, world, force
):
    reach(world)

    async def train():
        async with Cluster(roll, 3) as one:
            await one.setup(FSDP)
            await one.all("broadcast_parameter", *bucket("a1"))
            await one.all("process_weights_after_loading")
            if not force:
                await asyncio.to_thread(unseen, world)
            (pool,) = pools(world, "kubectl")
            await pool.reset(force=force)
            await pool.close()
            before = counts(world, WRITE)
            found = await asyncio.gather(
                *(each.broadcast_parameter(*bucket("a2")) for each in one.strategies),
                return_exceptions=True,
            )
            assert ["kubectl has reset them" in str(each) for each in found] == [True] * 3
            assert not any(isinstance(each, GroupsTaken) for each in found)
            assert counts(world, WRITE) == before
            obstacles = [await each.update_obstacle() for each in one.strategies]
            assert all("has reset them" in each for each in obstacles)
            await one.all("leave_groups")
            await one.setup(f"{FSDP}_again1")
            await one.all("broadcast_parameter", *bucket("a2", f"{FSDP}_again1"))
            await one.all("process_weights_after_loading")

    asyncio.run(train())
    assert {(e.gate, e.weights) for e in world.engines} == {("Open", "a2")}
    assert not any(engine.dead for engine in world.engines)


@pytest.mark.parametrize("forming", [True, False])
def test_a_reset_asks_before_it_takes_groups_that_are_in_use(world, forming, monkeypatch):
    monkeypatch.setattr("sglang_operator.weights.groups.FORMING_SECONDS", 2.0)

    async def act(a, kubectl):
        await trains(a, "a-1", joins=True)
        if forming:
            owner = dataclasses.replace(world.state.groups, seen=0.0, forming=True)
            world_state = dataclasses.replace(world.state, groups=owner, duration=2.0)
            await asyncio.to_thread(world.write_lease, world_state)
        before = counts(world, LEAVE)
        with pytest.raises(Held, match=r"groups of a, .* weights reset --force; force=True"):
            await kubectl.reset()
        assert counts(world, LEAVE) == before
        await trains(a, "a-2", joins=False)
        await a.reset()  # its own

    together(world, act, "a", "kubectl")
    assert world.state.groups.left


def test_the_command_says_whose_groups_it_takes(world, weights):
    together(world, lambda a: trains(a, "a-1", joins=True), "a")
    text = weights("reset", "--force")
    assert "they were in the process groups of a, since" in text
    assert "weight_update_group: left by engines 0, 1, 2" in text
    assert "groups    none, reset by" in weights("status")


def test_the_command_asks_for_force(world, weights):
    together(world, lambda a: trains(a, "a-1", joins=True), "a")
    assert "--force" in weights("reset", code=1)
    assert all("weight_update_group" in engine.groups for engine in world.engines)
    assert "groups    of a, since" in weights("status")
