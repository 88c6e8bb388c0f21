"""What engines send is read little by little, and of one answer no more than so many bytes.

An engine may be any program: it may send without end, and what parsing it costs has little to do
with what comes of it (a head that says nothing but to go on, a chunk of one byte).  So the bytes
are counted where they come in, before anybody looks at them, and in each step of the event loop
few are read, shared out among all that have something to say.  It is the socket that does so,
as asyncio's own event loops ask it; others read past it.
"""

import asyncio
import asyncio.sslproto
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

# Of all engines in one step of the loop: some milliseconds, whatever it is.
STEP_BYTES = 2**14
# Heads and what chunks are wrapped in, beside the content of an answer.
WRAPPING_BYTES = 2**16
# asyncio reads each connection with TLS by a buffer of its own, of 256 KiB unless told otherwise:
# of a hundred connections that is a fifth of the operator's memory.  A record of TLS has 16 KiB.
TLS_BUFFER_BYTES = 2**15

asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


class TooMuchError(OSError):
    """An engine sends more than its answer may have."""


async def content(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """What an answer says; None: that is more than ``most`` bytes, and the rest stays unread."""
    read = bytearray()
    async for part in response.content.iter_chunked(2**16):
        read += part
        if len(read) > most:
            return None
    return bytes(read)


class Connector(aiohttp.TCPConnector):
    """Keeps no connection on which something came that nobody asked for.

    It would be taken for the answer to the next request.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class Turns:
    """Shares out what is read in one step of the loop."""

    def __init__(self) -> None:
        self._left = self._share = STEP_BYTES
        self._readers = 0  # in this step

    def next(self) -> int:
        """How many bytes whoever has something to read now may read: 0 in the next step only."""
        if not self._readers:
            asyncio.get_running_loop().call_soon(self._step)
        self._readers += 1
        count = min(self._share, self._left)
        self._left -= count
        return count

    def _step(self) -> None:
        """As many as there were will be there again: each is to get something in each step."""
        self._share = max(1, STEP_BYTES // self._readers)
        self._left = STEP_BYTES
        self._readers = 0


def always() -> bool:
    """Whatever is to leave may."""
    return True


class Bounded(socket.socket):
    """A socket on which ``most`` bytes are read between two requests, and few at a time.

    ``may_send`` is asked for each piece that the kernel is to take.
    """

    most = 0
    turns: Turns
    may_send: Callable[[], bool] = staticmethod(always)
    _read = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Raises TooMuchError, and BlockingIOError: it is the turn of others."""
        data = super().recv(self._allowed(size), flags)
        self._read += len(data)
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0, /) -> int:
        """The same, as TLS is read."""
        size = min(size or len(buffer), len(buffer))
        count = super().recv_into(buffer, self._allowed(size), flags)
        self._read += count
        return count

    def _allowed(self, size: int) -> int:
        if self._read > self.most:
            raise TooMuchError(f"more than {self.most} bytes came as one answer")
        count = self.turns.next()
        if not count:
            raise BlockingIOError
        return min(size, count)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """What comes from now on answers this.  Raises ConnectionAbortedError: it may not leave."""
        self._begin()
        return super().send(data, flags)

    def sendmsg(self, *arguments: Any) -> int:
        """The same in pieces."""
        self._begin()
        return super().sendmsg(*arguments)

    def _begin(self) -> None:
        if not self.may_send():
            raise ConnectionAbortedError("what is to be sent may not be sent any more")
        self._read = 0


def bounded(
    most: int, turns: Turns, *prepare: Callable[[Bounded], None]
) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes the sockets of a connector whose answers have ``most`` bytes of content."""

    def make(address: aiohttp.AddrInfoType) -> socket.socket:
        made = Bounded(*address[:3])
        made.setblocking(False)
        made.most = most + WRAPPING_BYTES
        made.turns = turns
        for step in prepare:
            step(made)
        return made

    return make
