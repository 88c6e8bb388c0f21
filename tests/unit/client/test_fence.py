"""The fence: what changes an engine leaves only while its trainer holds the Lease, by then."""

import asyncio
import itertools
import math
import time

import pytest

from sglang_operator import sending
from sglang_operator.client import AsyncPool, Expired, resetting
from sglang_operator.client.lease import counted, recorded
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import LEASE_SECONDS
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


def before(pool, path, happens):
    """This happens once a request to this path is on its way, and has no connection yet."""
    real = pool.calls._ask

    async def late(method, engine, asked, *arguments, **options):
        if (method, asked) == ("POST", path):
            await happens()
        return await real(method, engine, asked, *arguments, **options)

    pool.calls._ask = late


def told(world, path):
    """The engines that were asked this."""
    return [engine.rank for engine in world.engines if path in engine.paths()]


PATHS = (
    "/pause_generation",
    "/abort_request",
    "/flush_cache",
    "/update_weights_from_disk",
    "/update_weight_version",
    "/continue_generation",
)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_sync_sends_does_not_leave_once_its_fence_is_down(world, path):
    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False)

            async def stands_still():
                assert sync._hold is not None
                sync._hold._renewed = -math.inf

            before(pool, path, stands_still)
            await sync.begin()
            await sync.update_weights_from_disk("/c/1")
            await sync.finish()

    with pytest.raises(Expired):
        asyncio.run(train())
    assert told(world, path) == []


def test_what_is_sent_to_one_engine_has_the_same_fence(world):
    async def train():
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool,
            pool.sync("step-1", interrupts=False) as sync,
        ):

            async def stands_still():
                assert sync._hold is not None
                sync._hold._renewed = -math.inf

            before(pool, "/update_weights_from_tensor", stands_still)
            await sync.call_one(sync.engines[1], "/update_weights_from_tensor", {})

    with pytest.raises(Expired, match="this process stood still"):
        asyncio.run(train())
    assert told(world, "/update_weights_from_tensor") == []


def test_what_is_on_its_way_when_the_sync_aborts_does_not_leave(world):
    """Its Lease is free from then on, though it was renewed a moment ago."""

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False)
            await sync.begin()
            before(pool, "/update_weights_from_disk", lambda: sync.abort("the trainer gives up"))
            await sync.update_weights_from_disk("/c/1")

    with pytest.raises(Expired):
        asyncio.run(train())
    assert told(world, "/update_weights_from_disk") == []


def test_a_body_that_has_left_in_part_is_not_sent_to_its_end(world):
    asked = itertools.count()

    def at_first():
        return next(asked) < 3

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            engine = (await pool.engines())[0]
            large = {"serialized_named_tensors": ["x" * 10**6]}
            with pytest.raises(Expired, match="was not sent to engine 0"):
                await pool.calls.post(
                    engine,
                    "/update_weights_from_tensor",
                    large,
                    allowed=at_first,
                )
            assert await pool.calls.post(engine, "/update_weights_from_tensor", large)

    world.engines[0].paused = True
    asyncio.run(train())
    assert world.engines[0].paths() == ["/update_weights_from_tensor"]


@pytest.mark.parametrize("given", [0.001, 1, 2, 9, 10, 26, 27, LEASE_SECONDS, 600, 7 * 24 * 3600])
def test_what_left_at_the_last_moment_has_arrived_before_others_begin(given):
    assert 0 < counted(recorded(given)) <= given * 0.71
    assert counted(recorded(given)) + sending.DELIVERY_SECONDS < recorded(given)
    assert recorded(LEASE_SECONDS) == LEASE_SECONDS


def test_others_wait_for_a_short_sync_until_nothing_of_it_can_arrive(world):
    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False, duration=2)
            await sync.begin()
            assert sync._hold is not None
            assert sync._hold.margin < 2
            assert world.state.duration > sync._hold.margin + sending.DELIVERY_SECONDS
            await sync.abort("enough")

    asyncio.run(train())


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux")
def test_a_machine_that_was_suspended_finds_its_fence_down(world, monkeypatch):
    """Its monotonic clock stood still, and its Lease is another's by now."""

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            sync = pool.sync("step-1", interrupts=False)
            await sync.begin()
            real = time.clock_gettime

            def later(clock):
                return real(clock) + (3600 if clock == time.CLOCK_BOOTTIME else 0)

            monkeypatch.setattr(time, "clock_gettime", later)
            with pytest.raises(Expired):
                await sync.update_weights_from_disk("/c/1")

    asyncio.run(train())
    assert told(world, "/update_weights_from_disk") == []


SLEEP_PATHS = (
    "/pause_generation",
    "/abort_request",
    "/flush_cache",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/continue_generation",
)


@pytest.mark.parametrize("path", SLEEP_PATHS)
def test_what_sleep_and_wake_send_does_not_leave_once_their_fence_is_down(world, path):
    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await pool.update_from_disk("/c/1", "step-1")
            for engine in world.engines:
                engine.asked.clear()

            async def stands_still():
                assert pool.sleeper._hold is not None
                pool.sleeper._hold._renewed = -math.inf

            before(pool, path, stands_still)
            with pytest.raises(Expired):
                await pool.sleep(["kv_cache"], settle=0)
                await pool.wake()

    asyncio.run(train())
    assert told(world, path) == []


async def ended_by_force(world, hold):
    """Somebody ends it, and the next renewal finds that."""
    over = steps.ended(world.state, "admin", message="stuck", now=time.time())
    await asyncio.to_thread(world.write_lease, over)
    with pytest.raises(Expired, match="held by admin"):
        await hold.renew()


@pytest.mark.parametrize("path", SLEEP_PATHS)
def test_nothing_of_a_sleep_or_a_wake_leaves_once_the_lease_has_said_that_it_is_over(world, path):
    """However long it was to count on its last renewal."""

    async def train():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            await pool.update_from_disk("/c/1", "step-1")
            for engine in world.engines:
                engine.asked.clear()
            once = asyncio.Lock()

            async def end():
                async with once:
                    if world.state.holder == "t":
                        await ended_by_force(world, pool.sleeper._hold)

            before(pool, path, end)
            with pytest.raises(Expired):
                await pool.sleep(["kv_cache"], settle=0)
                await pool.wake()

    asyncio.run(train())
    assert told(world, path) == []


def test_nothing_of_a_reset_leaves_once_the_lease_has_said_that_it_is_over():
    async def train(world):
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
            once, real = asyncio.Lock(), resetting._Reset._clear

            async def clear(self, engine):
                async with once:
                    if world.state.holder == "t":
                        await ended_by_force(world, self._hold)
                return await real(self, engine)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(Expired):
                patch.setattr(resetting._Reset, "_clear", clear)
                await pool.reset()

    with FakePool(version="0.5.23") as made:
        asyncio.run(train(made))
        assert told(made, "/destroy_weights_update_group") == []
