"""The Lease under a trainer: who else holds it, who else writes it, and who deletes it."""

import asyncio
import contextlib
import dataclasses
import threading
import time
from concurrent.futures import Future

import pytest
from aiohttp import web

from sglang_operator.api import names
from sglang_operator.client import (
    AsyncPool,
    ClusterError,
    Expired,
    Held,
    NotReady,
    Pool,
    PoolError,
    Unsupported,
    lease,
)
from sglang_operator.client import pool as pools
from sglang_operator.clocks import steady
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, _drop, other

STORY = 30.0
BUCKET = (["bfloat16"], [[1]])


@pytest.fixture
def world(request):
    with FakePool(gate=getattr(request, "param", "Committed")) as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def another(world, holder="trainer-a"):
    return Pool(POOL, NAMESPACE, identity=world.identity, holder=holder)


def wait(check, seconds=STORY):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# --- one at a time


def test_two_pods_of_one_host_are_two_holders(monkeypatch):
    """Both are process 1 of a host of the same name."""
    first = pools.default_holder()
    assert pools.default_holder() == first, "one process has one name"
    monkeypatch.setattr(pools, "_PROCESS", "another")
    assert pools.default_holder() != first


@pytest.mark.parametrize("holder", [None, "trainer-a"])
def test_a_second_sync_of_one_process_is_refused(world, holder):
    options = {"identity": world.identity, "holder": holder}
    with Pool(POOL, NAMESPACE, **options) as a, Pool(POOL, NAMESPACE, **options) as b:
        with a.sync("step-A") as first:
            first.update_weights_from_distributed(["A1"], *BUCKET, group_name="g")
            for other in (a, b):
                with pytest.raises(Held, match="in another transaction"), other.sync("step-B"):
                    pass
            first.update_weights_from_distributed(["A2"], *BUCKET, group_name="g")
        b.update_from_disk("/c/B", "step-B")
    assert {(e.weights, e.gate_version) for e in world.engines} == {("/c/B", "step-B")}


def test_a_second_sync_can_wait_for_the_first_of_the_same_pool(world, pool):
    with pool.sync("step-1"):
        turn = threading.Thread(
            target=pool.update_from_disk, args=("/c/2", "step-2"), kwargs={"wait": STORY}
        )
        turn.start()
        wait(lambda: world.state.target_version == "step-1")
    turn.join(STORY)
    assert [put.version for put in world.puts if put.phase is Phase.COMMITTED] == [
        "step-1",
        "step-2",
    ]


def test_two_syncs_of_one_event_loop(world):
    async def story():
        made = AsyncPool(POOL, NAMESPACE, identity=world.identity)
        async with made, made.sync("step-1"):
            with pytest.raises(Held):
                await made.update_from_disk("/c/2", "step-2")

    asyncio.run(story())
    assert world.state.version == "step-1"


@pytest.mark.parametrize("same", [True, False], ids=["the same pool", "another pool"])
def test_no_sleep_and_no_wake_during_a_sync_of_the_same_holder(world, pool, same):
    with another(world) as second:
        other = pool if same else second
        with pool.sync("step-1"):
            with pytest.raises(Held):
                other.sleep(settle=0)
            with pytest.raises(Held):
                other.wake()
    assert world.state.version == "step-1"
    assert not any("memory" in path for e in world.engines for path in e.paths())


@pytest.mark.parametrize("call", ["sleep", "wake"])
@pytest.mark.parametrize("same", [True, False], ids=["the same pool", "another pool"])
def test_nothing_else_while_memory_is_changed(world, pool, call, same):
    """Memory that is resumed before it was released kills an engine."""
    if call == "wake":
        pool.sleep(settle=0)
    path = "release" if call == "sleep" else "resume"
    for engine in world.engines:
        engine.stuck.add(f"/{path}_memory_occupation")
    running = threading.Thread(target=getattr(pool, call))
    running.start()
    wait(lambda: all(engine.held for engine in world.engines))
    with another(world) as second:
        other = pool if same else second
        for refused in (other.wake, other.sleep, lambda: other.update_from_disk("/c/1", "step-1")):
            with pytest.raises(Held, match=rf"trainer-a is in {call}\(\) since"):
                refused()
    for engine in world.engines:
        engine.stuck.clear()
    running.join(STORY)
    assert world.state.phase is (Phase.SLEEPING if call == "sleep" else Phase.AWAKE)


def test_a_sync_takes_on_what_its_own_pool_put_to_sleep(world, pool):
    pool.sleep(settle=0)
    pool.update_from_disk("/c/1", "step-1")
    assert pool._pool.sleeper._hold is None
    assert (world.state.phase, world.state.released) == (Phase.COMMITTED, ())


def test_the_dead_are_followed_under_their_name_once_their_time_is_over(world):
    state = Transaction(phase=Phase.SYNCING, id="t0", holder="trainer-a", renewed=time.time())
    world.write_lease(state)
    with another(world) as pool:
        with pytest.raises(Held):
            pool.update_from_disk("/c/1", "step-1")
        world.write_lease(dataclasses.replace(state, duration=1))
        pool.update_from_disk("/c/1", "step-1", wait=STORY)
    assert world.state.version == "step-1"


# --- what is taken over from the last commit


def test_who_attaches_does_not_inherit_the_checkpoint_of_the_commit_before(world):
    async def story():
        options = {"identity": world.identity, "holder": "trainer-a"}
        async with AsyncPool(POOL, NAMESPACE, **options) as made:
            await made.update_from_disk("/c/1", "step-1")
            begun = made.sync("step-2")
            await begun.begin()
            await begun.detach()
        async with AsyncPool(POOL, NAMESPACE, **options) as made:
            attached = made.sync("step-2")
            await attached.attach()
            assert attached.checkpoint == ""
            await attached.finish()

    asyncio.run(story())
    assert (world.state.version, world.state.checkpoint) == ("step-2", "")


def test_nobody_attaches_to_a_sync_that_has_no_memory_for_weights_yet(world):
    """Whatever was written then would end the engines."""
    asleep = frozenset(engine.instance for engine in world.engines)
    begun = Transaction(
        phase=Phase.SYNCING,
        id="t",
        holder="trainer-a",
        released=("weights",),
        asleep=tuple(sorted(asleep)),
        renewed=time.time(),
    )
    world.write_lease(begun)

    async def story():
        options = {"identity": world.identity, "holder": "trainer-a"}
        async with AsyncPool(POOL, NAMESPACE, **options) as made:
            with pytest.raises(Unsupported, match="begin again, which wakes them"):
                await made.attach()

    before = world.state
    asyncio.run(story())
    assert world.state == before
    assert not any(engine.asked for engine in world.engines)


def test_who_stood_still_as_it_attached_does_not_end_a_sync_that_was_begun_since(
    world, monkeypatch
):
    """Its own was aborted meanwhile, and somebody writes into another one of the same name."""

    async def story():
        options = {"identity": world.identity, "holder": "user@host"}
        async with (
            AsyncPool(POOL, NAMESPACE, **options) as one,
            AsyncPool(POOL, NAMESPACE, **options) as two,
        ):
            first = one.sync("step-1", interrupts=False, duration=600)
            await first.begin()
            await first.detach()
            take = one.lease.step_when_free

            async def stands_still(step, **more):
                world.write_lease(steps.aborted(world.state, "it was not renewed"))
                second = two.sync("step-2", interrupts=False, duration=600)
                await second.begin()
                await second.detach()
                return await take(step, **more)

            monkeypatch.setattr(one.lease, "step_when_free", stands_still)
            with pytest.raises(Expired, match="has another one now"):
                await one.attach()

    asyncio.run(story())
    assert (world.state.phase, world.state.target_version) == (Phase.SYNCING, "step-2")


def test_a_sync_that_somebody_ended_cannot_be_left_to_another_process(world):
    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            sync = pool.sync("step-1", interrupts=False)
            await sync.begin()
            over = steps.ended(world.state, "admin", message="stuck", now=time.time())
            await asyncio.to_thread(world.write_lease, over)
            with pytest.raises(Expired, match="held by admin"):
                await sync.detach()

    asyncio.run(train())
    assert world.state.phase is Phase.ABORTED


def test_of_two_that_attach_to_one_sync_the_earlier_is_expired_before_it_continues_engines(
    world, monkeypatch
):
    """Late, it would set the half-written weights of the next trainer free."""

    async def story():
        options = {"identity": world.identity, "holder": "user@host"}
        async with (
            AsyncPool(POOL, NAMESPACE, **options) as one,
            AsyncPool(POOL, NAMESPACE, **options) as two,
            AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="trainer-b") as third,
        ):
            left = one.sync("step-1", interrupts=False, duration=600)
            await left.begin()
            await left.detach()
            earlier = await one.attach()
            # As an earlier version of the client leaves it, which does not say that it is at work.
            world.write_lease(dataclasses.replace(world.state, at_work=False))
            later = await two.attach()
            following = third.sync("step-2", interrupts=False)
            real = one.calls.post

            async def late(engine, path, payload, **rest):
                if path == "/continue_generation" and engine.rank == 0:
                    await later.finish()
                    await following.begin()
                return await real(engine, path, payload, **rest)

            monkeypatch.setattr(one.calls, "post", late)
            with pytest.raises(Expired, match="is not the present one"):
                await earlier.finish()
            assert all(engine.paused for engine in world.engines)
            assert (world.state.phase, world.state.duration) == (Phase.SYNCING, 600)
            await later.finish()
            await following.begin()
            await following.finish()

    asyncio.run(story())
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-2")


# --- others write it


def test_a_write_that_others_are_quicker_than_is_tried_again(world, pool):
    world.conflicts = 5
    with pool.sync("step-1"):
        world.conflicts = 3
    assert world.state.version == "step-1"


def test_a_lease_that_others_always_write_is_given_up_in_words(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.sync.PATIENCE", 0.5)
    world.conflicts = 1_000_000
    begun = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"was changed by others \d+ times in \d\.\d s") as caught,
        pool.sync("step-1"),
    ):
        pass
    assert caught.value.status == 409
    assert time.monotonic() - begun < STORY
    tries = 1_000_000 - world.conflicts
    assert 3 <= tries <= 20, "a pause between two tries, ever longer"
    assert not any(engine.asked for engine in world.engines)


def test_pauses_after_conflicts_grow_and_are_of_chance():
    pauses = [[lease._after_conflict(n) for n in range(1, 20)] for _ in range(20)]
    assert all(
        0.5 * 0.02 <= row[0] <= 0.02 and row[-1] <= lease.MAX_RETRY_SECONDS for row in pauses
    )
    assert len({row[0] for row in pauses}) > 10


def test_a_sync_that_others_outwrite_is_lost_before_others_may_take_it(world, pool):
    told: list[float] = []
    lost = pool.sync("step-1", duration=3, on_lost=lambda _: told.append(time.time()))
    with pytest.raises(Expired, match=r"could not be renewed.*was changed by others"), lost as sync:
        until = world.state.renewed + world.state.duration
        world.conflicts = 1_000_000
        wait(lambda: told)
        world.conflicts = 0
        sync.check()
    assert told[0] < until


def test_an_answer_that_got_lost_before_a_conflict_is_still_no_refusal(world, pool):
    """A connection that breaks has the request sent twice: the second finds the first's write."""
    with pool.sync("step-1") as sync:
        sync.update_weights_from_disk("/c/1")
        put = world._put_lease
        twice: list[int] = []

        async def written_and_refused(request):
            answer = await put(request)
            if world.state.phase is Phase.COMMITTED and not twice:
                twice.append(answer.status)
                answer.set_status(409)
                answer.text = "{}"
            return answer

        world.put_lease = written_and_refused
    assert twice == [200]
    assert world.state.version == "step-1"


# --- others delete it

GONE = "the Lease was deleted under this transaction"


def test_a_sync_whose_lease_is_deleted_is_over_at_once(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)  # renewed as often
    told: list[PoolError] = []
    with (
        pytest.raises(Expired, match=GONE),
        pool.sync("s", duration=600, on_lost=told.append) as sync,
    ):
        world.delete_lease()
        wait(lambda: told)
        with pytest.raises(Expired, match=GONE):
            sync.update_weights_from_disk("/c/1")
    assert isinstance(told[0], Expired)
    assert not world.lease_is_there, "nobody made a Lease of this transaction"
    assert all(engine.paused for engine in world.engines)


RESTORED = Transaction(phase=Phase.COMMITTED, version="step-0", id="t0", intact=True)


@pytest.mark.parametrize("state", [None, RESTORED], ids=["made anew", "restored from a file"])
def test_nothing_is_committed_into_another_lease_of_the_name(world, pool, state):
    with pytest.raises(Expired, match=f"{GONE}, and made anew") as caught, pool.sync("step-1"):
        world.delete_lease()
        world.make_lease(state)
    assert "begin again, and write all weights again" in str(caught.value)
    assert world.state.version == ("step-0" if state else "")
    assert all(engine.paused for engine in world.engines)


def test_the_very_same_state_in_another_lease_is_not_this_transactions(world, pool):
    """What happened while it was away is not known: somebody else may have written."""
    with pytest.raises(Expired, match=GONE), pool.sync("step-1"):
        state = world.state
        world.delete_lease()
        world.make_lease(state)
    assert world.state.phase is Phase.ABORTED


def test_gates_close_under_the_new_lease_when_a_sync_was_torn(world, pool):
    """The empty one would leave them open, over weights that nobody vouches for."""
    pool.update_from_disk("/c/1", "step-1")
    assert {engine.gate for engine in world.engines} == {"Open"}
    with pytest.raises(Expired, match=GONE), pool.sync("step-2"):
        world.delete_lease()
        threading.Timer(0.3, world.make_lease).start()
    assert world.state.phase is Phase.ABORTED
    assert f"Expired: {GONE}" in world.state.message
    wait(lambda: {engine.gate for engine in world.engines} == {"Closed"})


@pytest.mark.parametrize("world", ["Committed", "Versioned", "Off"], indirect=True)
def test_nobody_begins_under_a_new_lease_before_who_lost_the_old_one_must_know(world, pool):
    """Its next bucket would land over theirs, behind a gate that they open."""
    with pytest.raises(Expired, match=GONE), pool.sync("a-1") as losing:
        world.delete_lease()
        world.make_lease()
        with another(world, "trainer-b") as others:
            for begins in (lambda: others.update_from_disk("/b/1", "b-1"), others.sleep):
                with pytest.raises(Held, match="the Lease was deleted") as held:
                    begins()
                assert "nothing new begins before" in str(held.value)
        losing.update_weights_from_disk("/a/half")  # its fence is still up
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "operator")
    assert {engine.gate for engine in world.engines} == {"Closed"}


def test_who_waits_begins_under_the_new_lease_once_it_is_free(world, pool, monkeypatch):
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)
    world.delete_lease()
    world.make_lease(dataclasses.replace(world.anew(), duration=1))
    with pool.sync("step-1", wait=30) as sync:
        sync.update_weights_from_disk("/c/1")
    assert (world.state.phase, world.state.fence) == (Phase.COMMITTED, False)


def test_who_counts_on_its_lease_for_long_notices_no_later_that_it_is_gone(
    world, pool, monkeypatch
):
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)
    told: list[PoolError] = []
    with (
        pytest.raises(Expired, match=GONE),
        pool.sync("s", duration=3600, on_lost=told.append) as sync,
    ):
        world.delete_lease()
        wait(lambda: told)
        sync.check()


def test_who_began_since_is_left_alone(world, pool):
    begun = Transaction(phase=Phase.SYNCING, id="t9", holder="trainer-b", target_version="b")
    with pytest.raises(Expired), pool.sync("step-1"):
        world.delete_lease()
        world.make_lease(begun)
    assert (world.state.phase, world.state.holder) == (Phase.SYNCING, "trainer-b")


def test_no_sync_begins_without_a_lease(world, pool):
    world.delete_lease()
    for call in (pool.sleep, pool.wake, lambda: pool.update_from_disk("/c/1", "step-1")):
        with pytest.raises(
            NotReady, match="there is no Lease rl/actor-infer-weights; the operator"
        ):
            call()
    assert not any(engine.asked for engine in world.engines)


@pytest.mark.parametrize("anew", [False, True], ids=["missing", "made anew"])
@pytest.mark.parametrize("call", ["wake", "sleep"])
def test_a_sleep_whose_lease_is_deleted_is_told(world, pool, call, anew):
    """Which engines sleep stood there alone: to wake one that does not would kill it."""
    pool.sleep(("kv_cache",), settle=0)
    asked = [len(engine.asked) for engine in world.engines]
    world.delete_lease()
    if anew:
        world.make_lease()
    with pytest.raises(Expired, match=GONE):
        getattr(pool, call)()
    assert [len(engine.asked) for engine in world.engines] == asked


def test_annotations_of_others_are_kept_and_are_no_obstacle(world, pool):
    def annotate(key):
        def write():
            notes = {**world.lease["metadata"].get("annotations", {}), key: "x"}
            world.lease = {
                **world.lease,
                "metadata": {**world.lease["metadata"], "annotations": notes},
            }
            world._bump_lease(renewal=True)

        world.call(write)

    annotate("a.example/before")
    with pool.sync("step-1"):
        annotate("a.example/during")
    pool.sleep(("kv_cache",), settle=0)
    annotate("a.example/asleep")
    assert pool.wake().phase is Phase.COMMITTED
    notes = world.lease["metadata"]["annotations"]
    assert {key for key in notes if key.startswith("a.example/")} == {
        "a.example/before",
        "a.example/during",
        "a.example/asleep",
    }
    assert notes[names.ANNOTATION_VERSION] == "step-1"
    assert lease_state.read(world.lease).phase is Phase.COMMITTED


def test_a_sync_object_is_begun_once(world, pool):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as made:
            sync = made.sync("step-1")
            async with sync:
                pass
            with pytest.raises(Unsupported, match="begun before"):
                await sync.begin()

    asyncio.run(story())
    assert world.state.phase is Phase.COMMITTED
    assert not world.state.holder


def test_a_begin_that_is_cancelled_while_it_takes_the_lease_gives_it_back(world, monkeypatch):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as made:
            put, asked = made._open().put_lease, asyncio.Event()

            async def slow(body):
                answer = await put(body)
                asked.set()
                await asyncio.sleep(0.2)
                return answer

            monkeypatch.setattr(made._open(), "put_lease", slow)
            task = asyncio.create_task(made.sync("step-1", duration=600).begin())
            await asyncio.wait_for(asked.wait(), 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())
    assert (world.state.phase, world.state.holder) == (Phase.AWAKE, "")


def test_a_begin_that_is_interrupted_in_a_blocking_trainer_aborts_before_it_closes(
    world, monkeypatch
):
    """Ctrl-C, without the signal, which a run in the background ignores."""
    monkeypatch.setattr("sglang_operator.sending.DELIVERY_SECONDS", 0.5)
    for engine in world.engines:
        engine.stuck.add("/pause_generation")
    armed, result = threading.Event(), Future.result

    def interrupted(future, timeout=None):
        if armed.is_set() and threading.current_thread() is waiting:
            armed.clear()
            wait(lambda: all(engine.held for engine in world.engines))
            raise KeyboardInterrupt
        return result(future, timeout)

    waiting = threading.current_thread()
    monkeypatch.setattr(Future, "result", interrupted)
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="a") as made:
        armed.set()
        with pytest.raises(KeyboardInterrupt), made.sync("step-1", duration=600):
            pass
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")


def test_a_begin_that_is_cancelled_as_the_sleep_before_it_ends_gives_the_lease_back(
    world, monkeypatch
):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await pool.sleep(settle=0)
            stopping = asyncio.Event()

            async def slow():
                monkeypatch.undo()
                stopping.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(pool.sleeper, "stop", slow)
            task = asyncio.create_task(pool.sync("step-1").begin())
            await asyncio.wait_for(stopping.wait(), STORY)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")

    asyncio.run(story())


def left_begun(world, **options):
    """A sync of an hour that its process has left, as the command line's begin does."""

    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            begun = pool.sync("step-1", duration=3600.0)
            await begun.begin()
            await begun.update_weights_from_disk("/c/1")
            await begun.detach()

    asyncio.run(story())
    assert (world.state.phase, world.state.at_work) == (Phase.SYNCING, False)


def interrupted(world, act, handler):
    """Cancel this as its first write of the Lease is answered, by ``handler``."""

    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            asked, plain = threading.Event(), world.put_lease

            async def put(request):
                world.put_lease = plain
                asked.set()
                return await handler(plain, request)

            world.put_lease = put
            task = asyncio.create_task(act(pool))
            await asyncio.to_thread(asked.wait, STORY)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())


async def slowly(put, request):
    answer = await put(request)
    await asyncio.sleep(0.2)
    return answer


async def without_an_answer(put, request):
    await put(request)
    await asyncio.sleep(0.2)
    _drop(request)


async def after_all(put, request):
    """It is written once the API server has said that this takes too long."""

    async def late():
        await asyncio.sleep(0.3)
        await put(request)

    await request.read()
    await asyncio.sleep(0.2)
    world_tasks.add(asyncio.create_task(late()))
    return web.json_response({"message": "did not complete within 34s"}, status=504)


world_tasks: set[asyncio.Task[None]] = set()  # a loop keeps no task alive by itself


@pytest.mark.parametrize("answer", [slowly, without_an_answer, after_all])
def test_a_sync_whose_attach_was_interrupted_goes_on_under_the_next_one(world, answer):
    left_begun(world)
    interrupted(world, lambda pool: pool.attach(), answer)

    async def again():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await (await pool.attach()).finish()

    asyncio.run(again())
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")
    assert {engine.gate for engine in world.engines} == {"Open"}


def test_a_sync_whose_attach_got_no_answer_goes_on_under_the_next_one(world, monkeypatch):
    left_begun(world)
    monkeypatch.setattr("sglang_operator.client.sync.PATIENCE", 0.0)

    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            plain = world.put_lease

            async def put(request):
                world.put_lease = plain
                await plain(request)
                return web.json_response({"message": "did not complete within 34s"}, status=504)

            world.put_lease = put
            with pytest.raises(ClusterError, match="34s"):
                await pool.attach()
            monkeypatch.undo()
            await (await pool.attach()).finish()

    asyncio.run(story())
    assert world.state.phase is Phase.COMMITTED


@pytest.mark.parametrize("answer", [slowly, without_an_answer, after_all])
def test_a_sync_whose_begin_was_interrupted_is_over(world, answer):
    interrupted(world, lambda pool: pool.sync("step-1", duration=3600.0).begin(), answer)
    wait(lambda: world.state.phase is Phase.AWAKE)
    assert not world.state.holder


@pytest.mark.parametrize("begun", [False, True], ids=["begin", "attach"])
def test_a_pool_that_is_closed_as_its_sync_takes_the_lease_gives_it_back(world, begun):
    if begun:
        left_begun(world)

    async def story():
        pool, asked, plain = (
            AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t"),
            threading.Event(),
            world.put_lease,
        )

        async def put(request):
            world.put_lease = plain
            asked.set()
            return await slowly(plain, request)

        world.put_lease = put
        act = pool.attach if begun else pool.sync("step-1", duration=3600.0).begin
        task = asyncio.create_task(act())
        await asyncio.to_thread(asked.wait, STORY)
        await pool.close()
        with contextlib.suppress(PoolError):
            await task

    asyncio.run(story())
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED if begun else Phase.AWAKE, "")


@pytest.mark.parametrize("answer", [slowly, without_an_answer, after_all])
def test_a_sleep_that_was_interrupted_is_woken_by_the_next_process_of_its_name(world, answer):
    interrupted(world, lambda pool: pool.sleep(settle=0), answer)

    async def again():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            return await pool.wake()

    assert not world.state.at_work
    assert asyncio.run(again()).phase is Phase.AWAKE


def test_what_is_seen_for_the_first_time_may_be_of_any_age(world, monkeypatch):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await pool.lease.read()
            assert pool.lease.age() == float("inf")
            monkeypatch.setattr("sglang_operator.client.lease.steady", lambda: steady() + 28)
            begun = steps.begin(
                world.state, other(), epoch="e", version="v", now=time.time(), seen=0
            )
            world.write_lease(begun)
            await pool.lease.read()
            assert pool.lease.age() >= 28.0  # it may have begun right after the look before

    asyncio.run(story())


def test_a_renewal_is_as_old_as_the_last_look_that_did_not_show_it(world, monkeypatch):
    """However long the answer takes that shows it: its holder may have ended since."""

    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            begun = steps.begin(
                world.state, other(), epoch="e", version="v", now=time.time(), seen=0
            )
            world.write_lease(begun)
            await pool.lease.read()
            asked = time.monotonic()
            await pool.lease.read()
            world.write_lease(steps.renew(world.state, other(), now=time.time() + 1))
            reads = pool._open().lease

            async def slow():
                found = await reads()
                await asyncio.sleep(0.5)
                return found

            monkeypatch.setattr(pool._open(), "lease", slow)
            await pool.lease.read()
            age, waited = pool.lease.age(), time.monotonic() - asked
            assert 0.5 <= age <= waited + 0.1
            await pool.lease.read()
            assert pool.lease.age() >= 1.0

    asyncio.run(story())


# --- credentials that are not taken for a moment


def test_a_sync_goes_on_once_what_gives_the_token_is_back(world, pool):
    """A plugin may be away as the API server may: a 401 was not carried out."""
    with pool.sync("step-1") as sync:
        world.failures = [401] * 3
        sync.update_weights_from_disk("/c/1")
    assert not world.failures
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")
