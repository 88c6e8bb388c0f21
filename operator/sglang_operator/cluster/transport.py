"""HTTP/1.1 to one server: kept connections, one request at a time on each.

Only what the API server needs, because the loop's price is the price of its requests: a create
of a pod costs a third of the CPU that it does through aiohttp's client (0.13 ms against 0.35,
``make bench``).  What the server says is parsed by llhttp.  Answers are asked for uncompressed:
what is gained on the wire is paid for in CPU by both sides.  Proxies of the environment are never
used: the service account's token is not theirs to see.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from urllib.parse import urlsplit

from sglang_operator.cluster.channel import (
    MOST_BYTES,
    Buffers,
    Channel,
    DisconnectedError,
    Response,
    Stream,
    Tls,
)

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 60.0  # a kept connection is used again within this time; the server's is 90 s
CLOSE_SECONDS = 1.0


class Server:
    """The connections to one server.  ``limit`` requests at a time; 0 is no limit."""

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None,
        headers: Mapping[str, str],
        limit: int,
        tls_name: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = tls
        self._tls_name = tls_name or self._host  # whose certificate it must be
        self._common = _lines({"Host": parts.netloc.rpartition("@")[2], **headers})
        self._turns = asyncio.Semaphore(limit) if limit else nullcontext()
        self._kept: deque[Channel] = deque()
        self._open: set[Channel] = set()
        self._buffers = Buffers()

    def trust(self, tls: ssl.SSLContext) -> None:
        """Use this for the connections to come."""
        self._tls = tls

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        most: int = MOST_BYTES,
    ) -> Response:
        """One request and its whole answer, of ``most`` bytes.

        Raises TimeoutError after ``timeout`` seconds and OSError when there is no connection or
        it gives way.  A read whose kept connection had been closed meanwhile is sent once more.
        """
        data = self._head(method, target, headers, body)
        try:
            async with asyncio.timeout(timeout), self._turns:
                return await self._exchange(data, most, again=method == "GET")
        except TimeoutError:
            self._drop_kept()
            raise

    async def _exchange(self, data: bytes, most: int, *, again: bool) -> Response:
        kept = self._keeping()
        if kept is not None:
            try:
                return await self._ask(kept, data, most)
            except DisconnectedError:
                if not (again and kept.unheard):
                    raise
        return await self._ask(await self._connect(), data, most)

    async def _ask(self, channel: Channel, data: bytes, most: int) -> Response:
        try:
            channel.send(data, most)
            response = await channel.response()
        except BaseException:
            channel.abort()  # half an answer is left on it
            raise
        self._keep(channel)
        return response

    @asynccontextmanager
    async def stream(
        self, target: str, headers: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[Stream]:
        """A GET whose answer has no end.

        Raises TimeoutError when nothing came for ``idle`` seconds, and OSError.
        """
        channel = await self._connect()
        try:
            channel.send(self._head("GET", target, headers, None))
            yield await channel.stream(idle)
        finally:
            channel.abort()

    async def close(self) -> None:
        """Cut every connection."""
        channels = list(self._open)
        for channel in channels:
            channel.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(channel.closed for channel in channels))

    def _head(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> bytes:
        first = f"{method} {self._prefix}{target} HTTP/1.1\r\n"
        if not first.isascii() or first.count(" ") != 2:
            raise ValueError(f"not a request: {method} {target}")
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        head = f"{first}{self._common}{_lines(headers)}{length}\r\n".encode("latin-1")
        return head + body if body else head

    def _keeping(self) -> Channel | None:
        """A kept connection that still stands; the one used last is the most likely to."""
        oldest = time.monotonic() - IDLE_SECONDS
        while self._kept:
            channel = self._kept.pop()
            if channel.usable and channel.idle_since >= oldest:
                return channel
            channel.abort()
        return None

    def _drop_kept(self) -> None:
        """What is idle leads to the server that does not answer, and would hold up one request
        after the other: the next one gets a connection of its own.
        """
        while self._kept:
            self._kept.pop().abort()

    def _keep(self, channel: Channel) -> None:
        if not channel.usable:
            channel.abort()
            return
        channel.idle_since = time.monotonic()
        self._kept.append(channel)

    async def _connect(self) -> Channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            tls = Tls(self._tls, self._tls_name) if self._tls else None
            _, channel = await asyncio.get_running_loop().create_connection(
                lambda: Channel(self._buffers, tls), self._host, self._port
            )
            self._open.add(channel)
            channel.closed.add_done_callback(lambda _: self._open.discard(channel))
            try:
                await channel.ready()
            except BaseException:
                channel.abort()
                raise
        return channel


def _lines(headers: Mapping[str, str]) -> str:
    """Header lines; raises ValueError where one would become two."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header with a line break")
    return lines
