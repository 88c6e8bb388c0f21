"""Requests that have left when whoever made them gives up: a closed connection still delivers them.

An engine here is slow: a request is held in it, and takes effect when it is let go, whether or not
anybody waits for its answer by then.
"""

import asyncio
import contextlib
import time

import pytest

from sglang_operator import sending
from sglang_operator.client import AsyncPool, Held, PoolError, StaleEpoch
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

DISK, PAUSE, CONTINUE = "/update_weights_from_disk", "/pause_generation", "/continue_generation"


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


def pool(world, holder="a"):
    return AsyncPool(POOL, NAMESPACE, identity=world.identity, holder=holder)


async def held(engine):
    while not engine.held:
        await asyncio.sleep(0.01)


def holds(world):
    return [engine.weights for engine in world.engines]


async def interrupted(world, sync, how):
    """The sync, whose request is held in engine 0, is made to end."""
    if how == "stale":
        await asyncio.to_thread(world.restart, 2)
    else:
        sync.cancel()
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("how", ["stale", "cancelled"])
@pytest.mark.parametrize("path", [DISK, PAUSE, CONTINUE])
@pytest.mark.parametrize("holder", ["a", "b"])
def test_nobody_begins_while_a_request_of_an_ended_sync_is_on_its_way(world, how, path, holder):
    slow = world.engines[0]

    async def story():
        async with pool(world) as one, pool(world, holder) as other:
            await one.update_from_disk("/c/1", "step-1")
            slow.held = 0
            slow.stuck.add(path)
            sync = asyncio.create_task(one.update_from_disk("/c/2", "step-2"))
            await held(slow)
            await interrupted(world, sync, how)
            with pytest.raises(Held):
                await other.update_from_disk("/c/3", "step-3", wait=0)
            assert world.state.phase is Phase.SYNCING
            slow.stuck.clear()
            with pytest.raises(StaleEpoch if how == "stale" else asyncio.CancelledError):
                await sync
            assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")
            await other.update_from_disk("/c/3", "step-3", wait=0)

    asyncio.run(story())
    assert holds(world) == ["/c/3"] * 3
    assert {(engine.gate, engine.paused) for engine in world.engines} == {("Open", False)}


def test_an_update_that_somebody_still_waits_for_is_on_its_way_too(world):
    """A trainer whose own part of the broadcast fails has left its engines' part running."""
    slow = world.engines[0]

    async def story():
        async with pool(world) as one, pool(world, "b") as other:
            slow.stuck.add(DISK)
            running = []

            async def train():
                async with one.sync("step-1") as sync:
                    running.append(asyncio.create_task(sync.update_weights_from_disk("/c/1")))
                    await held(slow)
                    raise RuntimeError("the broadcast fails")

            training = asyncio.create_task(train())
            await asyncio.wait({training}, timeout=1)
            with pytest.raises(Held):
                await other.update_from_disk("/c/2", "step-2", wait=0)
            slow.stuck.clear()
            with pytest.raises(RuntimeError, match="the broadcast fails"):
                await training
            await asyncio.wait(running)
            running[0].exception()
            await other.update_from_disk("/c/2", "step-2", wait=0)

    asyncio.run(story())
    assert holds(world) == ["/c/2"] * 3


def test_what_never_answers_is_waited_for_until_it_cannot_arrive_any_more(world, monkeypatch):
    monkeypatch.setattr(sending, "DELIVERY_SECONDS", 1.0)
    slow = world.engines[0]

    async def story():
        async with pool(world) as one:
            slow.stuck.add(DISK)
            sync = asyncio.create_task(one.update_from_disk("/c/1", "step-1"))
            await held(slow)
            sync.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await sync
            return time.monotonic() - begun

    assert 0.8 < asyncio.run(story()) < 10
    assert (world.state.phase, world.state.holder) == (Phase.ABORTED, "")


def test_an_answer_that_did_not_come_in_time_is_no_sign_that_nothing_comes(world, monkeypatch):
    monkeypatch.setattr(sending, "DELIVERY_SECONDS", 2.0)
    slow = world.engines[0]

    async def story():
        async with pool(world) as one:
            slow.stuck.add(DISK)
            begun = time.monotonic()
            with pytest.raises(PoolError, match="no answer in time"):
                async with one.sync("step-1") as sync:
                    await sync.update_weights_from_disk("/c/1", timeout=0.3)
            return time.monotonic() - begun

    assert asyncio.run(story()) > 1.9


def test_an_update_that_makes_a_cancelled_one_good_does_not_overtake_it(world):
    slow = world.engines[0]

    async def story():
        async with pool(world) as one, one.sync("step-1") as sync:
            slow.stuck.add(DISK)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await sync.update_weights_from_disk("/c/1-of-2")
            again = asyncio.create_task(sync.update_weights_from_disk("/c/1"))
            await asyncio.sleep(0.3)
            assert (slow.held, [e.weights for e in world.engines[1:]]) == (1, ["/c/1"] * 2)
            slow.stuck.clear()
            await again

    asyncio.run(story())
    assert world.state.phase is Phase.COMMITTED
    assert holds(world) == ["/c/1"] * 3


def test_what_was_cancelled_before_all_of_it_had_left_never_arrives():
    async def story():
        body = sending.Body(b"x" * (3 * 2**16), lambda: True)
        pieces = aiter(body)
        await anext(pieces)
        assert body.revoke()
        with pytest.raises(sending._RefusedError):
            await anext(pieces)
        return body

    body = asyncio.run(story())
    assert body.refused
    assert not body.left


def test_what_had_left_as_a_whole_cannot_be_taken_back():
    async def story():
        body = sending.Body(b"x", lambda: True)
        await anext(aiter(body))
        return body.revoke()

    assert not asyncio.run(story())
