"""Whatever an engine sends, no other task waits for long, and what is read of it has an end."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator import receiving
from sglang_operator.client import EngineError as TrainersError
from sglang_operator.client import calls as calls_module
from sglang_operator.client.calls import EngineCalls
from sglang_operator.engine import versions
from sglang_operator.fleet import answers
from sglang_operator.fleet.client import EngineClient, EngineRequestError, EngineUnreachableError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# What comes first, and then again and again.
FLOODS = {
    "to go on": (b"", b"HTTP/1.1 100 C\r\n\r\n" * 8000),
    "early hints": (b"", b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" * 4000),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n" * 20000),
    "an extension of a chunk": (CHUNKED + b"1;a=", b"x" * 100_000),
    "extensions of chunks": (CHUNKED, b"1;a=b\r\nx\r\n" * 20000),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n" * 20000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 20000),
    "cookies": (b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b\r\n" * 10000),
    "one header": (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 100_000),
    "a body": (b"HTTP/1.1 200 OK\r\n\r\n", b"b" * 100_000),
    "answers": (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" * 4000),
    "another protocol": (
        b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"b" * 10**5,
    ),
}
AT_A_TIME = 4
FEATURES = versions.features(versions.NEWEST_KNOWN)
PATIENCE = 120.0  # so many bytes take seconds of CPU, and more on a busy machine


class Flood:
    """An engine in a thread of its own.  ``early``: it does not wait until it is asked."""

    def __init__(self, head: bytes, piece: bytes, early: bool) -> None:
        self._head, self._piece, self._early = head, piece, early
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.served = 0

    def serve(self) -> None:
        threads = []
        while True:
            try:
                there, _ = self.listener.accept()
            except OSError:
                break
            self.served += 1
            threads.append(threading.Thread(target=self._send, args=(there,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _send(self, there: socket.socket) -> None:
        with there:
            there.settimeout(10)
            try:
                if not self._early:
                    there.recv(4096)
                there.sendall(self._head)
                while True:
                    there.sendall(self._piece)
            except OSError:
                pass


@contextmanager
def a_flood(kind: str, early: bool = False) -> Iterator[Flood]:
    """An engine that sends without end, until it is cut off."""
    flood = Flood(*FLOODS[kind], early)
    thread = threading.Thread(target=flood.serve)
    thread.start()
    try:
        yield flood
    finally:
        flood.listener.shutdown(socket.SHUT_RDWR)
        flood.listener.close()
        thread.join()


async def _longest(work: Any) -> float:
    """Seconds of CPU of the longest that another task waited while this was done."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    gc.disable()  # after thousands of tests a collection takes a second
    try:
        await work
    finally:
        gc.enable()
        task.cancel()
    return longest


@pytest.mark.parametrize("early", [False, True], ids=["asked", "before it is asked"])
@pytest.mark.parametrize("kind", FLOODS)
def test_an_engine_that_never_stops_sending_holds_up_nobody(kind, early):
    async def ask(client: EngineClient, url: str) -> None:
        with pytest.raises((EngineRequestError, EngineUnreachableError)) as told:
            await client.get(url, "/server_info", answers.SERVER_INFO)
        assert "in time" not in str(told.value), "it was read for as long as anybody waited"

    async def run(url: str) -> float:
        async with EngineClient(user_agent="test", timeout=PATIENCE) as client:
            return await _longest(asyncio.gather(*(ask(client, url) for _ in range(AT_A_TIME))))

    with a_flood(kind, early) as flood:
        assert asyncio.run(run(flood.url)) < 0.15


@pytest.mark.parametrize("kind", FLOODS)
def test_a_trainer_is_not_held_up_either(kind, monkeypatch):
    monkeypatch.setattr(calls_module, "FIND_SECONDS", PATIENCE)

    async def ask(calls: EngineCalls, engine: Any) -> None:
        with pytest.raises(TrainersError) as told:
            await calls.find(engine)
        assert "in time" not in str(told.value)

    async def run(url: str) -> float:
        engine = SimpleNamespace(rank=0, url=url, instance="i", features=FEATURES)
        calls = EngineCalls(None, None)
        try:
            return await _longest(asyncio.gather(*(ask(calls, engine) for _ in range(2))))
        finally:
            await calls.close()

    with a_flood(kind) as flood:
        assert asyncio.run(run(flood.url)) < 0.15


def _pairs(count: int, most: int) -> list[tuple[receiving.Bounded, socket.socket]]:
    turns, pairs = receiving.Turns(), []
    for _ in range(count):
        theirs, raw = socket.socketpair()
        ours = receiving.Bounded(raw.family, raw.type, raw.proto, raw.detach())
        ours.setblocking(False)
        ours.most, ours.turns = most, turns
        pairs.append((ours, theirs))
    return pairs


def _came(ours: receiving.Bounded) -> int:
    try:
        return len(ours.recv(2**18))
    except BlockingIOError:
        return 0


def test_in_a_step_of_the_loop_little_is_read_and_everybody_gets_some():
    async def run() -> None:
        pairs = _pairs(100, 2**30)
        for _, theirs in pairs:
            theirs.sendall(b"x" * 20_000)
        first = [_came(ours) for ours, _ in pairs]
        assert 0 < sum(first) <= receiving.STEP_BYTES
        await asyncio.sleep(0)
        second = [_came(ours) for ours, _ in pairs]
        assert min(second) > 0
        assert sum(second) <= receiving.STEP_BYTES
        for ours, theirs in pairs:
            ours.close()
            theirs.close()

    asyncio.run(run())


def test_what_comes_is_counted_anew_once_something_was_sent():
    async def run() -> None:
        ((ours, theirs),) = _pairs(1, 100)
        with ours, theirs:
            for _ in range(3):
                theirs.sendall(b"x" * 101)
                assert _came(ours) == 101
                ours.send(b"more")
                await asyncio.sleep(0)
            theirs.sendall(b"x" * 102)
            buffer = bytearray(101)
            assert ours.recv_into(buffer) == 101
            await asyncio.sleep(0)
            with pytest.raises(receiving.TooMuchError, match="more than 100 bytes"):
                ours.recv_into(buffer)

    asyncio.run(run())
