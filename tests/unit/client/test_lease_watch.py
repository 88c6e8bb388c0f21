"""A watched Lease: what is told counts for as old as it may be, and never goes back in time."""

import asyncio
import dataclasses
import time

import pytest

from sglang_operator.client import AsyncPool, Held, lease
from sglang_operator.clocks import steady
from sglang_operator.weights import steps
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, other


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


def run(world, act):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await act(pool)

    asyncio.run(story())


def begins(world, version="v"):
    now = time.time()
    world.write_lease(
        steps.begin(world.state, other(), epoch="e", version=version, now=now, seen=0)
    )


async def becomes(check):
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.01)


async def watched(pool):
    known = await pool.lease.read()
    pool.lease.watch.start()
    await becomes(lambda: pool.lease.watch.alive)
    return known


def test_whoever_waits_is_woken_and_asks_for_nothing(world):
    async def act(pool):
        known = await watched(pool)
        reads = []
        pool.lease.read = lambda: reads.append(1)
        waiting = asyncio.create_task(pool.lease.newer(known, 0.0, most=60.0))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(begins, world)
        assert (await waiting).target_version == "v"
        assert not reads

    run(world, act)


def test_what_is_told_may_have_stood_there_since_the_last_request_that_showed_less(world):
    """A process that stood still is told of it as if it had just happened."""

    async def act(pool):
        await watched(pool)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(begins, world)
        await becomes(lambda: pool.lease.seen.holder)
        assert pool.lease.age() >= 0.5
        await pool.lease.read()
        assert pool.lease.age() >= 0.5
        begun, before = time.monotonic(), pool.lease.seen.renewed
        renewed = steps.renew(world.state, other(), now=time.time() + 1)
        await asyncio.to_thread(world.write_lease, renewed)
        await becomes(lambda: pool.lease.seen.renewed > before)
        assert pool.lease.age() <= time.monotonic() - begun + 0.2

    run(world, act)


def test_a_request_that_was_under_way_does_not_take_back_what_was_told(world):
    async def act(pool):
        await watched(pool)
        reads, told = pool._open().lease, asyncio.Event()

        async def slow():
            found = await reads()
            await told.wait()
            return found

        pool._open().lease = slow
        reading = asyncio.create_task(pool.lease.read())
        await asyncio.sleep(0.3)
        await asyncio.to_thread(begins, world)
        await becomes(lambda: pool.lease.seen.holder)
        told.set()
        assert (await reading).holder == ""
        assert pool.lease.seen.holder == other().holder
        assert pool.lease.age() < 10.0

    run(world, act)


def test_an_api_server_that_was_restored_from_a_backup_is_believed(world):
    async def act(pool):
        await watched(pool)
        await asyncio.to_thread(begins, world)
        await becomes(lambda: pool.lease.seen.holder)
        metadata = {**world.lease["metadata"], "resourceVersion": "1", "annotations": {}}
        world.lease = {**world.lease, "metadata": metadata, "spec": {}}
        assert (await pool.lease.read()).holder == ""
        assert pool.lease.seen.holder == ""

    run(world, act)


def test_a_watch_that_breaks_is_begun_again(world, monkeypatch):
    monkeypatch.setattr("sglang_operator.client.lease_watch.RETRY_SECONDS", 0.05)

    async def act(pool):
        known = await watched(pool)
        await asyncio.to_thread(world.break_watches)
        await becomes(lambda: not pool.lease.watch.alive)
        await becomes(lambda: pool.lease.watch.alive)
        await asyncio.to_thread(begins, world)
        monkeypatch.setattr(lease, "WATCHED_SECONDS", 60.0)
        assert (await pool.lease.newer(known, 0.0, most=60.0)).target_version == "v"

    run(world, act)


# --- steps on what is known


def requests_of(pool):
    """What is asked of the API server from now on."""
    asked, real = [], pool.lease._cluster._request

    async def request(method, *rest):
        asked.append(method)
        return await real(method, *rest)

    pool.lease._cluster._request = request
    return asked


def objects(message):
    return lambda state, sight: dataclasses.replace(state, message=message)


@pytest.mark.parametrize("by", ["the watch", "its own write"])
def test_a_step_on_a_lease_that_is_known_is_one_write(world, by):
    async def act(pool):
        if by == "the watch":
            await watched(pool)
        else:
            await pool.lease.step(objects("first"), patience=1)
        asked = requests_of(pool)
        await pool.lease.step(objects("second"), patience=1)
        assert asked == ["PUT"]
        assert world.state.message == "second"

    run(world, act)


def test_a_lease_that_was_only_read_once_may_be_another_by_now(world):
    async def act(pool):
        await pool.lease.read()
        asked = requests_of(pool)
        await pool.lease.step(objects("first"), patience=1)
        assert asked == ["GET", "PUT"]

    run(world, act)


def test_a_step_that_others_were_quicker_than_is_decided_anew(world):
    """What it rests on is compared by the write."""

    async def act(pool):
        await pool.lease.step(objects("first"), patience=1)
        await asyncio.to_thread(begins, world, "theirs")
        asked, found = requests_of(pool), []

        def step(state, sight):
            found.append(state.target_version)
            return dataclasses.replace(state, message="second")

        await pool.lease.step(step, patience=1)
        assert asked == ["PUT", "GET", "PUT"]
        assert found == ["", "theirs"]
        assert (world.state.target_version, world.state.message) == ("theirs", "second")

    run(world, act)


def test_nobody_is_refused_by_what_may_be_of_before(world):
    async def act(pool):
        await asyncio.to_thread(begins, world)
        held = await pool.lease.read()
        await pool.lease.step(objects("first"), patience=1)
        ended = dataclasses.replace(steps.aborted(held, "it ended"), message="it ended")
        await asyncio.to_thread(world.write_lease, ended)

        def step(state, sight):
            if state.target_version == "v" and state.phase.value == "Syncing":
                raise Held("by another", holder="b", since=0, until=0)
            return dataclasses.replace(state, message="mine")

        await pool.lease.step(step, patience=1)
        assert world.state.message == "mine"

    run(world, act)


def test_a_step_that_writes_nothing_has_looked(world):
    async def act(pool):
        await pool.lease.step(objects("first"), patience=1)
        asked = requests_of(pool)
        await pool.lease.step(lambda state, sight: state, patience=1)
        assert asked == ["GET"]

    run(world, act)


def test_what_a_process_writes_itself_is_no_older_than_its_request(world):
    """Though it has not looked for long."""

    async def act(pool):
        await watched(pool)
        pool.lease._asked = pool.lease._appeared = steady() - 25
        renewal = lambda state, sight: dataclasses.replace(state, renewed=sight.now)  # noqa: E731
        await pool.lease.step(renewal, patience=1)
        assert pool.lease.age() < 5
        pool.lease._asked = pool.lease._appeared = steady() - 25
        await pool.lease.step(lambda s, _: dataclasses.replace(s, message="m"), patience=1)
        assert pool.lease.age() > 20  # what is no renewal does not pass for one

    run(world, act)


def test_an_answer_that_got_lost_is_found_again_by_who_wrote_without_a_look(world):
    async def act(pool):
        await watched(pool)
        asked = requests_of(pool)
        world.lose_answers = 1
        await pool.lease.step(objects("once"), patience=5)
        assert asked[:2] == ["PUT", "GET"]
        assert [state.message for state in world.puts] == ["once"]

    run(world, act)
