"""One connection of our HTTP/1.1: TLS, and what llhttp says of what comes.

See ``transport`` for why it is not a library's.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, cast

import httptools

# A stream that is read too slowly is not read further before it was caught up with.
MAX_UNREAD = 4 * 1024 * 1024
# A whole answer of more is none: it would be kept twice.
MOST_BYTES = 32 * 1024 * 1024
# Most of what an event costs is waking up for it.  A stream whose news have followed each other
# this closely for so many times is read in gulps, until there is a pause.
BUSY_SECONDS, BUSY_TIMES = 0.01, 16
GULP_SECONDS = 0.02
RECEIVED_BYTES = 256 * 1024
DECRYPTED_BYTES = 16 * 1024  # a TLS record holds no more


class TooLargeError(ConnectionError):
    """The answer is larger than whoever asked wants to keep."""


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


class Buffers:
    """What was read is worked off before anything else is: they serve all channels of a loop."""

    def __init__(self) -> None:
        self.received = memoryview(bytearray(RECEIVED_BYTES))
        self.decrypted = memoryview(bytearray(DECRYPTED_BYTES))


class Tls:
    """The ssl module between a channel and its socket.

    asyncio's own layer of it costs more than the cryptography does, and keeps a buffer of
    256 KiB for each connection.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False  # the peer said goodbye

    def feed(self, data: bytes | memoryview) -> None:
        """Take in what came from the peer."""
        self._incoming.write(data)

    def shake_hands(self) -> bool:
        """One step; whether it was the last.  Raises SSLError."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self, buffer: memoryview) -> int:
        """Decrypt into the buffer; 0 if there is nothing more yet.  Raises SSLError."""
        try:
            count = cast(int, self._object.read(len(buffer), buffer))  # typeshed says bytes
        except ssl.SSLWantReadError:
            return 0
        self.ended = count == 0
        return count

    def write(self, data: bytes) -> None:
        """Encrypt; what it becomes is in ``outgoing``.  Raises SSLError."""
        self._object.write(data)

    def outgoing(self) -> bytes:
        """What is to be sent to the peer."""
        return self._outgoing.read()


class Channel(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, buffers: Buffers, tls: Tls | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffers = buffers
        self._tls = tls
        self._shaking = tls is not None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard = self._begun = False
        self._complete = True  # nothing is asked yet
        self._most = 0
        self._by_end = False  # the answer's end is that of the connection
        self._keeps = True
        self._streaming = False
        self._silence: asyncio.TimerHandle | None = None
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

    async def ready(self) -> None:
        """Return when requests may be sent.  Raises OSError: the peer is not who it should be."""
        while self._shaking:
            await self._news()

    def send(self, data: bytes, most: int = MOST_BYTES) -> None:
        """Send a request, of whose whole answer so many bytes are kept.

        The answer before must have been read to its end.
        """
        if self._error is not None or self._transport is None:
            raise DisconnectedError("the connection is closed")
        self._heard = self._begun = self._complete = False
        self._most = most
        self._heard_at = self._loop.time()
        self._headers = {}
        if self._tls is not None:
            self._tls.write(data)
            data = self._tls.outgoing()
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
            self._silence = self._loop.call_later(idle - silent, self._watch_silence, idle)

    def abort(self) -> None:
        """Cut the connection: nobody waits for the rest of the answer."""
        if self._silence is not None:
            self._silence.cancel()  # else it keeps the channel until then
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
        if self._tls is not None:
            self._tls.shake_hands()
            self._send(self._tls)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffers.received

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffers.received[:nbytes]
        try:
            if self._tls is None:
                self._hear(data)
            else:
                self._tls.feed(data)
                self._decrypt(self._tls)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._error = self._error or DisconnectedError(f"not HTTP: {error}")
            self.abort()
        except ssl.SSLError as error:
            self._error = error
            if self._tls is not None:
                self._send(self._tls)  # the alert that says why
            self.abort()
        self._wake()

    def _hear(self, data: memoryview) -> None:
        self._heard = True
        self._heard_at = self._loop.time()
        self._parser.feed_data(data)

    def _decrypt(self, tls: Tls) -> None:
        if self._shaking:
            self._shaking = not tls.shake_hands()
        if not self._shaking:
            plain = self._buffers.decrypted
            while count := tls.read(plain):
                self._hear(plain[:count])
        self._send(tls)
        if tls.ended:
            self._end()
            self.abort()

    def _send(self, tls: Tls) -> None:
        if self._transport is not None and (data := tls.outgoing()):
            self._transport.write(data)

    def eof_received(self) -> None:
        if self._tls is None:  # else its own goodbye counts: whoever cuts a connection has none
            self._end()

    def _end(self) -> None:
        """The server has nothing more to say: the end of an answer that has no length."""
        if self._begun and not self._complete and self._by_end:
            self._complete, self._keeps = True, False
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = DisconnectedError(str(exc) if exc else "the server hung up")
        self._wake()
        if not self.closed.done():
            self.closed.set_result(None)

    # --- what the parser tells

    def on_message_begin(self) -> None:
        if self._complete:
            # It would be taken for the answer to the next request.  The parser ends with this.
            raise DisconnectedError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._begun = self._status >= 200
        # RFC 9112 6.3
        self._by_end = not {"content-length", "transfer-encoding"} & self._headers.keys()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        before, self._unread = self._unread, self._unread + len(body)
        if not self._streaming and self._unread > self._most:
            self._error = TooLargeError(f"an answer of more than {self._most} bytes")
            raise self._error  # the parser ends with this
        # A whole answer is not read before it is complete: to stop there would be for ever.
        if self._streaming and before <= MAX_UNREAD < self._unread and self._transport:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = self._begun  # else it was a 1xx, and the answer is still to come
        self._keeps = self._parser.should_keep_alive()
