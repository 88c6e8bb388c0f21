"""An API server whose answers take longer than a pass waits between two looks at its pool."""

import asyncio

import pytest

from sglang_operator.controller.acting import ACTING_SECONDS
from sglang_operator.kube import paths
from tests.unit.controller.passes import Clock, Passes
from tests.unit.controller.test_reconcile import ONE_ENGINE, TWO_ENGINES, hanging, story

POOL = "/sglanginferences/pool"
THREE_ENGINES = "[0, 1, 2, 3, 4, 5]"


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def looked(pool: Passes, times: int = 2) -> None:
    """The pass that is under way has looked at its pool so many times more."""
    looks = pool.looks
    await pool.api.until(lambda: pool.looks >= looks + times)


def set_ready(pool: Passes, name: str, status: str) -> None:
    conditions = [
        {"type": kind, "status": status} for kind in ("ContainersReady", "Ready", "PodScheduled")
    ]
    pool.api.touch(paths.pod("rl", name), {"status": {"conditions": conditions}})


async def grown(clock: Clock, device_mapping: str) -> Passes:
    """A pool whose engines are all up."""
    pool = Passes(clock, interval=0.01, device_mapping=device_mapping, weights={"gate": "Off"})
    for _ in range(3):
        clock.advance(60)
        await pool.run()
        for name in pool.pod_names():
            set_ready(pool, name, "True")
    await pool.settle_within(600)
    return pool


def test_engines_go_though_the_pool_is_confirmed_more_slowly_than_it_is_looked_at(clock):
    async def told() -> None:
        pool = await grown(clock, THREE_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_engines_go_though_the_pool_is_confirmed_more_slowly_than_a_pass_may_act(clock):
    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        clock.advance(ACTING_SECONDS + 1)
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_an_engine_goes_though_there_is_more_to_do_at_each_look(clock):
    """Else, where something is new each second, nothing would ever be done."""

    async def told() -> None:
        pool = await grown(clock, THREE_ENGINES)
        pool.change(device_mapping=TWO_ENGINES)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        first = pool.pod_names()[0]
        await pool.api.request("DELETE", paths.pod("rl", first))  # and is to be made again
        await pool.see()
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_a_pod_that_changes_meanwhile_goes_as_it_is_by_then(clock):
    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        for name in pool.pod_names():
            pool.api.touch(paths.pod("rl", name), {"metadata": {"annotations": {"seen": "yes"}}})
        await pool.see()
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_an_engine_stays_that_another_has_to_stand_in_for_by_then(clock):
    """``maxUnavailable`` counts what serves when a pod goes, not when that was planned."""

    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        standing = pool.pod_names()
        pool.change(seed=7)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        # The upper goes first.
        await pool.api.request("DELETE", paths.pod("rl", standing[0]))
        await pool.see()
        await looked(pool)
        release()
        await running
        assert pool.pod_names() == standing[1:]

    story(told)
