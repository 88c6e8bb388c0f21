"""The window of requests under way: it grows with success and gives way to an overloaded server."""

import asyncio
import time

import pytest

from sglang_operator.kube import window as window_module
from sglang_operator.kube.window import LIMIT, Window


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
        started, told = list[float](), list[float]()

        async def request(number: int) -> None:
            async with window.slot():
                started.append(time.monotonic())
                await asyncio.sleep(0.01)
                if number == 0:
                    told.append(time.monotonic())
                    window.congested(0.3)

        await asyncio.gather(*(request(number) for number in range(6)))
        assert len(started) == 6
        assert max(started[:2]) < told[0] <= min(started[2:]) - 0.3

    asyncio.run(story())


def test_who_was_told_to_wait_keeps_no_place_from_others():
    """Two namespaces whose webhook is busy could hold every place asleep for half a minute."""

    async def story() -> None:
        window = Window(start=4, limit=4)

        async def request(namespace: str) -> float:
            async with window.slot(namespace):
                return time.monotonic()

        def waiting() -> list[asyncio.Task[float]]:
            return [asyncio.create_task(request(name)) for name in ("a", "b") for _ in range(8)]

        for namespace in ("a", "b"):
            window.failed(namespace, 30.0)
        told = waiting()
        await asyncio.sleep(0)
        await asyncio.gather(*(request("other") for _ in range(8)))
        assert not any(task.done() for task in told)
        for task in told:
            task.cancel()
        await asyncio.gather(*told, return_exceptions=True)

    asyncio.run(story())


def test_who_was_told_to_wait_waits_for_so_long():
    async def story() -> None:
        window, begun = Window(start=4, limit=4), time.monotonic()
        window.failed("a", 0.2)

        async def request() -> float:
            async with window.slot("a"):
                return time.monotonic() - begun

        told = [asyncio.create_task(request()) for _ in range(8)]
        await asyncio.sleep(0)
        window.failed("a", 0.4)  # and it grows while they wait
        assert min(await asyncio.gather(*told)) >= 0.4

    asyncio.run(story())


def test_one_who_was_told_to_wait_and_gives_up_leaves_nothing_behind():
    async def story() -> None:
        window = Window(start=1, limit=1)
        window.failed("a", 0.2)

        async def request() -> None:
            async with window.slot("a"):
                pass

        gone, stays = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        async with asyncio.timeout(2):
            await stays
            await request()

    asyncio.run(story())


def test_namespaces_take_turns_however_many_requests_one_of_them_has():
    async def story() -> list[str]:
        window, order = Window(start=1, limit=1), list[str]()

        async def request(namespace: str) -> None:
            async with window.slot(namespace):
                await asyncio.sleep(0)
                order.append(namespace)

        many = [asyncio.create_task(request("many")) for _ in range(10)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(request("few")) for _ in range(2)]
        await asyncio.gather(*many, *few)
        return order

    assert [i for i, name in enumerate(asyncio.run(story())) if name == "few"][-1] < 8


async def hanging(window: Window, namespaces: list[str], each: int) -> list[asyncio.Task[None]]:
    """Requests that are never answered."""

    async def hang(namespace: str) -> None:
        async with window.slot(namespace):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hang(name)) for name in namespaces for _ in range(each)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize(("namespaces", "each"), [(1, 100), (40, 20), (400, 3)])
def test_requests_that_hang_hold_up_no_other_namespace(monkeypatch, namespaces, each):
    monkeypatch.setattr(window_module, "SLOW_SECONDS", 0.02)

    async def story() -> None:
        window = Window()
        tasks = await hanging(window, [f"bad-{i}" for i in range(namespaces)], each)
        for _ in range(20):
            async with asyncio.timeout(2), window.slot("good"):
                pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # All places are given back: as many as ever are there.
        held = await hanging(window, ["a"], int(LIMIT))
        waiting = asyncio.create_task(hanging(window, ["b"], 1))
        await waiting
        for task in (*held, *waiting.result()):
            task.cancel()

    asyncio.run(story())


def test_a_namespace_has_few_requests_that_hang(monkeypatch):
    monkeypatch.setattr(window_module, "SLOW_SECONDS", 0.01)

    async def story() -> int:
        window, begun = Window(start=8, limit=8), 0

        async def hang() -> None:
            nonlocal begun
            async with window.slot("bad"):
                begun += 1
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hang()) for _ in range(50)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        return begun

    assert asyncio.run(story()) == 8  # what was under way before the first was seen to hang


def test_what_fails_in_one_namespace_shrinks_its_own_share():
    window = Window()
    for _ in range(5):
        window.failed("bad", 5.0)
    assert window.size == LIMIT

    async def story() -> None:
        async with asyncio.timeout(1), window.slot("good"):
            pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), window.slot("bad"):
                pass

    asyncio.run(story())


def test_what_nobody_explains_is_the_servers_fault_only_if_nobody_has_an_answer():
    alone, among = Window(), Window()
    among.succeeded("good")
    for window in (alone, among):
        window.unexplained("bad", 5.0)
    assert (alone.size, among.size) == (LIMIT / 2, LIMIT)


def test_nothing_is_remembered_of_namespaces_that_are_well(monkeypatch):
    monkeypatch.setattr(window_module, "WELL_SECONDS", 0.0)

    async def story() -> None:
        window = Window()
        for number in range(1000):
            async with window.slot(f"n{number}"):
                window.succeeded(f"n{number}")
        assert len(window._shares) < 10

    asyncio.run(story())
