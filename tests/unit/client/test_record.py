"""The record: who sleeps by the Lease, whatever became of a request or of the API server.

Resuming what was never released, and releasing what is released, kill an engine.
"""

import asyncio
import dataclasses
import socket
import threading

import pytest
from aiohttp import web

from sglang_operator import supervision
from sglang_operator.client import (
    AsyncPool,
    ClusterError,
    EngineError,
    NotReady,
    Pool,
    errors,
    lease,
    sleeping,
    sync,
    waking,
)
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_lease import wait


@pytest.fixture
def world():
    with FakePool() as made:
        for engine in made.engines:
            engine.strict = True
        yield made


def opened(world):
    return AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a")


@pytest.fixture
def pool(world, monkeypatch):
    for module in (sleeping, sync, waking):
        monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(sync, "ABORT_PATIENCE", 0.1)
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        made.update_from_disk("/c/1", "step-1")
        yield made


def sleepers(world):
    return [e.rank for e in world.engines if world.state.sleeps(e.instance)]


def released(world):
    return [e.rank for e in world.engines if e.released]


# --- what became of a request


def through(pool, path, otherwise):
    """Let requests to this path go on as ``otherwise`` does it: (real, engine, arguments)."""
    real = pool.calls._ask

    async def ask(method, engine, asked, *arguments):
        if asked != path:
            return await real(method, engine, asked, *arguments)
        return await otherwise(lambda to: real(method, to, asked, *arguments), engine)

    pool.calls._ask = ask


async def refused(real, engine):
    """Nobody listens at the address of engine 1 for a moment."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        elsewhere = dataclasses.replace(engine, url=f"http://127.0.0.1:{port}")
        return await real(elsewhere if engine.rank == 1 else engine)


def test_an_engine_that_the_release_never_reached_is_not_woken(world):
    async def story():
        async with opened(world) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            through(pool, "/release_memory_occupation", refused)
            with pytest.raises(EngineError) as error:
                await pool.sleep(["kv_cache"], settle=0)
            assert not error.value.sent
            assert (sleepers(world), released(world)) == ([0, 2], [0, 2])
            assert (await pool.wake()).phase is Phase.COMMITTED

    asyncio.run(story())
    assert not released(world)


def test_an_engine_that_the_resume_never_reached_is_resumed_the_next_time(world):
    async def story():
        async with opened(world) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            await pool.sleep(["kv_cache"], settle=0)
            real = pool.calls._ask
            through(pool, "/resume_memory_occupation", refused)
            with pytest.raises(EngineError):
                await pool.wake()
            assert (sleepers(world), released(world)) == ([1], [1])
            pool.calls._ask = real
            assert (await pool.wake()).phase is Phase.COMMITTED

    asyncio.run(story())
    assert not released(world)


async def lost(real, engine):
    """What a proxy says of an engine, or no answer at all: the engine may have done it."""
    answer = await real(engine)
    if engine.rank == 0:
        return 504, "upstream request timeout"
    if engine.rank == 1:
        raise errors.EngineError(rank=1, url="-", path="-", status=0, said="no answer")
    return answer


STEPS = {
    "sleep": lambda pool: pool.sleep(["kv_cache"], settle=0),
    "wake": lambda pool: pool.wake(),
    "a sync": lambda pool: pool.update_from_disk("/c/2", "step-2"),
}


@pytest.mark.parametrize("after", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/release_memory_occupation", STEPS["sleep"]),
        ("/resume_memory_occupation", STEPS["wake"]),
        ("/resume_memory_occupation", STEPS["a sync"]),
    ],
    ids=["a release", "a resume", "a resume of a sync"],
)
def test_where_an_answer_was_lost_nothing_is_guessed_until_the_engine_is_another(
    world, path, step, after
):
    """One that has done it ends if it is told again; one that has not ends of a request."""

    async def story():
        async with opened(world) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            if path == "/resume_memory_occupation":
                await pool.sleep(["kv_cache"], settle=0)
            real = pool.calls._ask
            through(pool, path, lost)
            with pytest.raises(EngineError, match="504"):
                await step(pool)
            assert len(sleepers(world)) >= 2
            pool.calls._ask = real
            before = world.state
        asked = [engine.paths().count(path) for engine in world.engines]
        async with opened(world) as later:  # another process of it finds that too
            if (before.phase, after) == (Phase.ABORTED, STEPS["wake"]):
                return  # there is nothing to wake: a sync has to follow
            with pytest.raises(NotReady) as caught:
                await after(later)
            told = str(caught.value)
            assert "the answer was lost, so that nobody knows which of their memory" in told
            assert all(f"engine {rank} " in told for rank in (0, 1))
            assert "engine 2 " not in told
            pods = [engine.pod for engine in await later.engines()][:2]
            assert f"kubectl delete pod {' '.join(pods)}" in told
            assert [engine.paths().count(path) for engine in world.engines] == asked
            assert world.state.phase is before.phase, "a sync takes nothing, so that none aborts"
            for rank in (0, 1):
                world.restart(rank)
            await after(later)

    asyncio.run(story())
    assert not any(engine.dead for engine in world.engines)


def test_a_release_that_its_fence_kept_back_leaves_nobody_on_record(world):
    pools: list[AsyncPool] = []

    async def stands_still(real, engine):
        hold = pools[0].sleeper._hold
        assert hold is not None
        hold._renewed -= hold.trainer.duration
        return await real(engine)

    async def story():
        async with opened(world) as pool:
            pools.append(pool)
            await pool.update_from_disk("/c/1", "step-1")
            through(pool, "/release_memory_occupation", stands_still)
            with pytest.raises(errors.Expired, match="was not sent"):
                await pool.sleep(["kv_cache"], settle=0)

    asyncio.run(story())
    assert (sleepers(world), released(world)) == ([], [])


def test_a_request_that_did_not_leave_whole_was_not_sent(world):
    """An engine that ends as it reads one has been asked nothing."""

    async def story():
        async def ends(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(ends, "127.0.0.1", 0)
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        async with server, opened(world) as pool:
            engine = dataclasses.replace((await pool.engines())[0], url=url)
            for size, sent in ((10, True), (2**26, False)):
                with pytest.raises(EngineError) as error:
                    await pool.calls.post(engine, "/flush_cache", {"x": "x" * size})
                assert error.value.sent is sent

    asyncio.run(story())


# --- what became of the API server


class Away:
    """The API server takes no writes of the Lease from the moment that ``since`` says so."""

    def __init__(self, world, since, *, writes=False):
        self.world, self.since, self.writes = world, since, writes
        self.is_away = False
        self.real = world.put_lease
        world.put_lease = self._put

    async def _put(self, request):
        asked = lease_state.read(await request.json())
        if not self.is_away and not self.since(asked):
            return await self.real(request)
        if self.writes and not self.is_away:  # the first is written, and nobody told
            await self.real(request)
        self.is_away = True
        return web.json_response({"message": "etcd has no leader"}, status=500)

    def comes_back(self):
        self.world.put_lease = self.real


def resumed(world):
    return all("/resume_memory_occupation" in e.paths() for e in world.engines)


def test_what_a_sync_resumed_is_told_once_the_api_server_is_back(world, pool, monkeypatch):
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 0.05)
    pool.sleep(settle=0)
    away = Away(world, lambda _: resumed(world))
    with pytest.raises(ClusterError, match="no leader"):
        pool.update_from_disk("/c/2", "step-2")
    away.comes_back()
    wait(lambda: {tuple(world.state.sleeps(e.instance)) for e in world.engines} == {("kv_cache",)})
    world.write_lease(dataclasses.replace(world.state, phase=Phase.ABORTED, holder=""))
    pool.update_from_disk("/c/3", "step-3")
    assert {(e.weights, e.gate, len(e.released)) for e in world.engines} == {("/c/3", "Open", 0)}


def test_an_error_that_nobody_expected_does_not_end_the_tries(world, pool, monkeypatch):
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 0.02)
    pool.sleep(["kv_cache"], settle=0)
    away = Away(world, lambda _: resumed(world))
    with pytest.raises(ClusterError):
        pool.wake()
    real, failed = lease.WeightsLease._pay, list[bool]()

    async def once(self, patience):
        if not failed:
            failed.append(True)
            raise RuntimeError("a bug")
        await real(self, patience)

    monkeypatch.setattr(lease.WeightsLease, "_pay", once)
    wait(lambda: failed)
    away.comes_back()
    wait(lambda: sleepers(world) == [])


def owing(world, pool, monkeypatch):
    """Its engines woke while the API server was away: what they did is owed to the Lease."""
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 600.0)
    pool.sleep(["kv_cache"], settle=0)
    away = Away(world, lambda _: resumed(world))
    with pytest.raises(ClusterError, match="no leader"):
        pool.wake()
    away.comes_back()


def test_the_next_step_of_this_process_does_not_go_without_it(world, pool, monkeypatch):
    owing(world, pool, monkeypatch)
    assert pool.wake().phase is Phase.COMMITTED
    assert [e.paths().count("/resume_memory_occupation") for e in world.engines] == [1, 1, 1]


def test_a_pool_that_is_closed_tells_the_lease_what_it_owes(world, pool, monkeypatch):
    owing(world, pool, monkeypatch)
    pool.close()
    assert sleepers(world) == []


def test_who_was_about_to_sleep_and_did_not_is_not_woken(world, pool, monkeypatch):
    """That they are about to was written, and the answer got lost: nothing was released."""
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 600.0)

    away = Away(world, lambda asked: asked.asleep, writes=True)
    cluster = pool._pool._cluster
    reads = cluster.lease

    async def read():
        if world.put_lease == away._put and away.is_away:
            raise ClusterError("etcd has no leader")
        return await reads()

    monkeypatch.setattr(cluster, "lease", read)
    with pytest.raises(ClusterError, match="no leader"):
        pool.sleep(["kv_cache"], settle=0)
    assert (sleepers(world), released(world)) == ([0, 1, 2], [])
    away.comes_back()
    assert pool.wake().phase is Phase.COMMITTED


def test_what_is_owed_has_no_place_in_anothers_transaction(world, pool, monkeypatch):
    owing(world, pool, monkeypatch)
    theirs = dataclasses.replace(world.state, id="theirs", holder="trainer-b")
    world.write_lease(theirs)
    pool.close()
    assert world.state == theirs


def test_what_is_put_on_record_late_does_not_raise_the_fence(world):
    async def story():
        async with opened(world) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            await pool.sleep(["kv_cache"], settle=0)
            hold = pool.sleeper._hold
            hold._renewed -= hold.trainer.duration
            world.write_lease(dataclasses.replace(world.state, phase=Phase.ABORTED, holder=""))
            engines = await pool.engines()
            woken = [(engine, ["kv_cache"]) for engine in engines]
            await waking.note_awake(hold, woken, patience=1)
            assert not hold.alive()

    asyncio.run(story())
    assert sleepers(world) == []


def test_requests_whose_end_is_to_be_told_are_not_cut_off_as_a_loop_ends():
    async def story():
        asked, answer = asyncio.Event(), asyncio.Event()

        async def request():
            asked.set()
            await answer.wait()
            return 1

        async def both():
            return await supervision.all_to_their_end(request() for _ in range(2))

        ends = asyncio.create_task(supervision.to_its_end(both()))
        await asyncio.wait_for(asked.wait(), 5)
        for task in supervision.interruptible(asyncio.all_tasks() - {asyncio.current_task(), ends}):
            task.cancel()
        answer.set()
        return await ends

    assert asyncio.run(story()) == [1, 1]


# --- a sync that is over


HOUR = 3600.0


def aborting(world, pool, monkeypatch, *, every=600.0):
    """A sync of an hour fails while the API server is away: its end is owed to the Lease."""
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", every)
    world.engines[1].refuse["/update_weights_from_disk"] = (400, "no such file")
    away = Away(world, lambda _: world.engines[1].paths()[-1] == "/update_weights_from_disk")
    with pytest.raises(EngineError, match="no such file"):
        pool.update_from_disk("/c/2", "step-2", duration=HOUR)
    assert (world.state.phase, world.state.duration) == (Phase.SYNCING, HOUR)
    world.engines[1].refuse.clear()
    away.comes_back()


def test_an_abort_is_told_once_the_api_server_is_back(world, pool, monkeypatch):
    aborting(world, pool, monkeypatch, every=0.05)
    wait(lambda: world.state.phase is Phase.ABORTED)
    wait(lambda: {engine.gate for engine in world.engines} == {"Closed"})


def test_a_begin_of_this_process_pays_its_abort_first(world, pool, monkeypatch):
    aborting(world, pool, monkeypatch)
    pool.update_from_disk("/c/3", "step-3")
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-3")


def test_a_pool_that_is_closed_tells_its_abort_once_more(world, pool, monkeypatch):
    aborting(world, pool, monkeypatch)
    pool.close()
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")


def losing(world, pool, monkeypatch):
    """The Lease is deleted under a sync, and there is none until long after that has failed."""
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 0.05)
    with pytest.raises(errors.PoolError), pool.sync("step-2", duration=HOUR) as begun:
        begun.update_weights_from_disk("/c/2")
        world.delete_lease()
    world.operates = False  # what the next Lease says is not acted upon yet
    assert {engine.gate for engine in world.engines} == {"Open"}


def test_a_sync_whose_lease_was_deleted_is_told_to_the_next_one_whenever_it_is_made(
    world, pool, monkeypatch
):
    losing(world, pool, monkeypatch)
    world.make_lease()
    wait(lambda: world.state.phase is Phase.ABORTED)


def test_it_is_not_told_to_the_lease_of_another_pool_of_this_name(world, pool, monkeypatch):
    losing(world, pool, monkeypatch)
    metadata = {**world.lease["metadata"], "ownerReferences": [{"uid": "made-again"}]}
    world.lease = {**world.lease, "metadata": metadata}
    world.make_lease()
    wait(lambda: not pool._pool.lease._owed)
    assert world.state.phase is Phase.IDLE


def test_a_pool_that_is_left_aborts_the_sync_that_nobody_can_end_any_more(world):
    async def story():
        async with opened(world) as pool:
            begun = pool.sync("step-1", duration=HOUR, interrupts=False)
            await begun.begin()
        with pytest.raises(errors.Expired, match="is over"):
            begun.check()

    asyncio.run(story())
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")


# --- a pool that is left meanwhile


def answering_later(world, path):
    """The last engine works on this until it is let go on."""
    last = world.engines[-1]
    last.stuck.add(path)
    return last


@pytest.mark.parametrize("path", ["/release_memory_occupation", "/resume_memory_occupation"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_pool_is_left_once_its_engines_have_said_what_became_of_their_memory(
    world, path, cancelled
):
    async def story():
        async with opened(world) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            if "resume" in path:
                await pool.sleep(["kv_cache"], settle=0)
            last = answering_later(world, path)
            work = pool.wake() if "resume" in path else pool.sleep(["kv_cache"], settle=0)
            task = asyncio.create_task(work)
            while not last.held:
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(pool.close())
            await asyncio.sleep(0.1)
            if cancelled:
                closing.cancel()
                task.cancel()
            await asyncio.sleep(0.1)
            assert not closing.done()
            last.stuck.clear()
            await asyncio.wait({closing, task})
            assert closing.cancelled() == task.cancelled() == cancelled
        assert sleepers(world) == released(world)
        async with opened(world) as again:
            await again.update_from_disk("/c/2", "step-2")

    asyncio.run(story())
    assert not any(engine.released for engine in world.engines)


def test_ctrl_c_in_a_wake_that_takes_long_waits_for_the_engines(world):
    """Without the signal, which a run in the background ignores."""
    last = answering_later(world, "/resume_memory_occupation")
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as pool:
        pool.update_from_disk("/c/1", "step-1")
        pool.sleep(["kv_cache"], settle=0)
        waking = pool._loop.submit(pool._pool.wake())
        wait(lambda: last.held)
        waking.cancel()
        threading.Timer(0.5, last.stuck.clear).start()
    assert sleepers(world) == released(world) == []


def test_nothing_is_done_to_memory_over_connections_that_are_opened_after_a_close(world):
    async def story():
        async with opened(world) as pool:
            last = answering_later(world, "/pause_generation")
            task = asyncio.create_task(pool.sleep(["kv_cache"], settle=0))
            while not last.held:
                await asyncio.sleep(0.01)
            await pool.close()
            last.stuck.clear()
            await asyncio.wait({task})
            assert task.exception() is not None

    asyncio.run(story())
    assert sleepers(world) == released(world) == []
