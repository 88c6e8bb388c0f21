"""HTTP/1.1 to the API server by aiohttp: bytes out, bytes in, and nothing done by itself.

No redirect is followed, no cookie kept, no answer asked for compressed or unpacked, and no write
that may have arrived is sent twice.  Proxies of the environment are never used: the service
account's token is not theirs to see.  One that a kubeconfig names is.
"""

import asyncio
import base64
import ssl
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from sglang_operator.receiving import Connector

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 60.0  # a kept connection is used again within this time; the server's is 90 s
# A whole answer of more is none: it would be kept twice.
MOST_BYTES = 32 * 1024 * 1024
# Most of what an event costs is waking up for it.  A stream whose news have followed each other
# this closely for so many times is read in gulps, until there is a pause.
BUSY_SECONDS, BUSY_TIMES = 0.01, 16
GULP_SECONDS = 0.02


class Proxy(NamedTuple):
    """A proxy as sessions are told of it: errors repeat its address, so no password is in it."""

    address: URL | None = None
    logins: tuple[aiohttp.ClientMiddlewareType, ...] = ()


def proxy_of(url: str | None) -> Proxy:
    """The proxy at this URL, which may have a user and a password before its host."""
    if not url:
        return Proxy()
    found = URL(url)
    if found.raw_user is None and found.raw_password is None:
        return Proxy(found)
    pair = f"{found.user or ''}:{found.password or ''}"
    header = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(found.with_user(None), (_login(header),))


def _login(header: str) -> aiohttp.ClientMiddlewareType:
    """Sends this to the proxy: with what asks it for a tunnel, or with the request itself.

    An error's notation has the headers of what was asked, and kopf logs that.
    """

    async def login(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.is_ssl():
            request.update_proxy(request.proxy, None, {hdrs.PROXY_AUTHORIZATION: header})
        else:
            request.headers[hdrs.PROXY_AUTHORIZATION] = header
        try:
            return await send(request)
        except aiohttp.ClientResponseError as error:
            raise aiohttp.ClientConnectionError(_of_no_answer(error)) from None

    return login


class TooLargeError(ConnectionError):
    """The answer is larger than whoever asked wants to keep."""


class DisconnectedError(ConnectionError):
    """The connection ended before the answer did, or what came was no HTTP."""


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes


class Stream(NamedTuple):
    """An answer whose body is still coming."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Trusted(Protocol):
    """The context of TLS for the connections to come."""

    context: ssl.SSLContext
    has_certificate: bool  # by which the client is known

    def anew(self, failed: ssl.SSLContext) -> bool:
        """Whether there is another now than this, with which a connection failed."""


async def _once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp sends a PUT or DELETE again when its connection gave way, taken or not."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise DisconnectedError(str(error) or "the server hung up") from error


_MIDDLEWARES = {"PUT": (_once,), "DELETE": (_once,)}


class _Connections:
    """Connections of one age; once they are left, the last request on them closes them."""

    def __init__(self, limit: int, headers: Mapping[str, str], proxy: Proxy) -> None:
        self.session = aiohttp.ClientSession(
            headers=headers,
            connector=Connector(limit=limit, keepalive_timeout=IDLE_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trust_env=False,
            proxy=proxy.address,
            middlewares=proxy.logins,
        )
        self.requests = 0
        self.left = False

    async def __aenter__(self) -> aiohttp.ClientSession:
        self.requests += 1
        return self.session

    async def __aexit__(self, *_: object) -> None:
        self.requests -= 1
        await self.settle()

    async def settle(self) -> None:
        """Close them if nobody is to use them any more."""
        if self.left and not self.requests:
            await self.session.close()


class HttpClient:
    """The connections to one server.  ``limit`` requests at a time; 0 is no limit."""

    def __init__(
        self,
        url: str,
        *,
        tls: Trusted | None,
        headers: Mapping[str, str],
        limit: int,
        tls_name: str | None = None,
        proxy: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{place}{parts.path.rstrip('/')}"
        self._tls = tls
        self._tls_name = tls_name
        self._headers = headers
        self._limit = limit
        self._proxy = proxy_of(proxy)
        self._connections = _Connections(limit, headers, self._proxy)
        self._left: weakref.WeakSet[_Connections] = weakref.WeakSet()

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
        it gives way.  A read whose connection gave way before its answer is sent once more, and
        so is what TLS kept from being sent, if there is something newer to trust.
        """
        used, ask = self._context, (method, target, headers, body, timeout, most)
        try:
            return await self._request(*ask)
        except aiohttp.ClientError as error:
            harmless = isinstance(error, aiohttp.ClientConnectorError) or method == "GET"
            if not self._trusts_anew(error, used) or not harmless:
                raise _plain(error) from error
        try:
            return await self._request(*ask)
        except aiohttp.ClientError as error:
            raise _plain(error) from error

    @property
    def _context(self) -> ssl.SSLContext | None:
        return self._tls.context if self._tls else None

    def _trusts_anew(self, error: BaseException, used: ssl.SSLContext | None) -> bool:
        """After an error, which may be one of TLS: whether there is something newer to trust."""
        if self._tls is None or used is None:
            return False
        # A server that does not take the client's certificate may just hang up.
        if not isinstance(error, aiohttp.ClientSSLError) and not self._tls.has_certificate:
            return False
        return self._tls.anew(used)

    async def _request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        most: int,
    ) -> Response:
        url, connections = self._url(target), self._connections
        try:
            async with (
                connections as session,
                session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
                    allow_redirects=False,
                    ssl=self._context or True,
                    server_hostname=self._tls_name,
                    middlewares=(*_MIDDLEWARES.get(method, ()), *self._proxy.logins),
                ) as response,
            ):
                return Response(response.status, response.headers, await _whole(response, most))
        except TimeoutError:
            await self._leave(connections)
            raise

    @asynccontextmanager
    async def stream(
        self, target: str, headers: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[Stream]:
        """A GET whose answer has no end.

        Raises TimeoutError when nothing came for ``idle`` seconds, and OSError.
        """
        used = self._context
        try:
            async with (
                self._connections as session,
                session.get(
                    self._url(target),
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=CONNECT_SECONDS, sock_read=idle
                    ),
                    allow_redirects=False,
                    ssl=self._context or True,
                    server_hostname=self._tls_name,
                ) as response,
            ):
                transport = response.connection and response.connection.transport
                try:
                    yield Stream(response.status, response.headers, _chunks(response, transport))
                finally:
                    if transport:  # left amid the stream, TLS would wait for a farewell
                        transport.abort()
        except aiohttp.ClientError as error:
            self._trusts_anew(error, used)  # for whoever begins it again
            raise _plain(error) from error

    @property
    def closed(self) -> bool:
        """Whether no request can be sent any more."""
        return self._connections.session.closed

    async def close(self) -> None:
        """Cut every connection."""
        for connections in (self._connections, *self._left):
            await connections.session.close()

    def _url(self, target: str) -> URL:
        if not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError(f"not a request: {target}")
        return URL(self._base + target, encoded=True)

    async def _leave(self, connections: _Connections) -> None:
        """What is idle leads to the server that does not answer, and would hold up one request
        after the other: the next ones get connections of their own.
        """
        if self._connections is connections:
            self._connections = _Connections(self._limit, self._headers, self._proxy)
            self._left.add(connections)
        connections.left = True
        await connections.settle()


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, of so many bytes."""
    length = response.content_length
    if length is not None and length <= most:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise TooLargeError(f"an answer of more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _chunks(
    response: aiohttp.ClientResponse, transport: asyncio.Transport | None
) -> AsyncIterator[bytes]:
    """The body as it comes."""
    loop = asyncio.get_running_loop()
    before, times = 0.0, 0
    async for chunk in response.content.iter_any():
        times = times + 1 if loop.time() - before < BUSY_SECONDS else 0
        before = loop.time()
        yield chunk
        if times > BUSY_TIMES and transport and not response.content.at_eof():
            # Left to the kernel for a moment, to take it all at once.
            transport.pause_reading()
            await asyncio.sleep(GULP_SECONDS)
            transport.resume_reading()
            before = loop.time()


async def lines(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Whole lines of a stream, of about ``most`` bytes; an unfinished last one is left out.

    Raises ValueError for a longer one.
    """
    buffer = bytearray()
    async for chunk in chunks:
        if b"\n" not in chunk:
            buffer += chunk
            if len(buffer) > most:
                raise ValueError(f"a watch event of more than {most} bytes")
            continue
        *whole, rest = chunk.split(b"\n")
        if buffer:
            whole[0] = bytes(buffer) + whole[0]
        for line in whole:
            if line:
                yield line
        buffer = bytearray(rest)


def _plain(error: aiohttp.ClientError) -> OSError:
    """The error beneath the library's."""
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        beneath: BaseException = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        beneath = error.os_error
    elif isinstance(error.__cause__, (DisconnectedError, TooLargeError)):
        beneath = error.__cause__
    elif isinstance(error, aiohttp.ClientResponseError):
        beneath = DisconnectedError(_of_no_answer(error))
    else:
        beneath = DisconnectedError(str(error) or "the server hung up")
    return beneath if isinstance(beneath, OSError) else DisconnectedError(str(beneath))


def _of_no_answer(error: aiohttp.ClientResponseError) -> str:
    """Why what came is not the server's answer."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answers {error.status} {error.message}"
    return f"not HTTP: {error.message}"
