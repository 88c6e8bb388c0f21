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
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 60.0  # a kept connection is used again within this time; the server's is 90 s
CLOSE_SECONDS = 1.0
# A stream that is read too slowly is not read further before it was caught up with.
MAX_UNREAD = 4 * 1024 * 1024
# Most of what an event costs is waking up for it.  A stream whose news have followed each other
# this closely for so many times is read in gulps, until there is a pause.
BUSY_SECONDS, BUSY_TIMES = 0.01, 16
GULP_SECONDS = 0.02


class DisconnectedError(ConnectionError):
    """The connection ended before the answer did, or what came was no HTTP."""


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Stream(NamedTuple):
    """An answer whose body is still coming."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Channel(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard = self._begun = self._complete = False
        self._keeps = True
        self._streaming = False
        self._heard_at = 0.0
        self._status = 0
        self._unread = 0
        self._parts: list[bytes] = []
        self._headers: dict[str, str] = {}
        self.idle_since = 0.0
        self.closed = self._loop.create_future()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._error is None and self._keeps

    @property
    def unheard(self) -> bool:
        """Whether it gave way before a word of the answer."""
        return not self._heard

    # --- what a request does

    def send(self, data: bytes) -> None:
        """Send a request; the answer before must have been read to its end."""
        if self._error is not None or self._transport is None:
            raise DisconnectedError("the connection is closed")
        self._heard = self._begun = self._complete = False
        self._heard_at = self._loop.time()
        self._headers = {}
        self._transport.write(data)

    async def stream(self, idle: float) -> Stream:
        """The answer once its headers are there, and its body as it comes."""
        self._streaming = True
        self._watch_silence(idle)
        while not self._begun:
            await self._news()
        return Stream(self._status, self._headers, self._chunks())

    async def response(self) -> Response:
        """The whole answer."""
        while not self._complete:
            await self._news()
        return Response(self._status, self._headers, self._take())

    async def _chunks(self) -> AsyncIterator[bytes]:
        before, times = 0.0, 0
        while not self._complete or self._parts:
            if not self._parts:
                await self._news()
                continue
            times = times + 1 if self._loop.time() - before < BUSY_SECONDS else 0
            if times > BUSY_TIMES and not self._complete:
                await self._gulp()
            before = self._loop.time()
            yield self._take()

    async def _gulp(self) -> None:
        """Leave what comes to the kernel for a moment, to take it all at once."""
        assert self._transport is not None
        self._transport.pause_reading()
        await asyncio.sleep(GULP_SECONDS)
        self._transport.resume_reading()

    def _watch_silence(self, idle: float) -> None:
        """End the stream when nothing has come for so long; one timer, not one for each event."""
        silent = self._loop.time() - self._heard_at
        if self._error is not None:
            return
        if silent >= idle:
            self._error = TimeoutError()
            self.abort()
            self._wake()
        else:
            self._loop.call_later(idle - silent, self._watch_silence, idle)

    def abort(self) -> None:
        """Cut the connection: nobody waits for the rest of the answer."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self) -> bytes:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._streaming and self._unread > MAX_UNREAD and self._transport is not None:
            self._transport.resume_reading()
        self._unread = 0
        return body

    async def _news(self) -> None:
        """Return when more is known than now."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what the connection tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._error = DisconnectedError(f"not HTTP: {error}")
            self.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = DisconnectedError(str(exc) if exc else "the server hung up")
        self._wake()
        if not self.closed.done():
            self.closed.set_result(None)

    # --- what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._begun = self._status >= 200

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        before, self._unread = self._unread, self._unread + len(body)
        # A whole answer is not read before it is complete: to stop there would be for ever.
        if self._streaming and before <= MAX_UNREAD < self._unread and self._transport:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = self._begun  # else it was a 1xx, and the answer is still to come
        self._keeps = self._parser.should_keep_alive()


class Server:
    """The connections to one server.  ``limit`` requests at a time; 0 is no limit."""

    def __init__(
        self, url: str, *, tls: ssl.SSLContext, headers: Mapping[str, str], limit: int
    ) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = tls if secure else None
        self._common = _lines({"Host": parts.netloc.rpartition("@")[2], **headers})
        self._turns = asyncio.Semaphore(limit) if limit else None
        self._kept: deque[Channel] = deque()
        self._open: set[Channel] = set()

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
    ) -> Response:
        """One request and its whole answer.

        Raises TimeoutError after ``timeout`` seconds and OSError when there is no connection or
        it gives way.  A read whose kept connection had been closed meanwhile is sent once more.
        """
        data = self._head(method, target, headers, body)
        async with asyncio.timeout(timeout):
            if self._turns is None:
                return await self._exchange(data, again=method == "GET")
            async with self._turns:
                return await self._exchange(data, again=method == "GET")

    async def _exchange(self, data: bytes, *, again: bool) -> Response:
        kept = self._keeping()
        if kept is not None:
            try:
                return await self._ask(kept, data)
            except DisconnectedError:
                if not (again and kept.unheard):
                    raise
        return await self._ask(await self._connect(), data)

    async def _ask(self, channel: Channel, data: bytes) -> Response:
        try:
            channel.send(data)
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

    def _keep(self, channel: Channel) -> None:
        if not channel.usable:
            channel.abort()
            return
        channel.idle_since = time.monotonic()
        self._kept.append(channel)

    async def _connect(self) -> Channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, channel = await asyncio.get_running_loop().create_connection(
                Channel, self._host, self._port, ssl=self._tls
            )
        self._open.add(channel)
        channel.closed.add_done_callback(lambda _: self._open.discard(channel))
        return channel


def _lines(headers: Mapping[str, str]) -> str:
    """Header lines; raises ValueError where one would become two."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header with a line break")
    return lines
