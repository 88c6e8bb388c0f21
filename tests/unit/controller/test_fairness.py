"""Whatever one namespace's requests meet, the pools of the others are looked after."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from sglang_operator.backoff import Backoff
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import memory
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from tests.builders import guide_spec
from tests.unit.controller import fake_api

STUCK = 40
# So many pools come up beside those that fail, of which none is tried more often than its own news
# wake it: that of eight children, and of its status.
NEW = 20
MOST_TRIES = 12
# Longer than any story: whoever waits for its next try waits to the end.
NO_MORE = Backoff(300.0, 300.0)
GOOD = PoolKey("good", "pool")


def in_bad(path: str) -> bool:
    return "/namespaces/bad-" in path


def creates(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/pods") and in_bad(path)


def writes(method: str, path: str) -> bool:
    return method != "GET" and in_bad(path)


async def a_ready_pool(api: fake_api.Api, key: PoolKey) -> None:
    api.make(*key)
    await api.until(lambda: api.reason(*key) == "PoolReady")


@pytest.mark.parametrize("hangs", [creates, writes], ids=["pods", "everything"])
def test_a_gate_closes_while_forty_pools_hang_elsewhere(hangs: Callable[[str, str], bool]):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_ready_pool(api, GOOD)
            api.transact(*GOOD, "Committed", fake_api.instances(room, GOOD))
            await api.until(lambda: api.gate(GOOD.namespace) == "True")
            api.hangs = hangs
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool", num_gpus_per_worker=1)
            await api.until(lambda: api.hanging >= STUCK)
            api.transact(*GOOD, "Sleeping")
            await api.until(lambda: api.gate(GOOD.namespace) == "False")
            await a_ready_pool(api, PoolKey("new", "pool"))
            assert api.hanging >= STUCK  # none of them had an answer, or gave up

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
def test_what_fails_for_some_does_not_slow_down_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "ERROR_BACKOFF", NO_MORE)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await a_ready_pool(api, GOOD)
            assert room.reconciler is not None
            window = room.reconciler.window_size
            api.fails = lambda method, path: error if creates(method, path) else None
            for number in range(STUCK):
                api.make(f"bad-{number}", "pool")
            failed = [("POST", f"/api/v1/namespaces/bad-{n}/pods") for n in range(STUCK)]
            await api.until(lambda: set(failed) <= set(api.seen))
            for number in range(NEW):
                await a_ready_pool(api, PoolKey(f"new-{number}", "pool"))
            tries = Counter(path for method, path in api.seen if creates(method, path))
            assert len(tries) == STUCK
            assert max(tries.values()) <= MOST_TRIES
            assert room.reconciler.window_size == window

    asyncio.run(story())


def test_a_pool_that_cannot_be_read_is_told_keeps_its_engines_and_harms_nobody():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make("bad", "pool")
            await api.until(lambda: api.reason("bad", "pool") == "PoolReady")
            pods = [body["metadata"]["uid"] for body in api.pods("bad")]
            api.change("bad", "pool", {"data_args": "DEEP"})
            await a_ready_pool(api, GOOD)
            await api.until(lambda: api.reason("bad", "pool") == "SpecInvalid")
            assert [body["metadata"]["uid"] for body in api.pods("bad")] == pods
            api.change("bad", "pool", guide_spec(device_mapping="[0, 1]"))
            await api.until(lambda: api.reason("bad", "pool") == "PoolReady")
            assert [body["metadata"]["uid"] for body in api.pods("bad")] == pods

    asyncio.run(story())
