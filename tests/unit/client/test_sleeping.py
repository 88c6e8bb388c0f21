"""Sleep and wake: nothing is released behind an open gate, nobody is woken who did not sleep."""

import asyncio
import contextlib
import dataclasses
import functools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_operator.client import (
    AsyncPool,
    EngineError,
    Expired,
    Held,
    InvalidArgument,
    NotReady,
    Pool,
    PoolError,
    Unsupported,
    one_at_a_time,
    sleeping,
    waking,
)
from sglang_operator.weights import lost_lease, steps
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, OWNED, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def sleep(pool, *tags):
    pool.sleep(tags or ("weights", "kv_cache"), settle=0)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sleep_closes_the_gates_before_it_releases(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    assert {engine.gate for engine in world.engines} == {"Open"}
    sleep(pool)  # the engines assert that their gate is closed, and that they are paused
    assert {frozenset(engine.released) for engine in world.engines} == {
        frozenset({"weights", "kv_cache"})
    }
    assert world.state.phase is Phase.SLEEPING
    assert set(world.state.asleep) == {engine.instance for engine in world.engines}


def test_nothing_is_released_before_the_operator_has_acted(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.operates = False
    with pytest.raises(NotReady, match="the operator has not closed the gates within 0 s"):
        pool.sleep(settle=0, timeout=0.2)
    assert not any(engine.released for engine in world.engines)
    world.operates = True
    assert pool.wake().phase is Phase.COMMITTED, "nothing was released"
    assert {(engine.gate, engine.paused) for engine in world.engines} == {("Open", False)}


def test_engines_that_a_failed_sleep_has_paused_go_on_with_the_next_wake(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.engines[1].refuse["/pause_generation"] = 500, "a hiccup"
    with pytest.raises(EngineError):
        sleep(pool)
    assert any(engine.paused for engine in world.engines)
    world.engines[1].refuse.clear()
    assert pool.wake().phase is Phase.COMMITTED
    assert {(engine.gate, engine.paused) for engine in world.engines} == {("Open", False)}


@pytest.mark.parametrize("emptied", [False, True])
def test_a_lease_that_is_lost_before_a_sleep_has_named_anybody_learns_that_all_are_awake(
    world, pool, emptied
):
    """The operator took them for asleep, by the marks on their gates."""
    pool.update_from_disk("/c/1", "step-1")
    world.operates = False
    with ThreadPoolExecutor() as threads:
        sleeps = threads.submit(pool.sleep, settle=0, timeout=1.5)
        wait_until(lambda: world.state.phase is Phase.SLEEPING)
        tags, runs = frozenset(SLEEP_TAGS), [engine.instance for engine in world.engines]
        anew = lost_lease.forgotten(
            Transaction(transitions=world.state.transitions),
            steps.Trainer(holder="operator", transaction=""),
            asleep=dict.fromkeys(runs, tags),
            message="it is lost",
            now=time.time(),
        )
        if emptied:
            world.write_lease(Transaction())
        else:
            world.delete_lease()
        with pytest.raises(PoolError):
            sleeps.result()
    (world.write_lease if emptied else world.make_lease)(anew)
    wait_until(lambda: not any(world.state.sleeps(run) for run in runs))
    assert set(world.state.asleep) == set(runs)


def test_a_lease_that_is_lost_right_after_engines_woke_learns_that_they_did(
    world, pool, monkeypatch
):
    """It was on record, and the operator had not seen it yet: it takes them for asleep."""
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool)
    runs = [engine.instance for engine in world.engines]
    anew = lost_lease.forgotten(
        Transaction(transitions=world.state.transitions + 1),
        steps.Trainer(holder="operator", transaction=""),
        asleep=dict.fromkeys(runs, frozenset(SLEEP_TAGS)),
        message="it is lost",
        now=time.time(),
    )
    noted = waking.note_awake

    async def lose(*given, **options):
        await noted(*given, **options)
        world.lease_is_there = False  # on the loop of the fake pool it is one assignment

    monkeypatch.setattr(waking, "note_awake", lose)
    with pytest.raises(PoolError):
        pool.wake()
    world.make_lease(anew)
    wait_until(lambda: not any(world.state.sleeps(run) for run in runs))


def test_a_lease_that_is_lost_once_a_sleep_has_named_engines_takes_them_for_asleep(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool)
    runs = [engine.instance for engine in world.engines]
    anew = lost_lease.forgotten(
        Transaction(transitions=world.state.transitions),
        steps.Trainer(holder="operator", transaction=""),
        asleep=dict.fromkeys(runs, frozenset(SLEEP_TAGS)),
        message="it is lost",
        now=time.time(),
    )
    world.make_lease(anew)
    with pytest.raises(PoolError):
        sleep(pool)
    assert all(world.state.sleeps(run) == set(SLEEP_TAGS) for run in runs)


def test_wake_after_weights_were_kept_opens_the_same_gates(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    assert pool.wake().phase is Phase.COMMITTED
    assert {(e.gate, e.paused, len(e.released)) for e in world.engines} == {("Open", False, 0)}
    assert (world.state.version, world.state.holder) == ("step-1", "")


def test_wake_after_weights_were_released_leaves_engines_paused_and_closed(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool)
    assert pool.wake().phase is Phase.AWAKE
    assert {(e.gate, e.paused, len(e.released)) for e in world.engines} == {("Closed", True, 0)}


def test_a_pool_without_a_gate_goes_on_as_before_when_it_wakes_with_its_weights():
    """Nobody has written into it, and nobody has to: its engines serve what they loaded."""
    with (
        FakePool(gate="Off") as made,
        Pool(POOL, NAMESPACE, identity=made.identity, holder="trainer-a") as pool,
        Pool(POOL, NAMESPACE, identity=made.identity, holder="trainer-b") as other,
    ):
        for each in (pool, other):  # after which nobody holds it
            sleep(each, "kv_cache")
            assert each.wake().initial
            assert {(e.paused, len(e.released)) for e in made.engines} == {(False, 0)}
        sleep(other)
        assert not other.wake().initial
        assert all(engine.paused for engine in made.engines)


@pytest.mark.parametrize("gate", ["Off", "Versioned"])
def test_an_engine_that_came_after_the_commit_goes_on_too_where_clients_reach_it(gate):
    with (
        FakePool(gate=gate) as made,
        Pool(POOL, NAMESPACE, identity=made.identity, holder="trainer-a") as pool,
    ):
        pool.update_from_disk("/c/1", "step-1")
        made.restart(1)
        sleep(pool, "kv_cache")
        assert pool.wake().phase is Phase.COMMITTED
        assert not any(engine.paused for engine in made.engines)


def test_where_a_commit_opens_gates_one_that_it_does_not_cover_waits_for_the_next(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.restart(1)
    sleep(pool, "kv_cache")
    pool.wake()
    assert [engine.paused for engine in world.engines] == [False, True, False]


def test_an_engine_without_a_gate_sleeps_and_goes_on_beside_those_that_have_one(world, pool):
    """``weights.gate`` was Off when it was started: nothing closes it, nor is that waited for."""
    world.engines[1].gate = None
    pool.update_from_disk("/c/1", "step-1")
    assert [engine.gate for engine in world.engines] == ["Open", None, "Open"]
    world.restart(1)
    world.engines[1].gate = None
    pool.sleep(("kv_cache",), settle=0, timeout=5)
    assert all(engine.released == {"kv_cache"} for engine in world.engines)
    pool.wake()
    assert not any(engine.paused for engine in world.engines), "clients wait for all of them"


def test_a_part_of_the_engines_is_not_written_beside_one_without_a_gate(world, pool):
    world.engines[1].gate = None
    world.call(world.publish)
    registry = pool.registry()
    registry.require_all_or_gated(registry.engines[:2])
    with pytest.raises(Unsupported, match=r"engine 1 \(g2-3\); they were started before"):
        registry.require_all_or_gated(registry.engines[:1])


def test_an_engine_that_was_paused_and_got_no_further_goes_on_though_it_misses_a_probe(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.engines[0].refuse["/abort_request"] = (500, "a hiccup")
    with pytest.raises(EngineError, match="a hiccup"):
        sleep(pool, "kv_cache")
    world.engines[1].state = "Starting"
    world.publish()
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.paused for engine in world.engines)


def test_an_engine_that_restarted_asleep_is_not_woken(world, pool):
    sleep(pool)
    world.restart(1)
    pool.wake()
    assert ["/resume_memory_occupation" in e.paths() for e in world.engines] == [True, False, True]


def test_a_sync_wakes_weights_before_the_update_and_the_rest_after(world, pool):
    sleep(pool)
    pool.update_from_disk("/c/1", "step-1")
    resumed = [
        (path, body.get("tags"))
        for path, body in world.engines[0].asked
        if path in ("/resume_memory_occupation", "/update_weights_from_disk")
    ]
    assert resumed == [
        ("/resume_memory_occupation", ["weights"]),
        ("/update_weights_from_disk", None),
        ("/resume_memory_occupation", ["kv_cache"]),
    ]
    assert {(e.gate, e.paused) for e in world.engines} == {("Open", False)}


def test_a_trainer_that_came_back_wakes_what_it_put_to_sleep(world, pool):
    sleep(pool)
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as again:
        assert again.wake().phase is Phase.AWAKE
    assert not any(engine.released for engine in world.engines)


def test_another_trainer_may_not_wake_it(world, pool):
    sleep(pool)
    with (
        Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-b") as other,
        pytest.raises(Held, match="trainer-a holds the weights"),
    ):
        other.wake()
    assert all(engine.released for engine in world.engines)


def test_sleeping_deeper_releases_only_what_is_not_released(world, pool):
    sleep(pool, "kv_cache")
    sleep(pool, "kv_cache", "weights")
    released = [b["tags"] for p, b in world.engines[0].asked if p == "/release_memory_occupation"]
    assert released == [["kv_cache"], ["weights"]]


def test_wake_of_a_pool_that_does_not_sleep_says_so(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    with pytest.raises(Unsupported, match="nothing to wake: the pool is in phase Committed"):
        pool.wake()
    assert {engine.gate for engine in world.engines} == {"Open"}


def strictly(world):
    for engine in world.engines:
        engine.strict = True


def test_a_wake_that_failed_at_one_engine_wakes_only_the_rest_when_it_is_called_again(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    strictly(world)
    world.engines[1].refuse["/resume_memory_occupation"] = (500, "a hiccup")
    with pytest.raises(EngineError, match="a hiccup"):
        pool.wake()
    assert world.state.phase is Phase.SLEEPING
    world.engines[1].refuse.clear()
    assert pool.wake().phase is Phase.COMMITTED
    assert [e.paths().count("/resume_memory_occupation") for e in world.engines] == [1, 2, 1]
    assert {(e.gate, e.paused, len(e.released)) for e in world.engines} == {("Open", False, 0)}
    assert not world.state.woken


def test_what_woke_is_put_to_sleep_again_with_the_rest(world, pool):
    sleep(pool)
    strictly(world)
    world.engines[1].refuse["/resume_memory_occupation"] = (500, "a hiccup")
    with pytest.raises(EngineError):
        pool.wake(["weights"])
    world.engines[1].refuse.clear()
    assert [sorted(e.released) for e in world.engines] == [
        ["kv_cache"],
        ["kv_cache", "weights"],
        ["kv_cache"],
    ]
    sleep(pool)
    released = [b["tags"] for p, b in world.engines[0].asked if p == "/release_memory_occupation"]
    assert released == [["kv_cache", "weights"], ["weights"]]
    assert world.engines[1].paths().count("/release_memory_occupation") == 1
    pool.wake()
    assert not any(engine.released for engine in world.engines)


def test_another_trainer_that_takes_over_wakes_only_what_sleeps(world, pool):
    sleep(pool)
    strictly(world)
    world.engines[1].refuse["/resume_memory_occupation"] = (500, "a hiccup")
    with pytest.raises(EngineError):
        pool.wake()
    world.engines[1].refuse.clear()
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as again:
        again.wake()
    assert not any(engine.released for engine in world.engines)


def test_a_sync_that_could_not_resume_one_engine_leaves_the_others_out_the_next_time(world, pool):
    sleep(pool)
    strictly(world)
    world.engines[2].refuse["/resume_memory_occupation"] = (500, "a hiccup")
    with pytest.raises(EngineError, match="a hiccup"):
        pool.update_from_disk("/c/1", "step-1")
    assert world.state.phase is Phase.ABORTED
    world.engines[2].refuse.clear()
    pool.update_from_disk("/c/2", "step-2")
    assert {(e.gate, e.weights, len(e.released)) for e in world.engines} == {("Open", "/c/2", 0)}


def test_an_engine_that_refused_to_sleep_is_not_woken(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    strictly(world)
    world.engines[0].refuse["/release_memory_occupation"] = (400, "not now")
    with pytest.raises(EngineError, match="not now"):
        sleep(pool, "kv_cache")
    world.engines[0].refuse.clear()
    assert pool.wake().phase is Phase.COMMITTED
    assert "/resume_memory_occupation" not in world.engines[0].paths()


@pytest.mark.parametrize("tags", ["weights", b"weights", {"weights": 1}, 7, None, [], [7], [""]])
def test_tags_of_another_kind_are_refused_before_anything_is_taken(world, pool, tags):
    with pytest.raises(InvalidArgument, match="tags"):
        pool.sleep(tags, settle=0)
    assert not world.puts


@pytest.mark.parametrize(
    ("version", "tags", "words"),
    [
        ("0.5.14", ["weight"], "does not know the memory weight; it knows weights, kv_cache"),
        ("0.5.2", ["weights", "cuda_graph"], "does not know the memory cuda_graph"),
        ("0.4.6.post5", ["kv_cache"], "together, so that kv_cache alone cannot be released"),
        ("0.4.6.post5", ["all"], "does not know the memory all"),
    ],
)
def test_tags_that_a_version_does_not_know_are_refused(version, tags, words):
    with FakePool(version=version) as made, Pool(POOL, NAMESPACE, identity=made.identity) as pool:
        with pytest.raises(Unsupported, match=words):
            pool.sleep(tags, settle=0)
        assert not made.puts


def test_engines_that_cannot_release_memory_are_not_put_to_sleep(world, pool):
    world.memory_saver = False
    world.publish()
    with pytest.raises(Unsupported, match="enable_memory_saver is not set"):
        sleep(pool)
    assert not world.puts


def test_an_engine_that_misses_a_probe_sleeps_on_and_is_woken(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    world.engines[1].state = "Starting"
    world.publish()
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.released or engine.paused for engine in world.engines)


def test_a_sleeper_that_was_out_of_sight_as_the_others_woke_is_woken_too(world, pool):
    """Taken for awake it would sleep on, behind a gate that its version may open."""
    pool.update_from_disk("/c/1", "step-1")
    pool.sleep(("kv_cache",), settle=0)
    first, hidden = world.engines[:2]
    url, hidden.url = hidden.url, ""
    world.call(world.publish)
    resumes = first._resume_memory_occupation

    def comes_back(payload):
        hidden.url = url
        world.publish()
        return resumes(payload)

    first._resume_memory_occupation = comes_back
    pool.wake()
    assert not hidden.released
    assert world.state.phase is Phase.COMMITTED
    assert hidden.instance in world.state.instances


def test_a_sleeper_that_stays_out_of_sight_keeps_the_pool_asleep(world, pool, monkeypatch):
    """Counted as awake it would sleep on, and end when weights are written into it."""
    monkeypatch.setattr(sleeping, "SIGHT_SECONDS", 0.0)
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    strictly(world)
    hidden = world.engines[1]
    url, hidden.url = hidden.url, ""
    world.call(world.publish)
    for _ in range(2):
        with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Up\); the pool stays asleep"):
            pool.wake()
    assert world.state.phase is Phase.SLEEPING
    hidden.url = url
    world.call(world.publish)
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.released or engine.dead for engine in world.engines)
    assert hidden.instance in world.state.instances


def test_a_sleeper_whose_run_is_not_told_for_a_moment_is_woken_too(world, pool, monkeypatch):
    monkeypatch.setattr(sleeping, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(sleeping, "SIGHT_SECONDS", 30.0)
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    hidden = world.engines[1]
    run, hidden.instance = hidden.instance, ""
    world.call(world.publish)
    fresh = pool._pool.fresh
    looks: list[None] = []

    async def look():
        looks.append(None)
        if len(looks) == 4:
            hidden.instance = run
            world.call(world.publish)
        return await fresh()

    monkeypatch.setattr(pool._pool, "fresh", look)
    assert pool.wake().phase is Phase.COMMITTED
    assert not hidden.released
    assert run in world.state.instances


def test_a_sleeper_stays_on_record_for_as_long_as_its_pod_is_there(world, pool, monkeypatch):
    """Kubelet tells of no container for longer than anybody waits: it sleeps on all the same."""
    monkeypatch.setattr(sleeping, "SIGHT_SECONDS", 0.0)
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    strictly(world)
    hidden = world.engines[1]
    run, hidden.instance = hidden.instance, ""
    world.hidden = ["actor-infer-1"]
    world.call(world.publish)
    for _ in range(2):
        with pytest.raises(NotReady, match=r"actor-infer-1; the pool stays asleep"):
            pool.wake()
    assert run in world.state.asleep
    hidden.instance, world.hidden = run, []
    world.call(world.publish)
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.released or engine.dead for engine in world.engines)
    assert run in world.state.instances


def test_a_sleeper_whose_pod_is_gone_holds_nobody_up(world, pool, monkeypatch):
    monkeypatch.setattr(sleeping, "SIGHT_SECONDS", 0.0)
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    world.engines[1].instance = ""  # of the pod in its place no container is there yet
    world.call(world.publish)
    assert pool.wake().phase is Phase.COMMITTED
    assert len(world.state.instances) == 2


def test_an_engine_that_misses_a_probe_is_put_to_sleep_like_the_others(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    operate = world._operate

    def operated():
        operate()
        if world.state.phase is Phase.SLEEPING:
            world.engines[1].state = "Starting"
            world.publish()

    world._operate = operated
    sleep(pool)
    assert all(engine.released for engine in world.engines)
    assert len(world.state.asleep) == 3


def test_an_engine_that_runs_and_does_not_answer_keeps_the_pool_from_sleeping(world, pool):
    """It loads its model: whoever counts on its memory would run out of it."""
    pool.update_from_disk("/c/1", "step-1")
    before = len(world.puts)
    world.engines[1].state, world.engines[1].dead = "Starting", True
    world.publish()
    with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Starting\).* nothing was taken"):
        pool.sleep(settle=0, timeout=0.1)
    assert len(world.puts) == before
    assert not any(engine.released for engine in world.engines)
    world.engines[1].dead = False
    sleep(pool)
    assert all(engine.released for engine in world.engines)


def lost(world, rank, **changes):
    """One node of this engine is lost; with ``runs_in_part`` a process of it is on another."""
    world.engines[rank].state = "Lost"
    for name, value in changes.items():
        setattr(world.engines[rank], name, value)
    world.publish()


def test_an_engine_that_is_lost_in_part_and_does_not_answer_keeps_the_pool_from_sleeping(
    world, pool
):
    """Its leader's node is well, and its memory is in use there."""
    pool.update_from_disk("/c/1", "step-1")
    before = len(world.puts)
    lost(world, 1, runs_in_part=True, dead=True)
    with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Lost\).* nothing was taken"):
        pool.sleep(settle=0, timeout=0.1)
    assert len(world.puts) == before
    assert not any(engine.released for engine in world.engines)


def test_an_engine_that_is_lost_in_part_and_answers_sleeps_and_goes_on_like_the_others(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    lost(world, 1, runs_in_part=True)
    sleep(pool, "kv_cache")
    assert all(engine.released for engine in world.engines)
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.released or engine.paused for engine in world.engines)


def test_an_engine_that_is_lost_whole_is_waited_for_by_no_sleep(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    lost(world, 1, dead=True)
    sleep(pool)
    assert [bool(engine.released) for engine in world.engines] == [True, False, True]


def test_an_engine_that_came_up_while_the_others_were_put_to_sleep_is_named(world, pool):
    release = pool._pool.release_memory
    come: list[None] = []

    async def then_another(engines, *arguments):
        engines = list(engines)
        await release(engines, *arguments)
        if engines[0].rank == 2 and not come:
            come.append(world._restart(2, True))

    def in_the_worlds_thread(rank, told):
        world._loop.call_soon_threadsafe(restart, rank, told)

    restart, world._restart = world._restart, in_the_worlds_thread
    pool._pool.release_memory = then_another
    with pytest.raises(NotReady, match=r"engine 2 \(g4-5, Up\): came up .* the others sleep"):
        sleep(pool)
    assert [bool(engine.released) for engine in world.engines] == [True, True, False]
    sleep(pool)
    assert all(engine.released for engine in world.engines)


def test_an_engine_without_a_process_holds_no_memory(world, pool):
    world.engines[1].state, world.engines[1].instance = "Pending", ""
    world.publish()
    sleep(pool)
    assert [bool(engine.released) for engine in world.engines] == [True, False, True]


def test_a_sleeper_that_cannot_be_reached_keeps_the_pool_asleep(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    strictly(world)
    world.engines[1].state = "Starting"
    world.engines[1].refuse["/resume_memory_occupation"] = (500, "not yet")
    world.publish()
    with pytest.raises(EngineError, match="not yet"):
        pool.wake()
    assert world.state.phase is Phase.SLEEPING
    assert world.engines[1].gate == "Closed"
    world.engines[1].refuse.clear()
    assert pool.wake().phase is Phase.COMMITTED


def test_a_second_sleep_that_fails_before_it_releases_says_nothing_of_what_it_asked_for(
    world, pool
):
    sleep(pool, "weights")
    strictly(world)
    world.operates = False
    with pytest.raises(NotReady):
        pool.sleep(["weights", "kv_cache"], settle=0, timeout=0.2)
    world.operates = True
    assert {tuple(sorted(world.state.sleeps(e.instance))) for e in world.engines} == {("weights",)}
    pool.wake()
    resumed = [b["tags"] for p, b in world.engines[0].asked if p == "/resume_memory_occupation"]
    assert resumed == [["weights"]]


def slowly(pool, monkeypatch):
    """Let engines take their time to resume; the event is set once they have been asked."""
    asked, resume = asyncio.Event(), pool.resume_memory

    async def slow(engines, tags, *more):
        await resume(engines, tags, *more)
        asked.set()
        await asyncio.sleep(0.3)

    monkeypatch.setattr(pool, "resume_memory", slow)
    return asked


async def interrupted(work, asked):
    task = asyncio.create_task(work)
    await asyncio.wait_for(asked.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("owned", [True, False])
def test_a_sleep_that_is_cancelled_while_it_takes_the_lease_says_that_it_slept_nobody(
    world, monkeypatch, owned
):
    """What it owes is owed to the Lease of this pool, which it has not learnt that it has."""
    world.lease["metadata"]["ownerReferences"] = [OWNED] if owned else []

    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await pool.update_from_disk("/c/1", "step-1")
            put, asked = pool._open().put_lease, asyncio.Event()

            async def slow(body):
                answer = await put(body)
                asked.set()
                await asyncio.sleep(0.3)
                return answer

            with monkeypatch.context() as patch:
                patch.setattr(pool._open(), "put_lease", slow)
                await interrupted(pool.sleep(["kv_cache"], settle=0), asked)
            state = world.state
            assert (state.at_work, state.releases, state.released) == (False, False, ())
            await asyncio.wait_for(pool.wake(), 10)

    asyncio.run(story())
    assert world.state.phase is Phase.COMMITTED


def test_a_wake_that_is_cancelled_leaves_nobody_to_be_woken_twice(world, monkeypatch):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await pool.update_from_disk("/c/1", "step-1")
            await pool.sleep(["kv_cache"], settle=0)
            strictly(world)
            await interrupted(pool.wake(), slowly(pool, monkeypatch))
            assert not any(world.state.sleeps(engine.instance) for engine in world.engines)
            await pool.update_from_disk("/c/2", "step-2")

    asyncio.run(story())
    assert {(engine.weights, engine.gate) for engine in world.engines} == {("/c/2", "Open")}


def test_a_sync_that_is_cancelled_while_it_wakes_engines_has_that_on_record(world, monkeypatch):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await pool.sleep(settle=0)
            strictly(world)
            await interrupted(pool.update_from_disk("/c/1", "1"), slowly(pool, monkeypatch))
            assert world.state.phase is Phase.ABORTED
            assert world.state.released == ("kv_cache",)
            await pool.update_from_disk("/c/2", "step-2")

    asyncio.run(story())
    assert {(engine.weights, engine.gate) for engine in world.engines} == {("/c/2", "Open")}


def test_what_sleeps_is_read_where_the_lease_is_taken(world, monkeypatch):
    """Two processes of one holder: another sleep comes between the look and the taking."""

    async def story():
        one = AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="u@h")
        other = AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="u@h")
        # Their turns are each process's own.
        monkeypatch.setattr(one_at_a_time.Turn, "taken", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(one_at_a_time.Turn, "check", lambda _: None)
        async with one, other:
            take = other.lease.step_when_free

            async def late(step, **options):
                await one.sleep(settle=0)
                return await take(step, **options)

            monkeypatch.setattr(other.lease, "step_when_free", late)
            await other.sleep(settle=0)

    asyncio.run(story())
    assert [e.paths().count("/release_memory_occupation") for e in world.engines] == [1, 1, 1]


def test_what_woke_is_on_record_before_anything_else_is_asked(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    strictly(world)
    world.engines[1].refuse["/continue_generation"] = (500, "a hiccup")
    with pytest.raises(EngineError, match="a hiccup"):
        pool.wake()
    assert not any(world.state.sleeps(engine.instance) for engine in world.engines)
    world.engines[1].refuse.clear()
    assert pool.wake().phase is Phase.COMMITTED


@pytest.mark.parametrize("then", ["sync", "sleep"])
def test_engines_that_woke_are_flushed_by_whoever_comes_after_a_wake_that_failed(world, pool, then):
    """They were let go on: only a flush tells that nothing runs as the first byte comes."""
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    world.engines[2].refuse["/continue_generation"] = (500, "a hiccup")
    with pytest.raises(EngineError, match="a hiccup"):
        pool.wake()
    world.engines[2].refuse.clear()
    assert world.state.asleep
    assert not any(world.state.sleeps(each.instance) for each in world.engines)
    begun = [len(engine.asked) for engine in world.engines]
    if then == "sync":
        pool.update_from_disk("/c/2", "step-2")
    else:
        sleep(pool, "kv_cache")
    for engine, count in zip(world.engines, begun, strict=True):
        paths = engine.paths()[count:]
        first = {"sync": "/update_weights_from_disk", "sleep": "/release_memory_occupation"}[then]
        ahead = paths[: paths.index(first)]
        assert ahead.count("/flush_cache") == {"sync": 1, "sleep": 2}[then]


def test_engines_that_resume_everything_at_once_are_asked_once():
    with (
        FakePool(version="0.4.6.post5") as made,
        Pool(POOL, NAMESPACE, identity=made.identity, holder="trainer-a") as pool,
    ):
        for engine in made.engines:
            engine.paused = True  # this version has no pause: nobody sends anything
        pool.sleep(settle=0)
        pool.update_from_disk("/c/1", "step-1", pause=None)
        assert [e.paths().count("/resume_memory_occupation") for e in made.engines] == [1, 1, 1]
        assert made.state.phase is Phase.COMMITTED


@pytest.mark.parametrize("act", ["sync", "wake"])
def test_who_woke_as_the_lease_was_deleted_is_not_resumed_again(world, pool, monkeypatch, act):
    """What stands in its place says by what the operator knew before who sleeps."""
    for engine in world.engines:
        engine.strict = True
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    real = AsyncPool.resume_memory

    async def resume(self, *args, **options):
        await real(self, *args, **options)
        await asyncio.to_thread(lost)

    def lost():
        if world.lease["metadata"]["uid"] != first:
            return
        last = world.state
        asleep = {run: last.sleeps(run) for run in last.asleep}
        operator = steps.Trainer(holder="operator", transaction="")
        state = lost_lease.forgotten(
            Transaction(), operator, asleep=asleep, message="deleted", now=time.time()
        )
        world.delete_lease()
        world.make_lease(dataclasses.replace(state, transitions=last.transitions))

    first = world.lease["metadata"]["uid"]
    monkeypatch.setattr(AsyncPool, "resume_memory", resume)
    with pytest.raises(Expired, match="was deleted under this transaction"):
        pool.update_from_disk("/c/2", "step-2") if act == "sync" else pool.wake()
    assert not any(world.state.sleeps(engine.instance) for engine in world.engines)
    world.write_lease(dataclasses.replace(world.state, holder="", fence=False))
    pool.update_from_disk("/c/3", "step-3")
    assert [engine.dead for engine in world.engines] == [False] * 3


def test_what_another_has_put_to_sleep_since_is_not_said_to_be_awake():
    """A transaction that came after the lost one counts one more."""
    me = steps.Trainer(holder="a", transaction="t1")
    lost = Transaction(
        phase=Phase.ABORTED,
        id="t2",
        holder="operator",
        fence=True,
        released=("kv_cache",),
        asleep=("run",),
        transitions=8,
    )
    for count, asleep in ((8, frozenset()), (7, {"kv_cache"})):
        step = functools.partial(steps.woke, instances=["run"], tags=["kv_cache"], count=count)
        if asleep:
            with pytest.raises(steps.RefusedError):
                step(lost, me)
        else:
            assert step(lost, me).sleeps("run") == asleep
