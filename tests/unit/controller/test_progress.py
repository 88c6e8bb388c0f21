"""A rollout that takes too long is told without any event, and by what the status remembers."""

import asyncio
from typing import Any

import pytest

from sglang_operator.controller.requeue import Reason
from sglang_operator.kube import paths
from tests.unit.controller.passes import Clock, Passes

LIMIT = 600
SPEC: dict[str, Any] = {"rollout": {"progressDeadlineSeconds": LIMIT}}


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def starting(clock: Clock) -> Passes:
    """A new pool whose engine does not come up."""
    pool = Passes(clock, interval=1.0, **SPEC)
    await pool.run()
    for pod in pool.api.pods("rl"):
        path = paths.pod("rl", pod["metadata"]["name"])
        pool.api.touch(path, {"status": {"phase": "Pending", "conditions": []}})
    await pool.settle_within(60)
    return pool


def stalled(pool: Passes) -> bool:
    return pool.reason == "ProgressDeadlineExceeded"


def test_a_pool_is_looked_at_again_when_its_engines_should_have_come_up(clock):
    async def told() -> None:
        pool = await starting(clock)
        wait = (await pool.run()).reasons()[Reason.DEADLINE]
        assert 0 < wait <= LIMIT
        clock.advance(wait - 5)
        await pool.run()
        assert not stalled(pool)
        clock.advance(10)
        requeue = await pool.run()
        assert stalled(pool)
        assert Reason.DEADLINE not in requeue.reasons()
        await pool.settle_within(60)

    asyncio.run(told())


def test_an_operator_that_takes_over_counts_from_what_the_status_says(clock):
    async def told() -> None:
        pool = await starting(clock)
        clock.advance(LIMIT / 2)
        successor = Passes(clock, interval=1.0, api=pool.api)
        wait = (await successor.run()).reasons()[Reason.DEADLINE]
        assert wait < LIMIT / 2
        clock.advance(wait + 5)
        await successor.run()
        assert stalled(successor)

    asyncio.run(told())


def test_without_a_deadline_nothing_is_told_and_nobody_looks_again(clock):
    async def told() -> None:
        pool = Passes(clock, interval=1.0)
        await pool.settle_within(60)
        clock.advance(86400)
        assert Reason.DEADLINE not in (await pool.run()).reasons()
        assert not stalled(pool)
        assert "rollout" not in pool.status

    asyncio.run(told())
