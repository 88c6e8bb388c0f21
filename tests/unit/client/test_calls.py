"""What an engine answers is not trusted: it has a bound, and may be no JSON at all."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from sglang_operator.client import EngineError
from sglang_operator.client.calls import MAX_ANSWER, EngineCalls

DEEP = b"[" * 200_000
CHUNK = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"


async def _posted(head, piece, times):
    """What came of a call to an engine that answers so; and how many pieces it got rid of."""
    sent = 0

    async def handle(reader, writer):
        nonlocal sent
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            for _ in range(times):
                writer.write(piece)
                await writer.drain()
                sent += 1
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine: Any = SimpleNamespace(rank=0, url=f"http://127.0.0.1:{port}", instance="i")
    calls = EngineCalls(None, None)
    try:
        return await calls.post_any(engine, "/pause_generation", {}, timeout=30)
    finally:
        await calls.close()
        server.close()
        assert sent < 100


def test_an_answer_without_end_is_an_engines_error():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(EngineError, match="larger than"):
        asyncio.run(_posted(head, CHUNK, 300))


def test_an_answer_that_is_too_deep_is_no_json():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DEEP)
    assert asyncio.run(_posted(head, DEEP, 1)) is None


@contextlib.asynccontextmanager
async def engine_that(handles):
    """An engine, as calls take it, whose every path is handled so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handles)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine: Any = SimpleNamespace(
        rank=0, url=f"http://127.0.0.1:{runner.addresses[0][1]}", instance="i"
    )
    try:
        yield engine
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (("a", "b"), ["Bearer a", "Bearer a", "Bearer b"]),
        (("a", None), ["Bearer a", "Bearer a", "Bearer a"]),
        ((None, "b"), ["Bearer b", "Bearer b", "Bearer b"]),
        ((None, None), [None, None, None]),
    ],
)
def test_each_path_gets_the_key_that_sglang_asks_for_there(keys, sent):
    """The API key where clients go, the admin key where an engine is changed."""
    seen = []

    async def handle(request):
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    async def ask():
        calls = EngineCalls(*keys)
        async with engine_that(handle) as engine:
            await calls.post_any(engine, "/generate", {})
            await calls.get(engine, "/server_info")
            await calls.post(engine, "/flush_cache", {})
            await calls.close()

    asyncio.run(ask())
    assert seen == sent


def test_what_is_generated_may_be_larger_than_other_answers():
    size = MAX_ANSWER + 2**17

    async def handle(request):
        return web.json_response({"output_ids": "7" * size})

    async def ask():
        calls = EngineCalls(None, None)
        async with engine_that(handle) as engine:
            found = await calls.post_any(engine, "/generate", {})
            assert len(found["output_ids"]) == size
            with pytest.raises(EngineError, match="bytes"):
                await calls.post(engine, "/flush_cache", {})
            await calls.close()

    asyncio.run(ask())


def test_an_answer_that_nobody_asked_for_is_not_the_next_ones():
    """Else a call would count as done that the engine has not even read."""
    said = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = not said.is_set()
        with contextlib.suppress(asyncio.IncompleteReadError):
            for number in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                answer = head.split()[1]
                writer.write(_answer(answer))
                if first and not number:
                    await go_on.wait()
                    writer.write(_answer(b"stale"))
                    said.set()
        writer.close()

    go_on = asyncio.Event()

    async def story() -> list[Any]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        engine: Any = SimpleNamespace(rank=0, url=f"http://127.0.0.1:{port}", instance="i")
        calls = EngineCalls(None, None)
        try:
            answers = [await calls.post_any(engine, "/one", {}, timeout=30)]
            go_on.set()
            await said.wait()
            for _ in range(10):  # steps of the loop, in which what was said comes in
                await asyncio.sleep(0)
            return [*answers, await calls.post_any(engine, "/two", {}, timeout=30)]
        finally:
            await calls.close()
            server.close()

    assert asyncio.run(story()) == [{"path": "/one"}, {"path": "/two"}]


def _answer(path: bytes) -> bytes:
    body = b'{"path": "%s"}' % path
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
