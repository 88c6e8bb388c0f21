"""Requests to engines: short, bounded in time, size and number, and never through a proxy.

An engine is not trusted: it runs its users' models and code.  What it answers is read up to a
bound and decoded into what is expected; redirects are not followed.
"""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
import orjson

from sglang_operator.fleet.answers import Answer, Kind

# An answer that takes longer than this is none: asking must not pile up.
TIMEOUT = 5.0
# Reading a large model from disk takes as long as its engine's start.
LOADING_TIMEOUT = 3600.0
# Far more than are asked at a time: engines that hang, or load for an hour, keep theirs.
MAX_CONNECTIONS = 1024
MAX_ANSWER = 4 * 2**20  # bytes; /server_info with all its arguments is some 20 KB


class EngineError(Exception):
    """The engine answered with an error, or with what cannot be understood."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message

    @property
    def refused(self) -> bool:
        """Asking again cannot help: a key is needed, or there is no such path."""
        return self.status in (401, 403, 404, 405)


class EngineUnreachableError(Exception):
    """No answer: refused, reset or not in time."""


class EngineClient:
    """HTTP to any engine.  ``requests`` counts them by path and status (0: no answer)."""

    def __init__(self, *, user_agent: str, timeout: float = TIMEOUT) -> None:
        self._user_agent = user_agent
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self.requests: Counter[tuple[str, int]] = Counter()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Engines come and go, and are asked seldom: no connection is worth keeping for long.
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=10),
            headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, path: str, kind: Kind[Answer]) -> Answer:
        """The answer to a GET, decoded.  Raises EngineError, EngineUnreachableError."""
        body = await self._request("GET", url, path, None, self._timeout)
        try:
            return kind.decode(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise EngineError(200, f"{path} answers with what is not expected: {error}") from error

    async def probe(self, url: str, path: str) -> bool:
        """Whether a GET is answered with success; raises EngineUnreachableError for no answer."""
        try:
            await self._request("GET", url, path, None, self._timeout)
        except EngineError:
            return False
        return True

    async def update_weights_from_disk(
        self, url: str, *, path: str, version: str, timeout: float = LOADING_TIMEOUT
    ) -> None:
        """Tell an engine to read these weights, which lie under ``path`` in its own pod.

        ``load_format`` is said explicitly: an engine that was started with dummy weights would
        else make new ones (rl-semantics.md §3.2).  Needs no weight session in any version.
        Raises EngineError with the engine's words, EngineUnreachableError; after the latter the
        weights may be anything.
        """
        body = {
            "model_path": path,
            "load_format": "auto",
            "weight_version": version,
            "flush_cache": True,
        }
        await self._request("POST", url, "/update_weights_from_disk", body, timeout)

    async def _request(
        self, method: str, url: str, path: str, body: object, timeout: float
    ) -> bytes:
        assert self._session is not None, "use the client as a context manager"
        plain = path.partition("?")[0]
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                url + path,
                data=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, TIMEOUT)),
                allow_redirects=False,
            ) as response:
                content = await _read(response)
                self.requests[plain, response.status] += 1
                if response.status != 200:
                    raise EngineError(response.status, _message(content))
                return content
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.requests[plain, 0] += 1
            raise EngineUnreachableError(f"{method} {plain}: {_words(error)}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise EngineError(response.status, f"the answer is larger than {MAX_ANSWER} bytes")
    return bytes(content)


class _Refusal(msgspec.Struct):
    message: str = ""
    detail: str = ""


def _message(content: bytes) -> str:
    """What the engine says went wrong, in its own words and not too long."""
    try:
        told = msgspec.json.decode(content, type=_Refusal)
        text = told.message or told.detail
    except (msgspec.DecodeError, msgspec.ValidationError):
        text = ""
    return (text or content[:300].decode(errors="replace")).strip()[:1024]


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
