"""Two processes of one holder, as two terminals of one user are.

What an earlier one put to sleep a later one goes on with, but not while a request of the earlier
one may be on its way: a release that arrives after the resume, or a pause after the engines were
let go on.
"""

import asyncio
import dataclasses

import pytest

from sglang_operator.cli import weights
from sglang_operator.client import AsyncPool, EngineError, Expired, Held, Unsupported
from sglang_operator.client.one_at_a_time import Turn, Who
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.client.shared import SharedSync
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        for engine in made.engines:
            engine.strict = True
        yield made


class Elsewhere(AsyncPool):
    """One of another process: their calls do not take turns."""

    @property
    def turn(self):
        return Turn(Who("another process", self.namespace, self.name, self.holder))


def both(world):
    options = {"identity": world.identity, "holder": "user@host"}
    return AsyncPool(POOL, NAMESPACE, **options), Elsewhere(POOL, NAMESPACE, **options)


async def held(engine):
    while not engine.held:
        await asyncio.sleep(0.01)


def counts(world, *paths):
    return [[e.paths().count(path) for path in paths] for e in world.engines]


RELEASE, RESUME = "/release_memory_occupation", "/resume_memory_occupation"


@pytest.mark.parametrize("path", ["/pause_generation", RELEASE])
def test_what_another_process_is_about_to_put_to_sleep_is_woken_once_it_sleeps(world, path):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.update_from_disk("/c/1", "step-1")
            last = world.engines[-1]
            last.stuck.add(path)
            last.held = 0
            sleeping = asyncio.create_task(earlier.sleep(["kv_cache"], settle=0))
            await held(last)
            waking = asyncio.create_task(later.wake())
            await asyncio.sleep(1)
            assert not waking.done()
            assert not any(RESUME in engine.paths() for engine in world.engines)
            last.stuck.clear()
            await sleeping
            assert (await waking).phase is Phase.COMMITTED

    asyncio.run(story())
    assert {(e.gate, e.paused, len(e.released)) for e in world.engines} == {("Open", False, 0)}
    assert counts(world, RELEASE, RESUME) == [[1, 1]] * 3


@pytest.mark.parametrize("call", ["wake", "sleep", "sync"])
def test_nothing_begins_while_another_process_wakes_the_engines(world, call):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.update_from_disk("/c/1", "step-1")
            await earlier.sleep(["kv_cache"], settle=0)
            last = world.engines[-1]
            last.stuck.add(RESUME)
            waking = asyncio.create_task(earlier.wake())
            await held(last)
            calls = {
                "wake": later.wake,
                "sleep": lambda: later.sleep(settle=0),
                "sync": lambda: later.update_from_disk("/c/2", "step-2"),
            }
            other = asyncio.create_task(calls[call]())
            await asyncio.sleep(1)
            assert not other.done()
            assert counts(world, RELEASE, RESUME) == [[1, 1], [1, 1], [1, 0]]
            last.stuck.clear()
            assert (await waking).phase is Phase.COMMITTED
            if call == "wake":
                with pytest.raises(Unsupported, match="Committed"):
                    await other
            else:
                await other

    asyncio.run(story())
    assert {frozenset(e.released) for e in world.engines} == {
        frozenset({"weights", "kv_cache"} if call == "sleep" else ())
    }


def test_who_wakes_what_another_process_put_to_sleep_does_so_in_a_transaction_of_its_own(world):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.update_from_disk("/c/1", "step-1")
            await earlier.sleep(["kv_cache"], settle=0)
            hold, slept = earlier.sleeper._hold, world.state.id
            assert (await later.wake()).id != slept
            with pytest.raises(Expired):
                await hold.renew()
            with pytest.raises(Unsupported, match="nothing to wake"):
                await earlier.wake()

    asyncio.run(story())
    assert counts(world, RESUME) == [[1]] * 3


def test_a_process_that_ended_at_work_is_waited_for_until_it_counts_as_gone(world):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.sleep(settle=0)
            await earlier.close()
            gone = dataclasses.replace(world.state, id="gone", at_work=True, duration=1)
            world.write_lease(gone)
            begun = asyncio.get_running_loop().time()
            assert (await later.wake()).phase is Phase.AWAKE
            assert asyncio.get_running_loop().time() > begun + 1

    asyncio.run(story())
    assert not any(engine.released for engine in world.engines)


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.sleep(settle=0),
        lambda pool: pool.reset(),
        lambda pool: pool.update_from_disk("/c/1", "step-1"),
    ],
    ids=["sleep", "reset", "a sync of one process"],
)
def test_what_a_job_does_after_its_shared_abort_waits_until_its_other_processes_know(world, call):
    """A bucket of theirs may be on its way: it would end an engine whose memory is released."""

    async def story():
        leader, _ = both(world)
        async with leader:
            own = (await leader.registry()).engines[0]
            sync = SharedSync(leader, "step-0", SyncOptions(), own=own)
            await sync.begin()
            await sync.abort("a worker failed")
            assert world.state.fenced
            world.write_lease(dataclasses.replace(world.state, duration=1))
            before = [len(engine.asked) for engine in world.engines]
            acting = asyncio.create_task(call(leader))
            await asyncio.sleep(0.8)
            assert [len(engine.asked) for engine in world.engines] == before
            assert world.state.fenced
            await acting

    asyncio.run(story())


def test_a_sleep_or_a_wake_that_failed_is_nobodys_work_any_more(world):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.update_from_disk("/c/1", "step-1")
            calls = (RELEASE, lambda: earlier.sleep(settle=0)), (RESUME, earlier.wake)
            for engine, (path, call) in zip(world.engines, calls, strict=False):
                engine.refuse[path] = (500, "a hiccup")
                with pytest.raises(EngineError, match="a hiccup"):
                    await call()
                assert (world.state.phase, world.state.at_work) == (Phase.SLEEPING, False)
                engine.refuse.clear()
            await later.wake()

    asyncio.run(story())
    assert not any(engine.released for engine in world.engines)


@pytest.mark.parametrize("path", ["/pause_generation", RELEASE])
def test_a_sleep_that_was_cancelled_is_at_work_until_nothing_of_it_is_on_its_way(world, path):

    async def story():
        earlier, later = both(world)
        async with earlier, later:
            await earlier.update_from_disk("/c/1", "step-1")
            last = world.engines[-1]
            last.stuck.add(path)
            last.held = 0
            sleeping = asyncio.create_task(earlier.sleep(["kv_cache"], settle=0))
            await held(last)
            sleeping.cancel()
            await asyncio.sleep(0.3)
            assert world.state.at_work
            last.stuck.clear()
            await asyncio.wait({sleeping})
            assert not world.state.at_work
            await earlier.update_from_disk("/c/2", "step-2", wait=0)

    asyncio.run(story())
    assert {(e.gate, e.paused, len(e.released)) for e in world.engines} == {("Open", False, 0)}


def test_a_sync_that_comes_amid_a_sleep_of_its_own_process_does_not_end_its_work(world):
    async def story():
        earlier, _ = both(world)
        async with earlier:
            await earlier.update_from_disk("/c/1", "step-1")
            last = world.engines[-1]
            last.stuck.add(RELEASE)
            sleeping = asyncio.create_task(earlier.sleep(["kv_cache"], settle=0))
            await held(last)
            with pytest.raises(Held, match=r"is in sleep\(\)"):
                await earlier.update_from_disk("/c/2", "step-2")
            assert world.state.at_work
            last.stuck.clear()
            await sleeping
            assert not world.state.at_work

    asyncio.run(story())


def test_a_sync_that_another_process_ends_is_not_attached_to(world):
    async def story():
        earlier, later = both(world)
        async with earlier, later:
            begun = earlier.sync("step-1", interrupts=False, duration=600)
            await begun.begin()
            with pytest.raises(Held, match="this trainer's name too"):
                await later.attach()
            await begun.detach()
            attached = await later.attach()
            with pytest.raises(Held, match="this trainer's name too"):
                await earlier.attach()
            await attached.finish()

    asyncio.run(story())
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")


def test_an_abort_from_a_second_terminal_gives_a_commit_time_to_notice(world, monkeypatch):
    """What that has on its way would name the version of whoever begins next."""
    monkeypatch.setattr(weights, "holder", lambda: "user@host")

    async def story():
        earlier, later = both(world)
        async with earlier, later:
            begin = weights.Begin(version="1", epoch=None, duration=600, wait=0, pause=True)
            await begin(earlier)
            assert not world.state.at_work
            world.engines[-1].stuck.add("/update_weight_version")
            committing = asyncio.create_task(weights.Commit(checkpoint="", pause=True)(earlier))
            await held(world.engines[-1])
            told = await weights.Abort(message="by hand", force=False, gone=False)(later)
            assert any("may not know yet" in line for line in told)
            world.engines[-1].stuck.clear()
            with pytest.raises(Expired):
                await committing
            async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="b") as other:
                with pytest.raises(Held, match="may not know yet"):
                    await other.update_from_disk("/c/2", "step-2")

    asyncio.run(story())
