"""Requests to the API server: bytes in, bytes out, errors by class.

Bodies are JSON text that the caller makes and decodes, so that the hot path pays for nothing it
does not need (a create through the official client's models costs seven times as much CPU,
``runtime.md`` A7).
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from sglang_operator.cluster.connection import Connection

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

REQUEST_TIMEOUT = 30.0
MAX_CONNECTIONS = 64


class _Status(msgspec.Struct):
    """The part of ``meta/v1.Status`` that tells what went wrong."""

    reason: str = ""
    message: str = ""


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def quota(self) -> bool:
        return self.status == 403 and "exceeded quota" in self.message

    @property
    def rejected(self) -> bool:
        """This very object is not wanted: asking again at once cannot help."""
        return self.status in (400, 403, 404, 405, 413, 422)

    @property
    def congested(self) -> bool:
        return self.status == 429 or self.status >= 500


class ApiUnreachableError(Exception):
    """No answer: refused, reset or timed out.  Whether a write happened is not known."""


class FencedError(ApiUnreachableError):
    """The write was not sent: this process may not write now."""


class ApiClient:
    """One identity's requests.  Counts them by method and status in ``requests``.

    ``fence`` is asked before every write, in this one place; writes of the Lease itself pass.
    """

    def __init__(self, connection: Connection, *, user_agent: str) -> None:
        self.fence: Callable[[], bool] = lambda: True
        self._connection = connection
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self.requests: Counter[tuple[str, int]] = Counter()

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._connection.server

    async def __aenter__(self) -> "ApiClient":
        # Watches live in a session of their own: they must not take the writes' connections.
        context = self._connection.ssl_context()
        self._session = self._new_session(context, MAX_CONNECTIONS)
        self._watches = self._new_session(context, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (self._session, self._watches):
            if session is not None:
                await session.close()

    def _new_session(self, context: ssl.SSLContext, limit: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=limit, keepalive_timeout=30),
            headers={"User-Agent": self._user_agent, "Accept": JSON},
            # The service account's token never goes through a proxy of the environment.
            trust_env=False,
            auto_decompress=True,
        )

    def _headers(self, content_type: str | None) -> dict[str, str]:
        headers = {}
        authorization = self._connection.authorization()
        if authorization:
            headers["Authorization"] = authorization
        if content_type:
            headers["Content-Type"] = content_type
        return headers

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
        fenced: bool = True,
    ) -> bytes:
        """The body of a successful answer.

        Raises :class:`ApiError` for an error status, :class:`ApiUnreachableError` for none,
        :class:`FencedError` for a write that was not sent.
        """
        assert self._session is not None, "use the client as a context manager"
        if fenced and method != "GET" and not self.fence():
            raise FencedError(f"{method} {path}: another operator holds the Lease")
        try:
            async with self._session.request(
                method,
                self._connection.server + path,
                data=body,
                params=params,
                headers=self._headers(content_type if body is not None else None),
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=5),
            ) as response:
                content = await response.read()
                self.requests[method, response.status] += 1
                if response.status >= 400:
                    raise _error(response, content)
                return content
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.requests[method, 0] += 1
            raise ApiUnreachableError(f"{method} {path}: {_words(error)}") from error

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch: chunks of the answer as they come.  ``idle``: seconds without any = broken."""
        assert self._watches is not None, "use the client as a context manager"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=idle)
        try:
            async with self._watches.get(
                self._connection.server + path,
                params=params,
                headers=self._headers(None),
                timeout=timeout,
            ) as response:
                self.requests["WATCH", response.status] += 1
                if response.status >= 400:
                    raise _error(response, await response.read())
                yield response.content.iter_any()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiUnreachableError(f"watch {path}: {_words(error)}") from error


def _error(response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    try:
        status = msgspec.json.decode(content, type=_Status)
    except (msgspec.DecodeError, msgspec.ValidationError):
        status = _Status(message=content[:500].decode(errors="replace"))
    return ApiError(
        response.status,
        status.reason or (response.reason or ""),
        status.message,
        _retry_after(response.headers.get("Retry-After")),
    )


def _retry_after(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
