"""The API server is away: the operator waits for it, and is there at once when it is back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_operator import clocks
from sglang_operator.backoff import Backoff
from sglang_operator.controller import loop
from sglang_operator.kube import informer
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from tests.unit.controller import fake_api

# What is told of an API server that is away: by the network, by what stands before it, by itself.
AWAY = {
    "refused": lambda: ApiUnreachableError("connection refused"),
    "no answer": lambda: ApiUnreachableError("no answer in time"),
    "expired certificate": lambda: ApiUnreachableError("certificate has expired"),
    "bad gateway": lambda: ApiError(502, "", "Bad Gateway", None),
    "shuts down": lambda: ApiError(503, "ServiceUnavailable", "shutting down", 1.0),
    "etcd away": lambda: ApiError(500, "InternalError", "etcdserver: leader changed", None),
    "overloaded": lambda: ApiError(429, "TooManyRequests", "later", 1.0),
    "no rights yet": lambda: ApiError(403, "Forbidden", "RBAC: clusterrole not found", None),
    "no such path yet": lambda: ApiError(404, "NotFound", "page not found", None),
    "not its answer": lambda: ValueError("no JSON"),
}
# What another start may mend: the credentials are read anew, what was run out of is there again.
OWN = {
    "its token is not known": lambda: ApiError(401, "Unauthorized", "Unauthorized", None),
    "no files left": lambda: ApiUnreachableError("Too many open files", own=True),
}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """It is tried again soon."""
    monkeypatch.setattr(informer, "BACKOFF", Backoff(0.01, 0.02))


def minutes_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within them nothing is heard."""
    now = clocks.steady()
    monkeypatch.setattr(informer, "steady", lambda: now + loop.STALE_SECONDS + 1)


async def leaves(api: fake_api.Api, told: Callable[[], Exception]) -> None:
    """The API server goes away; its watches end."""
    api.fails = lambda method, path: told()

    @asynccontextmanager
    async def stream(*_: Any, **__: Any) -> AsyncIterator[None]:
        raise told()
        yield

    api.stream = stream  # type: ignore[assignment,method-assign]
    for watches in api._watches.values():
        for events in watches:
            events.put_nowait(b"")


@pytest.mark.parametrize("told", AWAY.values(), ids=AWAY)
def test_an_operator_whose_api_server_is_away_lives(told, monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            api.make("rl", "pool")
            await api.until(lambda: api.reason("rl", "pool") == "PoolReady")
            await leaves(api, told)
            minutes_go_by(monkeypatch)
            await api.until(lambda: room.stale() == [])

    asyncio.run(story())


@pytest.mark.parametrize("told", AWAY.values(), ids=AWAY)
def test_an_operator_that_starts_before_its_api_server_lives(told, monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        await leaves(api, told)
        room = fake_api.a_room(api)
        running = asyncio.create_task(room.run())
        await api.until(lambda: api.seen)
        minutes_go_by(monkeypatch)
        await api.until(lambda: room.stale() == [])
        assert room.unready()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


@pytest.mark.parametrize("told", OWN.values(), ids=OWN)
def test_what_another_start_may_mend_is_no_outage(told, monkeypatch):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            await leaves(api, told)
            asked = len(api.seen)
            await api.until(lambda: len(api.seen) > asked + 20)
            minutes_go_by(monkeypatch)
            assert "pods" in [name.split(" (")[0] for name in room.stale()]

    asyncio.run(story())


def test_a_stream_that_waits_for_its_next_attempt_is_alive_until_long_after(monkeypatch):
    async def story() -> None:
        monkeypatch.setattr(informer, "BACKOFF", Backoff(5.0, 5.0))  # from the first on
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            api.refuse(lambda path: True)
            await api.until(lambda: all(i.refused for i in room.informers))
            before = clocks.steady()
            for seconds, is_alive in ((loop.STALE_SECONDS, True), (loop.STALE_SECONDS + 31, False)):
                with monkeypatch.context() as later:
                    later.setattr(informer, "steady", lambda seconds=seconds: before + seconds)
                    assert (room.stale() == []) is is_alive

    asyncio.run(story())
