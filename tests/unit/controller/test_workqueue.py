"""The queue of pools: once each, one at a time, not before their time."""

import asyncio

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.workqueue import WorkQueue

A, B = PoolKey("rl", "a"), PoolKey("rl", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _ready(queue: WorkQueue) -> PoolKey | None:
    """The key that is due now, if any."""
    getting = asyncio.create_task(queue.get())
    for _ in range(5):
        await asyncio.sleep(0)
    if getting.done():
        return getting.result()
    getting.cancel()
    return None


def run(story):
    async def main() -> None:
        clock = Clock()
        await story(WorkQueue(clock), clock)

    asyncio.run(main())


def test_a_key_added_twice_is_worked_on_once():
    async def story(queue, clock):
        queue.add(A)
        queue.add(A)
        assert await _ready(queue) == A
        queue.done(A)
        assert await _ready(queue) is None

    run(story)


def test_a_key_in_work_is_not_given_out_again_until_it_is_done():
    async def story(queue, clock):
        queue.add(A)
        assert await _ready(queue) == A
        queue.add(A)
        assert await _ready(queue) is None
        queue.done(A)
        assert await _ready(queue) == A

    run(story)


def test_keys_come_in_the_order_in_which_they_are_due():
    async def story(queue, clock):
        queue.add(A, 2.0)
        queue.add(B, 1.0)
        clock.now += 3
        assert await _ready(queue) == B
        assert await _ready(queue) == A

    run(story)


def test_a_delayed_key_waits():
    async def story(queue, clock):
        queue.add(A, 5.0)
        assert await _ready(queue) is None
        clock.now += 5
        assert await _ready(queue) == A

    run(story)


def test_an_earlier_time_wins_over_a_later_one():
    async def story(queue, clock):
        queue.add(A, 5.0)
        queue.add(A, 1.0)
        queue.add(A, 9.0)
        clock.now += 1
        assert await _ready(queue) == A
        queue.done(A)
        clock.now += 60
        assert await _ready(queue) is None

    run(story)


def test_a_delay_asked_for_while_in_work_counts_from_then():
    async def story(queue, clock):
        queue.add(A)
        await _ready(queue)
        queue.add(A, 3.0)
        queue.done(A)
        assert await _ready(queue) is None
        clock.now += 3
        assert await _ready(queue) == A

    run(story)


def test_a_waiting_getter_is_woken_by_an_add():
    async def story(queue, clock):
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add(A)
        assert await asyncio.wait_for(getting, 1) == A

    run(story)


def test_far_delays_whose_place_was_taken_leave_the_queue_small():
    """A Lease held for a week: each pass says when it ends, and the next one comes in a second."""

    async def story(queue, clock):
        queue.add(B, 1e6)
        for _ in range(5_000):
            queue.add(A)
            assert await queue.get() == A
            queue.done(A)
            queue.add(A, 7 * 86_400.0)
            clock.now += 1.0
        assert len(queue._heap) < 200
        clock.now += 8e5
        assert await _ready(queue) == A
        clock.now += 1e6
        assert await _ready(queue) == B

    run(story)
