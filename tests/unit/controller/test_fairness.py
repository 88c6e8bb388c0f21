"""Whatever one namespace's requests meet, the pools of the others are looked after."""

import asyncio
from collections.abc import Callable

import pytest

from sglang_operator.cluster.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.cluster.stores import PoolKey
from tests.builders import guide_spec
from tests.unit.controller import world

STUCK = 40
SECONDS = 1.0  # for a gate to close; it takes some hundredths
GOOD = PoolKey("good", "pool")


def in_bad(path: str) -> bool:
    return "/namespaces/bad-" in path


def creates(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/pods") and in_bad(path)


def writes(method: str, path: str) -> bool:
    return method != "GET" and in_bad(path)


async def a_synced_pool(api: world.Api) -> None:
    """It serves what a trainer committed."""
    api.make(*GOOD)
    await api.until(lambda: api.reason(*GOOD) == "PoolReady")


@pytest.mark.parametrize("hangs", [creates, writes], ids=["pods", "everything"])
def test_a_gate_closes_at_once_while_forty_pools_hang_elsewhere(hangs: Callable[[str, str], bool]):
    async def story() -> tuple[float, float, float]:
        api = world.Api()
        async with world.operator(api) as room:
            await a_synced_pool(api)
            api.transact(*GOOD, "Committed", world.instances(room, GOOD))
            opened = await api.until(lambda: api.gate(GOOD.namespace) == "True")
            api.hangs = hangs
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool", num_gpus_per_worker=1)
            await api.until(lambda: api.hanging >= STUCK)
            api.transact(*GOOD, "Sleeping")
            closed = await api.until(lambda: api.gate(GOOD.namespace) == "False")
            api.make("new", "pool")
            told = await api.until(lambda: api.reason("new", "pool") == "PoolReady")
        return opened, closed, told

    opened, closed, told = asyncio.run(story())
    assert closed < SECONDS, f"while nothing hung a gate moved in {opened:.3f} s"
    assert told < 3 * SECONDS


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            ApiError(500, "InternalError", 'failed calling webhook "x": timeout', None),
            id="webhook",
        ),
        pytest.param(
            ApiError(429, "", "admission webhook denied the request: slow down", 60.0), id="429"
        ),
        pytest.param(ApiUnreachableError("no answer in time"), id="no answer"),
    ],
)
def test_what_fails_for_some_does_not_slow_down_the_others(error: Exception):
    async def story() -> tuple[float, int]:
        api = world.Api()
        async with world.operator(api) as room:
            await a_synced_pool(api)
            api.fails = lambda method, path: error if creates(method, path) else None
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool")
            failed = [("POST", f"/api/v1/namespaces/bad-{n}/pods") for n in range(STUCK)]
            await api.until(lambda: set(failed) <= set(api.seen))
            api.make("new", "pool")
            told = await api.until(lambda: api.reason("new", "pool") == "PoolReady")
            assert room.reconciler is not None
            return told, room.reconciler.window_size

    told, window = asyncio.run(story())
    assert told < SECONDS
    assert window > 32


def test_a_pool_that_cannot_be_read_is_told_keeps_its_engines_and_harms_nobody():
    async def story() -> None:
        api = world.Api()
        async with world.operator(api):
            api.make("bad", "pool")
            await api.until(lambda: api.reason("bad", "pool") == "PoolReady")
            pods = [body["metadata"]["uid"] for body in api.pods("bad")]
            api.change("bad", "pool", {"data_args": "DEEP"})
            await a_synced_pool(api)
            await api.until(lambda: api.reason("bad", "pool") == "SpecInvalid")
            assert [body["metadata"]["uid"] for body in api.pods("bad")] == pods
            api.change("bad", "pool", guide_spec(device_mapping="[0, 1]"))
            await api.until(lambda: api.reason("bad", "pool") == "PoolReady")
            assert [body["metadata"]["uid"] for body in api.pods("bad")] == pods

    asyncio.run(story())
