"""Bodies of requests over real sockets, to an engine that reads when it likes."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from functools import partial
from typing import Any

import aiohttp
import pytest

from sglang_operator import receiving, sending

BUFFER = 2**16
LARGE = 8 * 2**20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class SlowEngine:
    """Takes connections, and reads of them nothing before ``goes_on``."""

    def __init__(self):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.listening.setblocking(False)
        port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/update"
        self.connection: Any = None

    async def taken(self):
        self.connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
        self.connection.setblocking(False)

    async def reads(self, count):
        """Bytes, until there are so many or no more come."""
        loop, data = asyncio.get_running_loop(), bytearray()
        with contextlib.suppress(TimeoutError, ConnectionError):
            while len(data) < count:
                async with asyncio.timeout(1):
                    piece = await loop.sock_recv(self.connection, 2**16)
                if not piece:
                    break
                data += piece
        return bytes(data)

    async def reads_request(self, length):
        """Whether all of it comes: a head, and a body of this length."""
        data = await self.reads(1)
        while data and b"\r\n\r\n" not in data:
            data += await self.reads(1)
        rest = length - len(data.partition(b"\r\n\r\n")[2])
        return len(await self.reads(rest)) >= rest

    def close(self):
        self.listening.close()
        if self.connection is not None:
            self.connection.close()


@pytest.fixture
def engine():
    made = SlowEngine()
    yield made
    made.close()


@contextlib.asynccontextmanager
async def client():
    connector = sending.Connector(2**20, receiving.Turns(), keepalive_timeout=3)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def post(session, url, body):
    with sending.leaving(body):
        async with session.post(url, data=body, headers=body.headers) as answer:
            return await answer.read()


async def ends(task):
    await asyncio.wait({task}, timeout=10)
    assert task.done()
    return task.exception()


def content(size):
    return json.dumps({"pad": "x" * size}).encode()


def with_engine(story):
    async def run(engine):
        async with client() as session:
            await story(session, engine)

    return lambda engine: asyncio.run(run(engine))


class Counted(sending.Body):
    """Counts the bytes that it has handed to the connection."""

    handed = 0

    async def __aiter__(self):
        async for piece in super().__aiter__():
            self.handed += len(piece)
            yield piece


def connection(body):
    """Its transport."""
    return body._transport


def undelivered(body):
    return sending._undelivered(connection(body))


async def waiting(body):
    """Bytes of it that wait in this process, once the kernels take no more."""
    waits, since = -1, time.monotonic()
    while time.monotonic() < since + 0.2:
        await asyncio.sleep(0.01)
        now = connection(body).get_write_buffer_size() if connection(body) else -1
        if now != waits:
            waits, since = now, time.monotonic()
    return waits


async def handed_over(session, engine, allowed=receiving.always, *, in_process=BUFFER // 2):
    """A request of which all has left, as the connection sees it, and a part has not yet.

    ``in_process`` bytes of it wait in this process, or so many less are in its kernel.  How much
    the kernels take of what nobody reads is seen by trial.
    """
    size = LARGE
    for _ in range(10):
        body = Counted(content(size), allowed)
        asking = asyncio.create_task(post(session, engine.url, body))
        await engine.taken()
        waits = await waiting(body)
        if body.left and bool(waits) == (in_process > 0) and undelivered(body):
            return body, asking, size
        size = body.handed - waits + in_process if waits else size + BUFFER // 2
        asking.cancel()
        await asyncio.wait({asking})
        engine.connection.close()
    pytest.fail("the kernels take another amount each time")


@with_engine
async def test_what_an_engine_has_not_read_yet_has_not_left(session, engine):
    """Else a request would count as sent, and time run, while megabytes wait in the kernel."""
    body = Counted(content(LARGE), receiving.always)
    asking = asyncio.create_task(post(session, engine.url, body))
    await engine.taken()
    waits = await waiting(body)
    assert body.handed - waits < 2**20
    assert not body.left
    assert body.revoke()
    asking.cancel()
    await asyncio.wait({asking})


@pytest.mark.parametrize("in_process", [BUFFER // 2, -BUFFER // 4])
def test_what_was_given_up_does_not_arrive_however_slowly_an_engine_reads(engine, in_process):
    with_engine(partial(_given_up, in_process=in_process))(engine)


async def _given_up(session, engine, in_process):
    body, asking, size = await handed_over(session, engine, in_process=in_process)
    body.give_up()
    assert isinstance(await ends(asking), aiohttp.ClientError)
    assert 0 < len(await engine.reads(2 * size)) < size


@with_engine
async def test_what_was_given_up_and_closed_does_not_arrive_either(session, engine):
    _, asking, size = await handed_over(session, engine)
    asking.cancel()
    await asyncio.wait({asking})
    assert 0 < len(await engine.reads(2 * size)) < size


@with_engine
async def test_a_process_that_stood_still_sends_nothing_of_what_it_had_before(session, engine):
    """It was stopped with a part in its own buffer; the Lease is another's when it goes on."""
    mine = [True]
    body, asking, size = await handed_over(session, engine, lambda: mine[0])
    mine[0] = False
    assert 0 < len(await engine.reads(2 * size)) < size
    assert isinstance(await ends(asking), aiohttp.ClientError)
    assert (body.refused, body.left) == (True, False)  # without its end it is none to an engine


@with_engine
async def test_the_kernel_delivers_nothing_for_longer_than_others_wait_for_it(session, engine):
    body = sending.Body(content(10), receiving.always)
    asking = asyncio.create_task(post(session, engine.url, body))
    await engine.taken()
    assert await engine.reads_request(len(content(10)))
    made = connection(body).get_extra_info("socket")
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        milliseconds = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert milliseconds == sending.DELIVERY_SECONDS * 1000
    asking.cancel()
    await asyncio.wait({asking})


@with_engine
async def test_a_request_that_is_there_keeps_its_connection_for_the_answer(session, engine):
    body = sending.Body(content(10), receiving.always)
    asking = asyncio.create_task(post(session, engine.url, body))
    await engine.taken()
    assert await engine.reads_request(len(content(10)))
    body.give_up()
    await asyncio.get_running_loop().sock_sendall(engine.connection, ANSWER)
    assert await asking == b"{}"


@with_engine
async def test_the_next_request_over_a_connection_is_its_own(session, engine):
    """What became of the one before does not matter to it; each has its own fence."""
    loop = asyncio.get_running_loop()
    for number, allowed in enumerate([lambda: True, lambda: True]):
        body = sending.Body(content(10), allowed)
        asking = asyncio.create_task(post(session, engine.url, body))
        if not number:
            await engine.taken()
        assert await engine.reads_request(len(content(10)))
        await loop.sock_sendall(engine.connection, ANSWER)
        assert await asking == b"{}"
        body.revoke()
    refused = sending.Body(content(10), lambda: False)
    assert isinstance(
        await ends(asyncio.create_task(post(session, engine.url, refused))), aiohttp.ClientError
    )
    assert refused.refused
    assert not refused.left
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await loop.sock_recv(engine.connection, 1) == b""
