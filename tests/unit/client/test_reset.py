"""What a trainer that is gone has left in engines that lived on is taken from them, no more."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from sglang_operator.client import (
    AsyncPool,
    EngineError,
    Held,
    InvalidArgument,
    NotReady,
    Pool,
    StaleEpoch,
    Unsupported,
    resetting,
)
from sglang_operator.client.groups import KNOWN
from sglang_operator.weights import reset as weights_reset
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, other
from tests.unit.client.test_cli import weights as weights

JOIN, LEAVE = "/init_weights_update_group", "/destroy_weights_update_group"
END = "/end_weight_update"
SLIME = {"master_address": "10.0.0.9", "master_port": 1, "rank_offset": 1, "world_size": 7}


@pytest.fixture
def world():
    with FakePool(version="0.5.23") as made:
        for engine in made.engines:
            engine.groups = {"slime-pp_0"}
        yield made


def run(world, act):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            return await act(pool)

    return asyncio.run(story())


def reset(world, *names, **options):
    return run(world, lambda pool: pool.reset(names, **options))


def joins(engine, name="slime-pp_0"):
    """What a trainer that does not use the client does at its start."""
    return engine.answer(JOIN, {**SLIME, "group_name": name})[0]


def commit(world, version="step-1"):
    async def sync(pool):
        await pool.update_from_disk(f"/c/{version}", version)

    run(world, sync)


def test_a_trainer_that_never_speaks_to_us_joins_engines_that_lived_on(world):
    assert {joins(engine) for engine in world.engines} == {400}
    left = reset(world)
    assert [each.groups for each in left] == [("slime-pp_0",)] * 3
    assert {joins(engine) for engine in world.engines} == {200}


@pytest.mark.parametrize(
    "name",
    [
        *("weight_update_group", "slime-pp_3", "miles-pp_0", "update_weight_group_1"),
        "model_update/actor_train_2_actor_infer_pp1_ep2",
        "model_update/actor_train_2_actor_infer_fsdp2",
        "model_update/actor_train_2_actor_infer_again1_fsdp2",
        "model_update/actor_train_2_actor_infer_again3_pp1_ep2",
    ],
)
def test_the_names_that_trainers_give_are_known(world, name):
    assert name in KNOWN
    world.engines[1].groups.add(name)
    reset(world)
    assert world.engines[1].groups == set()


def test_a_group_of_another_name_is_named(world):
    world.engines[1].groups.add("mine")
    assert reset(world)[1].groups == ("slime-pp_0",)
    assert reset(world, "mine")[1].groups == ("mine",)


def test_a_session_that_was_left_open_ends(world):
    world.engines[2].session = True
    assert [each.session for each in reset(world)] == [False, False, True]
    assert not world.engines[2].session


def test_before_sessions_existed_none_is_ended():
    with FakePool(version="0.5.14") as world:
        reset(world)
        assert not any(END in engine.paths() for engine in world.engines)


def test_what_was_committed_stays_and_no_gate_moves(world):
    commit(world)
    before, asked = world.state, [len(engine.asked) for engine in world.engines]
    reset(world)
    after = world.state
    fields = ("phase", "version", "instances", "checkpoint", "intact", "holder", "at_work")
    assert [getattr(after, f) for f in fields] == [getattr(before, f) for f in fields]
    assert {engine.gate_version for engine in world.engines} == {"step-1"}
    for engine, seen in zip(world.engines, asked, strict=True):
        assert {path for path, _ in engine.asked[seen:]} == {LEAVE, END}
    assert {state.phase for state in world.puts[-2:]} == {Phase.COMMITTED}


def test_of_a_pool_that_nobody_has_synced_the_lease_says_what_it_said(world):
    reset(world)
    assert (world.state.phase, world.state.holder) == (Phase.IDLE, "")
    commit(world)  # and the next begins at once


def test_engines_that_an_abort_left_paused_stay_so_and_gates_closed(world):
    async def fails(pool):
        with pytest.raises(ZeroDivisionError):
            async with pool.sync("step-1"):
                _ = 1 / 0

    run(world, fails)
    said = world.state.message
    reset(world)
    assert (world.state.phase, world.state.holder, world.state.message) == (
        Phase.ABORTED,
        "",
        said,
    )
    assert all(engine.paused for engine in world.engines)
    commit(world, "step-2")
    assert not any(engine.paused for engine in world.engines)


def syncing(world, *, age):
    """Another trainer's sync, last renewed so many seconds ago; the client sees it only now."""
    now = time.time()
    world.write_lease(
        steps.begin(world.state, other(), epoch="e", version="v", now=now - age, seen=now)
    )


def test_while_somebody_else_syncs_nothing_is_asked_of_any_engine(world):
    syncing(world, age=0)
    with pytest.raises(Held, match="trainer-b"):
        reset(world)
    assert not any(LEAVE in engine.paths() for engine in world.engines)
    assert world.state.holder == "trainer-b"


def test_a_sync_whose_trainer_is_gone_ends_as_aborted(world):
    syncing(world, age=0)
    short = replace(world.state, duration=1.0)
    world.write_lease(short)
    reset(world, wait=10.0)
    assert world.state.phase is Phase.ABORTED
    assert "trainer-b" in world.state.message
    assert all(engine.gate == "Closed" for engine in world.engines)
    assert not any(engine.groups for engine in world.engines)


def test_the_processes_own_sync_is_somebody_else_too(world):
    async def amid(pool):
        async with pool.sync("step-1") as sync:
            with pytest.raises(Held):
                await pool.reset()
            await sync.update_weights_from_disk("/c/1")

    run(world, amid)
    assert world.state.version == "step-1"


def test_sleeping_engines_are_woken_before(world):
    commit(world)

    async def asleep(pool):
        await pool.sleep(["kv_cache"], settle=0)
        with pytest.raises(Unsupported, match="Sleeping"):
            await pool.reset()
        assert not any(LEAVE in engine.paths() for engine in world.engines)
        await pool.wake()
        await pool.reset()

    run(world, asleep)
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")


def test_an_engine_that_ended_is_in_no_group_and_in_nobodys_way(world):
    world.engines[1].dead = True
    world.engines[1].state = "Starting"
    left = reset(world)
    assert [each.ended for each in left] == [False, True, False]
    assert [engine.groups for engine in world.engines[::2]] == [set(), set()]


def test_an_engine_that_ends_on_the_way_does_not_either(world):
    engine = world.engines[1]
    leave, asked = engine._destroy_weights_update_group, []

    def ends(payload):
        asked.append(payload)
        if len(asked) == 3:
            engine.dead = True
            threading.Timer(0.3, world.restart, (1,)).start()  # as kubelet tells it
        return leave(payload)

    engine._destroy_weights_update_group = ends
    assert [each.ended for each in reset(world)] == [False, True, False]
    assert [engine.groups for engine in world.engines[::2]] == [set(), set()]
    assert world.state.holder == ""


def test_one_that_lives_and_does_not_answer_is_named_once_the_others_are_reset(world, monkeypatch):
    monkeypatch.setattr(resetting, "CONTROL_SECONDS", 0.5)
    world.engines[1].stuck = {LEAVE}
    with pytest.raises(NotReady, match=r"engine 1 .*delete the pods of g2-3"):
        reset(world)
    assert [engine.groups for engine in world.engines[::2]] == [set(), set()]
    assert (world.state.phase, world.state.holder) == (Phase.IDLE, "")


def test_one_that_refuses_is_an_error_once_the_others_are_reset(world):
    world.engines[0].refuse[LEAVE] = (400, "Failed to destroy custom process group: NCCL.")
    with pytest.raises(EngineError, match="Failed to destroy"):
        reset(world)
    assert [engine.groups for engine in world.engines[1:]] == [set(), set()]
    assert world.state.holder == ""


def test_who_is_interrupted_gives_the_lease_back(world):
    world.engines[1].stuck = {LEAVE}

    async def interrupted(pool):
        task = asyncio.create_task(pool.reset())
        while not world.engines[1].held:
            await asyncio.sleep(0.01)
        assert world.state.holder == pool.holder
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()  # what was sent may arrive after somebody else has joined
        world.engines[1].stuck = set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(world, interrupted)
    assert (world.state.phase, world.state.holder, world.state.at_work) == (Phase.IDLE, "", False)


def test_a_lease_that_another_took_meanwhile_is_left_to_it(world):
    world.engines[1].stuck = {LEAVE}

    async def robbed(pool):
        task = asyncio.create_task(pool.reset())
        while not world.engines[1].held:
            await asyncio.sleep(0.01)
        taken = replace(world.state, holder="trainer-b", id="t-other", phase=Phase.SYNCING)
        await asyncio.to_thread(world.write_lease, taken)
        world.engines[1].stuck = set()
        await asyncio.gather(task, return_exceptions=True)

    run(world, robbed)
    assert world.state.holder == "trainer-b"  # it is left alone


def test_after_a_reset_no_bucket_goes_to_a_group_that_this_client_had_set_up(world):
    async def train(pool):
        async with pool.sync("step-1") as sync:
            plan = sync.nccl_plan("10.0.0.1", 29500, group_name="g")
            await sync.init_weights_update_group(plan)
            await sync.update_weights_from_distributed(["w"], ["bfloat16"], [[2]], group_name="g")
        await pool.reset(["g"])
        with pytest.raises(StaleEpoch, match="in no process group since"):
            async with pool.sync("step-2") as sync:
                await sync.update_weights_from_distributed(
                    ["w"], ["bfloat16"], [[2]], group_name="g"
                )

    run(world, train)
    assert not any(engine.dead for engine in world.engines)


def test_a_version_whose_engines_cannot_leave_is_told_what_to_do():
    with FakePool(version="0.5.2") as world:
        with pytest.raises(Unsupported, match="kubectl sglang rollout restart actor-infer"):
            reset(world)
        assert world.puts == []


def test_where_no_engine_can_be_reached_nothing_is_taken(world):
    world.strangers = True
    with pytest.raises(NotReady, match="nothing was begun"):
        reset(world)
    assert world.puts == []


@pytest.mark.parametrize("groups", ["slime-pp_0", [1], [""]])
def test_names_are_a_list_of_text(world, groups):
    with pytest.raises(InvalidArgument, match="groups"):
        run(world, lambda pool: pool.reset(groups))
    assert world.puts == []


def test_it_blocks_too(world):
    with Pool(POOL, NAMESPACE, identity=world.identity) as pool:
        assert len(pool.reset()) == 3


def test_kubectl_tells_what_was_left(world, weights):
    world.engines[0].session = True
    assert weights("reset", "--group", "mine").splitlines() == [
        "reset: 3 engines; their weights: Idle",
        "  slime-pp_0: left by engines 0, 1, 2",
        "  an update was left open, and is ended: engine 0",
    ]
    assert "none was in a group of a known name" in weights("reset")


# --- the steps themselves

ME = other("t-reset")


@pytest.mark.parametrize(
    ("before", "during", "after"),
    [
        (Transaction(), Phase.IDLE, Phase.IDLE),
        (
            Transaction(phase=Phase.COMMITTED, version="v", intact=True),
            Phase.COMMITTED,
            Phase.COMMITTED,
        ),
        (Transaction(phase=Phase.ABORTED, message="why"), Phase.SYNCING, Phase.ABORTED),
        (
            Transaction(phase=Phase.SYNCING, holder="gone", id="x", renewed=1.0),
            Phase.SYNCING,
            Phase.ABORTED,
        ),
        (Transaction(phase=Phase.AWAKE), Phase.SYNCING, Phase.ABORTED),
        (Transaction(phase=Phase.AWAKE, intact=True), Phase.AWAKE, Phase.AWAKE),
    ],
)
def test_each_phase_ends_as_it_was_or_aborted(before, during, after):
    begun = weights_reset.begin(before, ME, epoch="e", now=1e6, seen=0.0)
    assert (begun.phase, begun.holder, begun.fenced) == (during, ME.holder, False)
    with pytest.raises(steps.RefusedError):
        steps.begin(begun, other("t-2"), epoch="e", version="w", now=1e6, seen=1e6)
    ended = weights_reset.end(begun, ME)
    assert (ended.phase, ended.holder, ended.vacant) == (after, "", False)
    assert ended.intact is (after is not Phase.ABORTED and before.intact)


@pytest.mark.parametrize(
    "state",
    [
        Transaction(phase=Phase.SLEEPING, released=("weights",)),
        Transaction(phase=Phase.AWAKE, released=("kv_cache",)),
        Transaction(phase=Phase.IDLE, fence=True),
    ],
)
def test_where_ending_a_session_or_going_on_would_be_wrong_it_is_refused(state):
    with pytest.raises(steps.RefusedError):
        weights_reset.begin(state, ME, epoch="e", now=1e6, seen=0.0)
