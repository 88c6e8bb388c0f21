"""What an engine answers is not trusted: it has a bound, and may be no JSON at all."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator.client import EngineError
from sglang_operator.client.calls import EngineCalls

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
