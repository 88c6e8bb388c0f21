"""Whatever one namespace's requests meet, the pools of the others are looked after."""

import asyncio
import time
from collections.abc import Callable

import pytest

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from tests.builders import guide_spec
from tests.unit.controller import fake_api

STUCK = 40
# For a gate to close, of which some hundredths are its own: seconds that this process computes
# until then, and seconds by the clock, in which a busy machine may do anything else too.
COMPUTED_SECONDS = 1.0
SECONDS = 8.0
GOOD = PoolKey("good", "pool")


def in_bad(path: str) -> bool:
    return "/namespaces/bad-" in path


def creates(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/pods") and in_bad(path)


def writes(method: str, path: str) -> bool:
    return method != "GET" and in_bad(path)


async def took(api: fake_api.Api, check: Callable[[], object]) -> tuple[float, float]:
    """What it took until this is so: computed, and by the clock."""
    before = time.process_time()
    by_the_clock = await api.until(check)
    return time.process_time() - before, by_the_clock


async def a_synced_pool(api: fake_api.Api) -> None:
    """It serves what a trainer committed."""
    api.make(*GOOD)
    await api.until(lambda: api.reason(*GOOD) == "PoolReady")


@pytest.mark.parametrize("hangs", [creates, writes], ids=["pods", "everything"])
def test_a_gate_closes_at_once_while_forty_pools_hang_elsewhere(hangs: Callable[[str, str], bool]):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_synced_pool(api)
            api.transact(*GOOD, "Committed", fake_api.instances(room, GOOD))
            await api.until(lambda: api.gate(GOOD.namespace) == "True")
            api.hangs = hangs
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool", num_gpus_per_worker=1)
            await api.until(lambda: api.hanging >= STUCK)
            api.transact(*GOOD, "Sleeping")
            closed = await took(api, lambda: api.gate(GOOD.namespace) == "False")
            assert closed[0] < COMPUTED_SECONDS
            assert closed[1] < SECONDS
            api.make("new", "pool")
            told = await took(api, lambda: api.reason("new", "pool") == "PoolReady")
            assert told[0] < 3 * COMPUTED_SECONDS
            assert told[1] < 3 * SECONDS

    asyncio.run(story())


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            ApiError(500, "InternalError", 'failed calling webhook "x": timeout', None),
            id="webhook",
        ),
        pytest.param(
            ApiError(429, "", 'admission webhook "x" denied the request: slow down', 60.0),
            id="429",
        ),
        pytest.param(
            ApiError(
                500,
                "InternalError",
                "Internal error occurred: resource quota evaluation timed out",
                1.0,
            ),
            id="quota that cannot be counted",
        ),
        pytest.param(
            ApiError(
                500,
                "InternalError",
                'Internal error occurred: add operation does not apply: doc is missing path: "/x"',
                None,
            ),
            id="a webhook's patch",
        ),
        pytest.param(
            ApiError(500, "InternalError", "Internal error occurred: so it is", 60.0), id="500"
        ),
        pytest.param(ApiError(504, "Timeout", "Timeout: no answer in time", None), id="504"),
        pytest.param(ApiUnreachableError("no answer in time"), id="no answer"),
    ],
)
def test_what_fails_for_some_does_not_slow_down_the_others(error: Exception):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_synced_pool(api)
            api.fails = lambda method, path: error if creates(method, path) else None
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool")
            failed = [("POST", f"/api/v1/namespaces/bad-{n}/pods") for n in range(STUCK)]
            await api.until(lambda: set(failed) <= set(api.seen))
            api.make("new", "pool")
            told = await took(api, lambda: api.reason("new", "pool") == "PoolReady")
            assert told[0] < COMPUTED_SECONDS
            assert told[1] < SECONDS
            assert room.reconciler is not None
            assert room.reconciler.window_size > 32

    asyncio.run(story())


def test_a_pool_that_cannot_be_read_is_told_keeps_its_engines_and_harms_nobody():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
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
