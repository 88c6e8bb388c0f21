"""The window of requests under way: it grows with success and gives way to an overloaded server."""

import asyncio
import time

from sglang_operator.cluster.window import Window


def test_it_grows_by_one_for_a_full_window_of_successes():
    window = Window(start=4, limit=8)
    for _ in range(5):
        window.succeeded()
    assert window.size == 5


def test_it_never_grows_above_its_limit():
    window = Window(start=4, limit=6)
    for _ in range(1000):
        window.succeeded()
    assert window.size == 6


def test_one_overload_halves_it_once_for_all_that_was_under_way():
    window = Window(start=16)
    for _ in range(10):
        window.congested(None)
    assert window.size == 8


def test_one_request_without_an_answer_does_not_hold_up_the_others_however_overloaded(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    window = Window()
    for _ in range(20):
        window.congested(None)
    assert window.size == 4


def test_no_more_than_its_size_are_under_way_and_all_get_their_turn():
    async def story() -> None:
        window = Window(start=3, limit=3)
        under_way, most, finished = 0, 0, 0

        async def request() -> None:
            nonlocal under_way, most, finished
            async with window.slot():
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0)
                under_way -= 1
            finished += 1

        await asyncio.gather(*(request() for _ in range(50)))
        assert most == 3
        assert finished == 50

    asyncio.run(story())


def test_a_cancelled_request_gives_its_place_back():
    async def story() -> None:
        window = Window(start=1, limit=1)
        release = asyncio.Event()

        async def hold() -> None:
            async with window.slot():
                await release.wait()

        first = asyncio.create_task(hold())
        second = asyncio.create_task(hold())
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        await first
        async with asyncio.timeout(1), window.slot():
            pass

    asyncio.run(story())


def test_a_pause_holds_those_too_who_already_wait_for_their_turn():
    async def story() -> None:
        window = Window(start=2, limit=2)
        begun, started = time.monotonic(), []

        async def request(number: int) -> None:
            async with window.slot():
                started.append(time.monotonic() - begun)
                await asyncio.sleep(0.01)
                if number == 0:
                    window.congested(0.3)

        await asyncio.gather(*(request(number) for number in range(6)))
        assert len(started) == 6
        assert max(started[:2]) < 0.3 <= min(started[2:])

    asyncio.run(story())
