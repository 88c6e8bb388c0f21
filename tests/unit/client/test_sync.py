"""A sync as a trainer sees it: what it does to engines and Lease, and how it ends."""

import asyncio
import gc
import threading
import time
import warnings
from typing import Any

import pytest

from sglang_operator.client import (
    AsyncPool,
    EngineError,
    Expired,
    Held,
    NotReady,
    Pool,
    StaleEpoch,
    Unsupported,
    pausing,
)
from sglang_operator.client.sync import BLAME_SECONDS
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, other

STORY = 30.0  # seconds that anything here may take on a busy machine


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


def once(check, act):
    """Let it happen, in a thread of its own, as soon as this is so."""

    def run():
        wait(check)
        act()

    threading.Thread(target=run).start()


COMES = {
    "one more": lambda world: world.grow(),
    "another in the place of one": lambda world: world.restart(1),
}


@pytest.mark.parametrize("comes", COMES.values(), ids=COMES)
@pytest.mark.parametrize("given", [False, True], ids=["", "of a given epoch"])
def test_a_sync_that_had_to_wait_is_one_of_the_engines_that_are_up_then(world, pool, comes, given):
    """Those of before would leave out who came, or end at once for who went."""

    async def story():
        options = {"identity": world.identity}
        async with (
            AsyncPool(POOL, NAMESPACE, holder="a", **options) as first,
            AsyncPool(POOL, NAMESPACE, holder="b", **options) as second,
        ):
            epoch = await second.epoch() if given else None
            held = first.sync("step-1", interrupts=False)
            await held.begin()
            later = second.sync("step-2", wait=20, epoch=epoch)
            beginning = asyncio.create_task(later.begin())
            await asyncio.sleep(0.3)
            assert not beginning.done()
            await asyncio.to_thread(comes, world)
            await held.abort("that is enough")
            if given:
                with pytest.raises(StaleEpoch, match="the engines are not those of epoch"):
                    await beginning
                return
            await beginning
            covered = {engine.instance for engine in later.engines}
            assert covered == {engine.instance for engine in world.engines}
            assert later.registry is not None
            assert world.state.epoch == later.registry.epoch == await second.epoch()
            await later.update_weights_from_disk("/c/2")
            await later.finish()

    asyncio.run(asyncio.wait_for(story(), STORY))
    if not given:
        assert {(e.weights, e.gate) for e in world.engines} == {("/c/2", "Open")}


def test_a_sync_pauses_updates_continues_and_commits(world, pool):
    with pool.sync("step-1") as sync:
        assert all(engine.paused for engine in world.engines)
        assert world.state.phase is Phase.SYNCING
        sync.update_weights_from_disk("/c/step-1")
    for engine in world.engines:
        assert engine.paths() == [
            "/pause_generation",
            "/abort_request",
            "/flush_cache",
            "/update_weights_from_disk",
            "/update_weight_version",
            "/flush_cache",
            "/continue_generation",
        ]
        assert (engine.weights, engine.label, engine.gate) == ("/c/step-1", "step-1", "Open")
        assert not engine.paused
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")
    assert world.state.instances == {engine.instance for engine in world.engines}
    assert pool.wait_synced("step-1", STORY).weights.version == "step-1"


def test_a_pool_without_gates_is_synced_once_that_is_committed():
    with (
        FakePool(2, gate="Off") as world,
        Pool(POOL, NAMESPACE, identity=world.identity) as pool,
    ):
        pool.update_from_disk("/c/1", "step-1")
        assert {engine.version for engine in pool.engines()} == {None}
        assert pool.wait_synced("step-1", STORY).weights.version == "step-1"
        with pytest.raises(NotReady, match=r"step-2 is not committed.*Committed.*'step-1'"):
            pool.wait_synced("step-2", 0.1)
        with pytest.raises(RuntimeError), pool.sync("step-2"):
            raise RuntimeError("the trainer ends")
        with pytest.raises(NotReady, match=r"step-1 is not committed.*Aborted"):
            pool.wait_synced("step-1", 0.1)


def test_the_engines_go_on_while_the_lease_is_held(world, pool):
    """Were the Lease free already, another trainer's pause could be undone."""
    seen = []

    def note(payload):
        seen.append(world.state.holder)
        return 200, {}

    for engine in world.engines:
        engine._continue_generation = note
    with pool.sync("step-1"):
        pass
    assert seen == ["trainer-a"] * 3


def test_an_error_aborts_and_leaves_the_engines_paused(world, pool):
    with pytest.raises(ValueError, match="torn"), pool.sync("step-1"):
        raise ValueError("torn at bucket 3")
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")
    assert world.state.message == "ValueError: torn at bucket 3"
    assert all(engine.paused for engine in world.engines)


def test_the_secrets_of_a_trainer_that_fails_stand_in_no_lease(world, pool):
    """Whoever may read Leases reads its message, as do status, gates and other trainers' logs."""
    said = "401 for https://me:hunter2Xq@hub/m, HF_TOKEN=hunter2Xq, Authorization: Bearer hunter2Xq"
    with pytest.raises(OSError, match="401"), pool.sync("step-1"):
        raise OSError(said)
    written = str(world.puts[-1].message)
    assert "401 for https://***@hub/m" in written
    assert "hunter2Xq" not in str(world.puts)


def test_the_next_sync_covers_what_an_abort_left(world, pool):
    with pytest.raises(ValueError), pool.sync("step-1"):
        raise ValueError
    pool.update_from_disk("/c/step-2", "step-2")
    assert {(e.weights, e.gate, e.paused) for e in world.engines} == {("/c/step-2", "Open", False)}
    assert world.state.checkpoint == "/c/step-2"


def test_an_engine_that_refuses_aborts_the_sync_and_is_named(world, pool):
    world.engines[1].refuse["/update_weights_from_disk"] = (400, "Failed to get model loader")
    with pytest.raises(EngineError, match=r"engine 1 .* 400 Failed to get model loader") as caught:
        pool.update_from_disk("/nowhere", "step-1")
    assert (caught.value.rank, caught.value.status) == (1, 400)
    assert world.state.phase is Phase.ABORTED
    assert "engine 1" in world.state.message


def test_a_restart_during_a_call_raises_stale_epoch_at_once(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.sync.BLAME_SECONDS", 2 * STORY)
    monkeypatch.setattr("sglang_operator.sending.DELIVERY_SECONDS", 0.5)
    for engine in world.engines:
        engine.stuck.add("/update_weights_from_distributed")
    with (
        pytest.raises(StaleEpoch, match=r"engine 1 \(g2-3\) restarted") as caught,
        pool.sync("step-1") as sync,
    ):
        once(lambda: all(engine.held for engine in world.engines), lambda: world.restart(1))
        begun = time.monotonic()
        sync.update_weights_from_distributed(["w"], ["bfloat16"], [[2]], group_name="g")
    assert time.monotonic() - begun < STORY
    assert "make the process group anew" in str(caught.value)
    assert world.state.phase is Phase.ABORTED
    assert [engine.paused for engine in world.engines] == [True, False, True]


def test_an_engine_whose_end_is_told_seconds_later_raises_stale_epoch(world, pool, monkeypatch):
    assert BLAME_SECONDS > 2 * 2.1, "a kubelet was seen to take 2.1 s"
    monkeypatch.setattr("sglang_operator.client.sync.BLAME_SECONDS", STORY)
    world.engines[1].stuck.add("/update_weights_from_disk")

    def ends():
        world.restart(1, told=False)
        time.sleep(0.5)
        world.call(world.publish)

    with pytest.raises(StaleEpoch, match=r"engine 1 \(g2-3\) restarted"), pool.sync("1") as sync:
        once(lambda: world.engines[1].held, ends)
        sync.update_weights_from_disk("/w")


def test_an_end_that_a_broken_watch_did_not_tell_is_read(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.sync.BLAME_SECONDS", 0.3)
    monkeypatch.setattr("sglang_operator.client.sync.AsyncSync._stale", _sees_nothing)
    world.engines[1].stuck.add("/update_weights_from_disk")
    with pytest.raises(StaleEpoch, match=r"engine 1 \(g2-3\) restarted"), pool.sync("1") as sync:
        once(lambda: world.engines[1].held, lambda: world.restart(1))
        sync.update_weights_from_disk("/w")


async def _sees_nothing(self):
    await asyncio.Event().wait()


def test_a_trainer_in_its_own_code_is_told_of_a_restart(world, pool):
    told = threading.Event()
    with pytest.raises(StaleEpoch), pool.sync("step-1", on_lost=lambda reason: told.set()) as sync:
        world.restart(2)
        assert told.wait(STORY)
        sync.check()


def test_a_restart_that_nobody_looked_for_still_voids_the_commit(world, pool):
    told = threading.Event()
    with pytest.raises(StaleEpoch), pool.sync("step-1", on_lost=lambda _: told.set()):
        world.restart(0)
        assert told.wait(STORY)
    assert world.state.phase is Phase.ABORTED


def test_an_engine_that_answers_no_more_is_said_to_have_restarted(world, pool, monkeypatch):
    """The connection breaks before the operator has published that the engine is another."""
    noticed: list[EngineError] = []
    init = EngineError.__init__

    def noticing(self: EngineError, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        noticed.append(self)

    monkeypatch.setattr(EngineError, "__init__", noticing)
    with pytest.raises(StaleEpoch) as caught, pool.sync("step-1") as sync:
        world.call(lambda: setattr(world.engines[1], "dead", True))
        once(lambda: bool(noticed), lambda: world.restart(1))
        sync.update_weights_from_disk("/c/step-1")
    # Whoever was first: the registry may tell of it before the broken connection is looked into.
    assert noticed and "engine 1 " in str(caught.value) and " restarted" in str(caught.value)


def test_the_body_of_an_asynchronous_sync_is_interrupted(world):
    async def train() -> float:
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            begun = time.monotonic()
            with pytest.raises(StaleEpoch):
                async with pool.sync("step-1"):
                    asyncio.get_running_loop().run_in_executor(None, world.restart, 0)
                    await asyncio.sleep(2 * STORY)
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0
            return time.monotonic() - begun

    assert asyncio.run(train()) < STORY
    assert world.state.phase is Phase.ABORTED


def test_a_cancellation_from_outside_stays_one_and_aborts(world):
    async def train() -> None:
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    async with pool.sync("step-1"):
                        limit.reschedule(asyncio.get_running_loop().time())
                        await asyncio.sleep(60)

    asyncio.run(train())
    assert world.state.phase is Phase.ABORTED


def test_a_second_trainer_is_refused_in_words(world, pool):
    with (
        pool.sync("step-1"),
        Pool(POOL, NAMESPACE, identity=world.identity) as second,
        pytest.raises(Held, match=r"^trainer-a holds the weights of this pool") as caught,
    ):
        second.update_from_disk("/c/other", "other")
    assert caught.value.holder == "trainer-a"
    assert caught.value.until - caught.value.since >= 30
    assert world.state.version == "step-1"


def test_a_second_trainer_can_wait_for_its_turn(world, pool):
    with Pool(POOL, NAMESPACE, identity=world.identity) as second:
        with pool.sync("step-1"):
            turn = threading.Thread(
                target=second.update_from_disk, args=("/c/2", "step-2"), kwargs={"wait": STORY}
            )
            turn.start()
            time.sleep(0.1)
            assert world.state.holder == "trainer-a"
        turn.join(STORY)
    assert world.state.version == "step-2"


def test_a_sync_that_was_taken_over_cannot_write_on(world, pool):
    with pytest.raises(Expired, match="held by trainer-b"), pool.sync("step-1", duration=3):
        taken = steps.begin(world.state, other(), epoch="e", version="v", now=time.time(), seen=0)
        world.write_lease(taken)
    assert world.state.holder == "trainer-b"
    assert all("/continue_generation" not in engine.paths() for engine in world.engines)


def test_a_sync_renews_in_the_background(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)  # renewed as often
    with pool.sync("step-1", duration=600):
        first = world.state.renewed
        wait(lambda: world.state.renewed > first + 0.5)
    assert world.state.phase is Phase.COMMITTED


def test_a_sync_that_cannot_renew_is_over_before_others_may_take_over(world, pool):
    told: list[float] = []
    lost = pool.sync("step-1", duration=1, on_lost=lambda _: told.append(time.time()))
    with pytest.raises(Expired, match="could not be renewed"), lost as sync:
        until = world.state.renewed + world.state.duration
        world.failures = [503] * 1000
        wait(lambda: told)
        world.failures = []
        sync.call("/update_weights_from_disk", {"model_path": "/c/1"})
    assert told[0] < until
    assert all("/update_weights_from_disk" not in engine.paths() for engine in world.engines)


def test_a_process_that_stood_still_finds_its_fence_down(world, pool):
    with (
        pytest.raises(Expired, match="this process stood still"),
        pool.sync("step-1") as sync,
    ):
        sync._inner._hold._renewed -= 60
        sync.update_weights_from_disk("/c/1")
    assert all("/update_weights_from_disk" not in engine.paths() for engine in world.engines)


def test_a_lost_answer_to_a_commit_is_not_taken_for_a_refusal(world, pool):
    with pool.sync("step-1") as sync:
        sync.update_weights_from_disk("/c/1")
        world.lose_answers = 2  # the renewal before the engines go on, and the commit
    assert world.state.phase is Phase.COMMITTED


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(world, pool):
    world.failures = [0, 503, 429]
    with pool.sync("step-1"):
        world.failures = [500]
    assert world.state.phase is Phase.COMMITTED


def test_engines_that_are_not_up_are_named(world, pool):
    world.call(lambda: setattr(world.engines[2], "state", "Starting"))
    with pytest.raises(NotReady, match=r"2/3 engines are up; waiting for engine 2 .*: Starting"):
        pool.update_from_disk("/c/1", "step-1")
    assert not world.puts
    with pytest.raises(NotReady, match=r"2/3 engines are up.* after 0 s"):
        pool.wait_ready(0.1)


def test_a_plan_of_another_epoch_is_stale(world, pool):
    plan = pool.nccl_plan("10.0.0.1", 29500)
    world.restart(0)
    with (
        pytest.raises(StaleEpoch, match="make the plan and the process group anew"),
        pool.sync("step-1", epoch=plan.epoch),
    ):
        pass
    assert not world.puts


def test_waits_until_paused_engines_are_idle(world, pool):
    world.call(lambda: setattr(world.engines[0], "busy", 3))
    with pool.sync("step-1"):
        assert world.engines[0].paths().count("/flush_cache") == 4


@pytest.mark.parametrize("version", ["0.5.20", "0.5.23"])
def test_buckets_are_sent_within_a_session_where_there_is_one(version):
    with FakePool(version=version) as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        with pool.sync("step-1") as sync:
            for name in ("a", "b"):
                sync.update_weights_from_distributed(
                    [name], ["torch.bfloat16"], [[2]], group_name="g"
                )
        asked = made.engines[0].asked
        session = version == "0.5.23"
        assert [path for path, _ in asked][3:] == [
            *(["/begin_weight_update"] if session else []),
            "/update_weights_from_distributed",
            "/update_weights_from_distributed",
            *(["/end_weight_update"] if session else []),
            "/update_weight_version",
            "/flush_cache",
            "/continue_generation",
        ]
        bucket = next(body for path, body in asked if path == "/update_weights_from_distributed")
        assert bucket["dtypes"] == ["bfloat16"]
        assert "weight_version" not in bucket


def test_a_session_that_a_torn_sync_left_open_is_opened_anew():
    with FakePool(version="0.5.23") as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        with pytest.raises(ValueError), pool.sync("step-1") as sync:
            sync.update_weights_from_tensor({"serialized_named_tensors": ["x"]})
            raise ValueError
        assert all(engine.session for engine in made.engines)
        with pool.sync("step-2") as sync:
            sync.update_weights_from_tensor(
                lambda engine: {"serialized_named_tensors": [f"for {engine.rank}"]}
            )
        assert made.state.version == "step-2"
        assert not any(engine.session for engine in made.engines)
        assert made.engines[2].asked[-5][1]["serialized_named_tensors"] == ["for 2"]


def test_versions_without_pause_are_refused_unless_the_trainer_vouches():
    with (
        FakePool(version="0.4.6.post5") as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
    ):
        with pytest.raises(Unsupported, match="has no /pause_generation"):
            pool.update_from_disk("/c/1", "step-1")
        pool.update_from_disk("/c/1", "step-1", pause=None)
        assert made.engines[0].paths() == [
            "/flush_cache",
            "/update_weights_from_disk",
            "/flush_cache",
        ]


def _asleep(pool):
    pool.sleep(settle=0)


def _aborted(pool):
    with pytest.raises(KeyError), pool.sync("step-half"):
        raise KeyError


@pytest.mark.parametrize("before", [_asleep, _aborted])
def test_a_sync_without_a_pause_lets_engines_go_on_that_were_paused_before(world, pool, before):
    pool.update_from_disk("/c/1", "step-1")
    before(pool)
    assert all(engine.paused for engine in world.engines)
    pool.update_from_disk("/c/2", "step-2", pause=None)
    assert {(e.gate_version, e.paused) for e in world.engines} == {("step-2", False)}


def test_a_trainer_that_ends_no_requests_and_dies_leaves_paused_engines(world, pool):
    """Behind gates that are open until its Lease expires, and over connections that are kept."""
    pool.update_from_disk("/c/1", "step-1")
    with pytest.raises(KeyError), pool.sync("step-2", pause=None) as sync:
        asked = [engine.paths()[-3:] for engine in world.engines]
        sync.update_weights_from_disk("/c/half")
        raise KeyError
    assert asked == [["/pause_generation", "/abort_request", "/flush_cache"]] * 3
    assert {(e.gate, e.weights, e.paused) for e in world.engines} == {("Closed", "/c/half", True)}


def test_a_sync_that_ends_no_requests_pauses_nothing_while_one_runs(world, pool):
    world.call(lambda: setattr(world.engines[1], "busy", 1000))
    with (
        pytest.raises(EngineError, match="requests still run"),
        pool.sync("step-1", pause=None),
    ):
        raise AssertionError
    assert not any("/pause_generation" in engine.paths() for engine in world.engines)
    assert not any("/abort_request" in engine.paths() for engine in world.engines)


def test_pause_modes_are_those_of_the_version():
    with (
        FakePool(version="0.5.2") as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
        pytest.raises(Unsupported, match="cannot pause in mode retract"),
    ):
        pool.update_from_disk("/c/1", "step-1", pause="retract")


@pytest.mark.parametrize("version", ["0.5.10", "0.5.14", "0.5.20"])
def test_requests_are_not_kept_where_the_cache_of_the_old_weights_would_stay(version):
    with (
        FakePool(version=version) as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
        pytest.raises(Unsupported, match="cannot empty its prefix cache while requests wait"),
    ):
        pool.update_from_disk("/c/1", "step-1", pause="retract")
    assert not made.puts


@pytest.mark.parametrize("version", ["0.5.7", "0.5.9", "0.5.23"])
def test_requests_are_kept_where_the_cache_can_be_emptied_under_them(version):
    with (
        FakePool(version=version) as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
    ):
        pool.update_from_disk("/c/1", "step-1", pause="retract")
        assert made.engines[0].asked[0] == ("/pause_generation", {"mode": "retract"})
        assert "/abort_request" not in made.engines[0].paths()


@pytest.mark.parametrize("mode", ["in_place", "abort "])
def test_a_pause_that_keeps_the_old_cache_or_does_not_exist_is_refused(world, pool, mode):
    with pytest.raises(Unsupported, match="expected 'abort', 'retract'"):
        pool.update_from_disk("/c/1", "step-1", pause=mode)
    assert not world.puts


def test_versions_without_modes_pause_in_their_own_way():
    with (
        FakePool(version="0.5.5.post3") as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
    ):
        pool.update_from_disk("/c/1", "step-1")
        assert made.engines[0].asked[0] == ("/pause_generation", {"mode": "abort"})
        assert "/abort_request" not in made.engines[0].paths()


def test_what_comes_late_in_a_pause_is_ended_too(world, pool):
    """It was on its way to the scheduler when the pause began, and would wait there for ever."""
    world.write_lease(Transaction(phase=Phase.ABORTED))
    world.call(lambda: setattr(world.engines[0], "busy", 2))
    pool.update_from_disk("/c/1", "step-1")
    assert world.engines[0].paths().count("/abort_request") == 3


def test_requests_that_a_standing_scheduler_cannot_end_are_ended_by_a_working_one(
    world, pool, monkeypatch
):
    """Requests that wait for their grammar; these weights are whole, so they may be answered."""
    monkeypatch.setattr(pausing, "QUICK_SECONDS", 0.0)
    world.call(lambda: setattr(world.engines[0], "busy", 1))
    pool.update_from_disk("/c/1", "step-1")
    asked = [body for path, body in world.engines[0].asked if path == "/pause_generation"]
    assert [body["mode"] for body in asked] == ["retract", "abort", "retract"]
    assert world.engines[1].paths().count("/pause_generation") == 1


def test_torn_weights_are_never_let_go_on_to_end_requests(world, pool, monkeypatch):
    monkeypatch.setattr(pausing, "QUICK_SECONDS", 0.0)
    world.write_lease(Transaction(phase=Phase.ABORTED, version="step-0"))
    world.call(lambda: setattr(world.engines[0], "busy", 1))
    pool.update_from_disk("/c/1", "step-1")
    assert world.engines[0].paths().count("/continue_generation") == 1  # the sync's own


def test_a_commit_vouches_for_the_cache_too(world, pool, monkeypatch):
    """The trainer has let requests run in between: what they left is of the old weights."""
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.0)
    with pytest.raises(EngineError, match="requests still run"), pool.sync("step-1", pause=None):
        world.call(lambda: setattr(world.engines[1], "busy", 1000))
    assert world.state.phase is Phase.ABORTED


def test_engines_leave_an_older_group_of_the_name_before_they_join(world, pool):
    """An earlier sync made it, or a trainer that is gone: torch keeps names."""
    world.engines[1].refuse["/destroy_weights_update_group"] = (400, "does not exist")
    for step in range(2):
        with pool.sync(f"step-{step}") as sync:
            plan = sync.nccl_plan("10.0.0.1", 29500)
            sync.submit("init_weights_update_group", plan).result(STORY)
    for engine in world.engines:
        groups = [path for path in engine.paths() if path.endswith("_group")]
        assert groups == ["/destroy_weights_update_group", "/init_weights_update_group"] * 2


def test_a_group_that_cannot_be_left_ends_the_sync(world, pool):
    world.engines[1].refuse["/destroy_weights_update_group"] = (500, "boom")
    with pytest.raises(EngineError, match="boom"), pool.sync("step-1") as sync:
        sync.init_weights_update_group(sync.nccl_plan("10.0.0.1", 29500))
    assert not world.engines[0].paths().count("/init_weights_update_group")


def test_where_engines_cannot_leave_a_group_each_plan_has_a_name_of_its_own():
    with FakePool(version="0.5.2") as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        names = {pool.nccl_plan("10.0.0.1", 29500, group_name="g").group_name for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("g-") for name in names)
        with pool.sync("step-1") as sync:
            sync.init_weights_update_group(sync.nccl_plan("10.0.0.1", 29500))
        assert "/destroy_weights_update_group" not in made.engines[0].paths()


def test_every_engine_gets_its_place_in_the_group(world, pool):
    with pool.sync("step-1") as sync:
        plan = sync.nccl_plan("10.0.0.1", 29500, group_name="g1", backend="gloo")
        sync.submit("init_weights_update_group", plan).result(STORY)
        sync.destroy_weights_update_group("g1")
    bodies = [
        body
        for engine in world.engines
        for path, body in engine.asked
        if path == "/init_weights_update_group"
    ]
    assert [body["rank_offset"] for body in bodies] == [1, 3, 5]
    assert bodies[0] == {
        "master_address": "10.0.0.1",
        "master_port": 29500,
        "rank_offset": 1,
        "world_size": 7,
        "group_name": "g1",
        "backend": "gloo",
    }


def restored(world):
    """The API server's data are those of an earlier day; one engine is another since."""
    world.call(lambda: setattr(world, "_resource_version", 50))
    world.restart(0, told=False)


def test_a_registry_restored_from_a_backup_is_what_there_is(world, pool):
    """Its resource version goes back, and no watch of before is ever told of it."""
    pool.update_from_disk("/c/1", "step-1")
    restored(world)
    assert pool.nccl_plan("10.0.0.1", 29500).epoch == "-".join(e.instance for e in world.engines)
    pool.update_from_disk("/c/2", "step-2")
    assert {engine.weights for engine in world.engines} == {"/c/2"}
    world.restart(1)  # its watch goes on from there
    deadline = time.monotonic() + STORY
    while pool.engines()[1].instance != world.engines[1].instance:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sync_is_stale_once_its_engines_are_seen_in_a_restored_registry(world, pool):
    with pytest.raises(StaleEpoch), pool.sync("step-1") as sync:
        restored(world)
        world.break_watches()
        deadline = time.monotonic() + STORY
        while time.monotonic() < deadline:
            sync.check()
            time.sleep(0.01)


def test_a_watch_that_ends_is_taken_up_again(world, pool):
    told = threading.Event()
    with pytest.raises(StaleEpoch), pool.sync("step-1", on_lost=lambda _: told.set()) as sync:
        world.break_watches()
        world.restart(0)
        assert told.wait(STORY)
        sync.check()


def test_the_state_before_is_kept_by_an_abort_before_anything_was_written(world, pool):
    world.write_lease(Transaction(phase=Phase.COMMITTED, version="step-0", intact=True))
    world.engines[0].refuse["/pause_generation"] = (500, "no")
    with pytest.raises(EngineError):
        pool.update_from_disk("/c/1", "step-1")
    assert (world.state.phase, world.state.version) == (Phase.ABORTED, "step-0")


def test_what_was_submitted_and_not_waited_for_ends_with_the_pool(world):
    for engine in world.engines:
        engine.stuck.add("/update_weights_from_disk")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pool = Pool(POOL, NAMESPACE, identity=world.identity)
        with pytest.raises(ValueError), pool.sync("step-1") as sync:
            submitted = sync.submit("update_weights_from_disk", "/c/step-1")
            wait(lambda: all(engine.held for engine in world.engines))
            raise ValueError
        pool.close()
        assert submitted.done()
        del pool, sync
        gc.collect()
    assert [str(warning.message) for warning in told] == []


@pytest.mark.parametrize("turns", range(6))
def test_a_close_that_is_cancelled_on_its_way_ends_the_connections_all_the_same(world, turns):
    async def story() -> None:
        pool = AsyncPool(POOL, NAMESPACE, identity=world.identity)
        await pool.fresh()
        cluster, calls = pool._cluster, pool._calls
        assert cluster is not None and calls is not None
        closing = asyncio.create_task(pool.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        started = turns > 0
        closing.cancel()
        await asyncio.wait({closing})
        assert not started or (cluster.closed and calls._session.closed)
        await pool.close()

    asyncio.run(story())


def test_engines_that_would_answer_from_old_weights_are_not_synced(world, pool):
    world.no_sync = "enable_lmcache is true: what engines compute is kept there"
    world.publish()
    with pytest.raises(Unsupported, match=r"cannot be synced: enable_lmcache is true.*remove it"):
        pool.update_from_disk("/c/1", "step-1")
    assert not world.puts
    assert world.engines[0].paths() == []
