"""Requests to engines: short, bounded in time, size and number, and never through a proxy.

An engine is not trusted: it runs its users' models and code.  What it answers is read up to a
bound and decoded into what is expected; redirects are not followed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
import orjson

from sglang_operator import receiving
from sglang_operator.api import bounds, redaction
from sglang_operator.engine import versions
from sglang_operator.fleet.answers import Answer, Kind
from sglang_operator.receiving import Turns, bounded
from sglang_operator.sending import Allowed, Body, Connector, leaving

# An answer that takes longer than this is none: asking must not pile up.
TIMEOUT = 5.0
# Reading a large model from disk takes as long as its engine's start.
LOADING_TIMEOUT = 3600.0
# Far more than are asked at a time: engines that hang, or load for an hour, keep theirs.
MAX_CONNECTIONS = 1024
CONTINUE_TIMEOUT = 60.0
PAUSE_TIMEOUT = 60.0
FLUSH_TIMEOUT = 10.0  # until an engine that nobody is to reach has no request any more
FLUSH_POLL = 0.1
_EVERYTHING = {"rid": "", "abort_all": True}
_BUSY = 400  # /flush_cache: requests run or wait
_STILL_BUSY = (
    f"requests still run {FLUSH_TIMEOUT:.0f} s after the weights were read, so that the cache of "
    "those before cannot be emptied"
)
_MOST_TOLD = 1024  # characters of what an engine says
MAX_ANSWER = 2**20  # bytes; /server_info with all its arguments is some 20 KB


class EngineRequestError(Exception):
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
    """No answer: refused, reset or not in time.

    ``sent``: the engine may have got the request all the same, or may get it yet.
    """

    sent = True


class NotAllowedError(EngineUnreachableError):
    """By the time that the request was to leave, it might not any more: nothing was sent."""

    sent = False


class EngineClient:
    """HTTP to any engine.  ``requests`` counts them by path and status (0: no answer)."""

    def __init__(self, *, user_agent: str, timeout: float = TIMEOUT) -> None:
        self._user_agent = user_agent
        self._timeout = timeout
        self._turns = Turns()
        self._decoding = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._writing: aiohttp.ClientSession | None = None  # requests that take long
        self.requests: Counter[tuple[str, int]] = Counter()

    async def __aenter__(self) -> Self:
        # Engines come and go, and are asked seldom: no connection is worth keeping.
        asking = aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            force_close=True,
            socket_factory=bounded(MAX_ANSWER, self._turns),
        )
        self._session = self._opened(asking)
        self._writing = self._opened(Connector(MAX_ANSWER, self._turns, force_close=True))
        return self

    def _opened(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers={
                "User-Agent": self._user_agent,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,  # a few bytes would become as many as they like
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in (self._session, self._writing):
            if session is not None:
                await session.close()

    async def get(
        self, url: str, path: str, kind: Kind[Answer], *, most: int = MAX_ANSWER
    ) -> Answer:
        """The answer to a GET, of ``most`` bytes, decoded.

        Raises EngineError, EngineUnreachableError.
        """
        body = await self._request("GET", url, path, self._timeout, most)
        try:
            async with self._decoding:  # each has a step of the loop to itself
                await asyncio.sleep(0)
                return kind.decode(body)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise EngineRequestError(
                200, f"{path} answers with what is not expected: {error}"
            ) from error

    async def probe(self, url: str, path: str) -> bool:
        """Whether a GET is answered with success; raises EngineUnreachableError for no answer."""
        try:
            await self._request("GET", url, path, self._timeout, MAX_ANSWER)
        except EngineRequestError:
            return False
        return True

    async def update_weights_from_disk(
        self,
        url: str,
        *,
        path: str,
        version: str,
        pause: str,
        session: bool = False,
        allowed: Allowed,
        timeout: float = LOADING_TIMEOUT,
    ) -> None:
        """Tell an engine to read these weights, which lie under ``path`` in its own pod.

        ``pause``: the mode in which it is paused before, whoever asks it by its address; it stays
        so.  Empty: the version has none, and waits for what runs.  ``session``: whether the version
        has weight sessions; one that a trainer has left open ends before.  ``allowed`` is asked at
        the moment when a request is to leave.

        ``load_format`` is said explicitly: an engine that was started with dummy weights would
        else make new ones (explanation/sglang.md, Weights).  No version wants a session for it.
        Raises EngineError with the engine's words, NotAllowedError, EngineUnreachableError; after
        the latter the weights may be anything.
        """
        body: dict[str, object] = {
            "model_path": path,
            "load_format": "auto",
            # From 0.5.10 on an engine ends over a flush that a request keeps from it.
            "flush_cache": not pause,
        }
        if not pause:
            body["weight_version"] = version
        else:
            await self._write(url, "/pause_generation", {"mode": pause}, PAUSE_TIMEOUT, allowed)
            await self._write(url, "/abort_request", _EVERYTHING, self._timeout, allowed)
        if session:
            await self._end_session(url, timeout, allowed)
        await self._write(url, "/update_weights_from_disk", body, timeout, allowed)
        if pause:
            await self._flush(url, allowed)
            await self._label(url, version, allowed)

    async def _end_session(self, url: str, timeout: float, allowed: Allowed) -> None:
        """One that is open stays so over a load, and its end changes what was loaded once more."""
        try:
            await self._write(url, "/end_weight_update", {}, timeout, allowed)
        except EngineRequestError as error:
            if versions.NO_SESSION not in error.message:
                raise

    async def _label(self, url: str, version: str, allowed: Allowed) -> None:
        """Name the version, last of all: a gate may open to the name."""
        body = {"new_version": version, "abort_all_requests": False}
        try:
            await self._write(url, "/update_weight_version", body, self._timeout, allowed)
        except EngineRequestError as error:
            if not error.refused:  # by a version without names
                raise

    async def _flush(self, url: str, allowed: Allowed) -> None:
        """Empty a paused engine's cache of the weights before, and end what came late."""
        deadline = time.monotonic() + FLUSH_TIMEOUT
        while True:
            try:
                return await self._write(url, "/flush_cache", {}, self._timeout, allowed)
            except EngineRequestError as error:
                if error.status != _BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise EngineRequestError(error.status, _STILL_BUSY) from error
            await self._write(url, "/abort_request", _EVERYTHING, self._timeout, allowed)
            await asyncio.sleep(FLUSH_POLL)

    async def continue_generation(self, url: str, *, allowed: Allowed) -> None:
        """Let a paused engine go on; raises as ``update_weights_from_disk``."""
        await self._write(url, "/continue_generation", {}, CONTINUE_TIMEOUT, allowed)

    async def _write(
        self, url: str, path: str, body: object, timeout: float, allowed: Allowed
    ) -> None:
        """POST what changes an engine, if it is still allowed once there is a connection."""
        content = Body(orjson.dumps(body), allowed)
        try:
            await self._ask(
                self._writing, "POST", url, path, content, content.headers, timeout, MAX_ANSWER
            )
        except EngineUnreachableError as error:
            if content.refused:
                raise NotAllowedError(f"POST {path}: it may not be sent any more") from error
            error.sent = content.left
            raise

    async def _request(self, method: str, url: str, path: str, timeout: float, most: int) -> bytes:
        return await self._ask(self._session, method, url, path, None, {}, timeout, most)

    async def _ask(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        url: str,
        path: str,
        content: Body | None,
        headers: Mapping[str, str],
        timeout: float,
        most: int,
    ) -> bytes:
        assert session is not None, "use the client as a context manager"
        plain = path.partition("?")[0]
        try:
            with leaving(content):
                async with session.request(
                    method,
                    url + path,
                    data=content,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(
                        total=timeout, sock_connect=min(timeout, TIMEOUT)
                    ),
                    allow_redirects=False,
                ) as response:
                    answer = await _read(response, most)
            self.requests[plain, response.status] += 1
            if response.status != 200:
                raise EngineRequestError(response.status, _message(answer))
            return answer
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.requests[plain, 0] += 1
            raise EngineUnreachableError(f"{method} {plain}: {_words(error)}") from error


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    content = await receiving.content(response, most)
    if content is None:
        raise EngineRequestError(response.status, f"the answer is larger than {most} bytes")
    return content


class _Refusal(msgspec.Struct):
    message: str = ""
    detail: str = ""


def _message(content: bytes) -> str:
    """What the engine says went wrong, in its own words and not too long."""
    try:
        told = msgspec.json.decode(content, type=_Refusal)
        text = told.message or told.detail
    except (ValueError, RecursionError):
        text = ""
    return _told(text or content[:300].decode(errors="replace"))


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    return _told(str(error)) or type(error).__name__


def _told(text: str) -> str:
    """An engine's words, or what quotes them, without secrets."""
    told = redaction.in_words(bounds.words(text, _MOST_TOLD + redaction.MARGIN))
    return bounds.words(told, _MOST_TOLD).strip()
