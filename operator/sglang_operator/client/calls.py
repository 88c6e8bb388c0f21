"""Requests to engines: one to one, or the same to many at once."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import aiohttp

from sglang_operator import receiving
from sglang_operator.api import bounds, redaction
from sglang_operator.client import texts
from sglang_operator.client.errors import EngineError, Expired
from sglang_operator.client.registry import Engine
from sglang_operator.clocks import steady
from sglang_operator.engine import versions
from sglang_operator.receiving import Turns, always
from sglang_operator.sending import Allowed, Body, Connector, leaving

CONNECT_SECONDS = 5.0
FIND_SECONDS = 15.0  # for one that is busy to say what it is
CONTROL_SECONDS = 60.0  # pause, continue, flush and the like
_GUARDED = (401, 403)  # where a key is asked for
_NO_SUCH_PATH = 404
MAX_ANSWER = 4 * 2**20  # bytes; what engines answer is some KB
# Tokens of all samples with their logprobs, and maybe the experts of each token in each layer.
MAX_GENERATED = 2**30
GENERATE = "/generate"
# SGLang asks for the API key there, elsewhere for the admin key if there is one (utils/auth.py).
_BY_API_KEY = (GENERATE, "/model_info", "/get_model_info", "/server_info", "/get_server_info")
MAX_SAID = 500  # characters of an engine's answer in a message

T = TypeVar("T")
Json = dict[str, Any]
Payload = Mapping[str, Any] | Callable[[Engine], Mapping[str, Any]]


class EngineCalls:
    """Posts JSON to engines.  With both keys, what changes an engine takes the admin key.

    ``allowed`` is a fence: it is asked as the request leaves, and where it says no, nothing is
    sent and Expired raised.  What changes an engine has one.  Whoever is cancelled while such a
    request is on its way leaves it to itself, and the next one to the engine does not overtake it;
    before others may write, all are waited for (``delivered``).
    """

    def __init__(self, api_key: str | None, admin_api_key: str | None) -> None:
        self._key = api_key or admin_api_key
        self._admin_key = admin_api_key or api_key
        self._heard: dict[str, tuple[str | None, float]] = {}  # by URL: which run, and when
        # By URL: which run, its version, and whether it can release memory.
        self._told: dict[str, tuple[str | None, str, bool | None]] = {}
        # What changes engines: what is under way and to which URL, what of that nobody waits for,
        # and by URL when all that was not answered in time has arrived.
        self._under_way: dict[asyncio.Task[tuple[int, str]], tuple[str, Body]] = {}
        self._left: set[asyncio.Task[tuple[int, str]]] = set()
        self._arrived: dict[str, float] = {}
        turns = Turns()
        self._session = _session(MAX_ANSWER, turns)
        self._generating = _session(MAX_GENERATED, turns)

    async def close(self) -> None:
        for asking in list(self._under_way):
            asking.cancel()
        await self._session.close()
        await self._generating.close()

    async def post(
        self,
        engine: Engine,
        path: str,
        payload: Mapping[str, Any],
        *,
        timeout: float | None = CONTROL_SECONDS,
        allowed: Allowed | None = None,
    ) -> Json:
        """POST to one engine; its answer, {} if it is no object.  Raises EngineError, Expired."""
        answer = await self.post_any(engine, path, payload, timeout=timeout, allowed=allowed)
        return answer if isinstance(answer, dict) else {}

    async def post_any(
        self,
        engine: Engine,
        path: str,
        payload: Mapping[str, Any],
        *,
        timeout: float | None = None,
        allowed: Allowed | None = None,
    ) -> Any:
        """The same with an answer of any form; None where it is no JSON."""
        content = json.dumps(dict(payload)).encode()
        body = Body(content, allowed or always)
        if allowed is not None and (self._left or self._arrived):
            await self.delivered(engine)
        asking = self._ask("POST", engine, path, timeout, body)
        try:
            status, text = await (
                asking if allowed is None else self._answered(engine, asking, body)
            )
        except EngineError as error:
            if body.refused:
                late = texts.NOT_SENT.format(path=path, rank=engine.rank, url=engine.url)
                raise Expired(late, sent=False) from error
            raise
        answer = _json(text)
        told = answer if isinstance(answer, dict) else {}
        if status >= 400 or told.get("success") is False:
            raise _error(engine, path, status, str(told.get("message") or text))
        self._note(engine)
        return answer

    async def _answered(
        self, engine: Engine, asking: Coroutine[Any, Any, tuple[int, str]], body: Body
    ) -> tuple[int, str]:
        """The answer to what changes an engine, which whoever is cancelled does not take back.

        A connection that is closed still delivers what it was given.
        """
        task = asyncio.ensure_future(asking)
        self._under_way[task] = engine.url or "", body
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if body.revoke():
                task.cancel()
            else:
                self._left.add(task)
            raise

    def _forget(self, task: asyncio.Task[tuple[int, str]]) -> None:
        """Over a connection that the other side has ended nothing comes any more."""
        url, body = self._under_way.pop(task)
        self._left.discard(task)
        error = None if task.cancelled() else task.exception()
        if body.left and error is not None and isinstance(error.__cause__, TimeoutError):
            self._arrived[url] = max(self._arrived.get(url, 0.0), body.arrives_until)

    async def delivered(self, engine: Engine | None = None) -> None:
        """Wait until nothing is on its way that would change an engine.

        It was answered then, or has arrived, or never does.  ``engine``: only to this one, and only
        what nobody waits for any more.
        """
        only = None if engine is None else engine.url or ""
        while left := self._on_their_way(only):
            until = max(left.values())
            await asyncio.wait(left, timeout=max(0.0, until - steady()))
            if steady() >= until:
                for asking in left.keys() & self._under_way.keys():
                    self._under_way[asking][1].give_up()
                    if asking in self._left:
                        asking.cancel()
                await asyncio.sleep(0)
        arrived = [at for url, at in self._arrived.items() if only in (None, url)]
        await asyncio.sleep(max([0.0, *(at - steady() for at in arrived)]))
        self._arrived = {url: at for url, at in self._arrived.items() if at > steady()}

    def _on_their_way(self, only: str | None) -> dict[asyncio.Task[tuple[int, str]], float]:
        """The requests that have left and may arrive yet, and until when."""
        now = steady()
        return {
            task: body.arrives_until
            for task, (url, body) in self._under_way.items()
            if body.left
            and body.arrives_until > now
            and (only is None or (url == only and task in self._left))
        }

    async def get(self, engine: Engine, path: str) -> Json:
        """GET of one engine; {} if it is no object.  Raises EngineError."""
        status, text = await self._ask("GET", engine, path, FIND_SECONDS)
        if status >= 400:
            raise _error(engine, path, status, text)
        answer = _json(text)
        return answer if isinstance(answer, dict) else {}

    async def find(self, engine: Engine) -> None:
        """See that it is an SGLang that answers at an engine's address.  Raises EngineError.

        It is asked for its model info, which one that has a key may keep to itself.  It is sent
        none: the address may be a stranger's by now.
        """
        path = engine.features.model_info_path
        status, text = await self._ask("GET", engine, path, FIND_SECONDS, keyless=True)
        told = _json(text)
        if status not in _GUARDED and not (isinstance(told, dict) and "model_path" in told):
            raise _error(engine, path, status, f"this is no SGLang: {text.strip()}")
        self._note(engine)

    async def lacks(self, engine: Engine, path: str) -> bool:
        """Whether an engine has no such path that takes a POST.  Raises EngineError.

        Nothing is changed by it, and no key is sent: to a GET it says 405 where it has one.
        """
        status, _ = await self._ask("GET", engine, path, FIND_SECONDS, keyless=True)
        return status == _NO_SUCH_PATH

    async def told_version(self, engine: Engine, *, keyless: bool) -> str:
        """The version that this run of an engine says it is, asked once; "" while it does not.

        One that has a key may keep it to itself where none is sent.
        """
        return (await self._info(engine, keyless=keyless))[0]

    async def told_saver(self, engine: Engine) -> bool | None:
        """Whether this run of an engine says that its memory saver is on; None if it does not."""
        return (await self._info(engine, keyless=False))[1]

    async def _info(self, engine: Engine, *, keyless: bool) -> tuple[str, bool | None]:
        """The version that it says it is, and whether its memory saver is on; ("", None)."""
        run, told, saver = self._told.get(engine.url or "", (None, "", None))
        if run == engine.instance:
            return told, saver
        for path in versions.SERVER_INFO_PATHS:
            try:
                status, text = await self._ask("GET", engine, path, FIND_SECONDS, keyless=keyless)
            except EngineError:
                return "", None
            if status == _NO_SUCH_PATH:
                continue
            answer = _json(text)
            if status >= 400 or not isinstance(answer, dict):
                return "", None
            told, says = str(answer.get("version") or "")[:64], answer.get("enable_memory_saver")
            saver = says if isinstance(says, bool) else None
            break
        self._told[engine.url or ""] = engine.instance, told, saver
        return told, saver

    def silent(self, engine: Engine) -> float:
        """Seconds since this very run of the engine answered a call of ours."""
        instance, heard = self._heard.get(engine.url or "", (None, 0.0))
        return time.monotonic() - heard if instance == engine.instance else math.inf

    def _note(self, engine: Engine) -> None:
        self._heard[engine.url or ""] = engine.instance, time.monotonic()

    async def _ask(
        self,
        method: str,
        engine: Engine,
        path: str,
        timeout: float | None,
        body: Body | None = None,
        *,
        keyless: bool = False,
    ) -> tuple[int, str]:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        generates = path == GENERATE
        session, most = (
            (self._generating, MAX_GENERATED) if generates else (self._session, MAX_ANSWER)
        )
        key = self._key if path in _BY_API_KEY else self._admin_key
        authorization = {"Authorization": f"Bearer {key}"} if key and not keyless else {}
        try:
            with leaving(body):
                async with session.request(
                    method,
                    f"{engine.url}{path}",
                    timeout=limits,
                    allow_redirects=False,
                    data=body,
                    headers={**authorization, **(body.headers if body else {})},
                ) as response:
                    return await _read(response, engine, path, most)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            said = "no answer in time" if isinstance(error, asyncio.TimeoutError) else str(error)
            sent = body is None or body.left
            raise _error(engine, path, 0, said or type(error).__name__, sent=sent) from error

    async def post_all(
        self,
        engines: Iterable[Engine],
        path: str,
        payload: Payload,
        *,
        timeout: float | None = CONTROL_SECONDS,
        allowed: Allowed | None = None,
    ) -> list[Json]:
        """POST to all at once, and wait for each; answers in the engines' order.

        Raises the error of the lowest rank once every engine has answered.
        """
        bodies = [(e, payload(e) if callable(payload) else payload) for e in engines]
        return await together(
            self.post(engine, path, body, timeout=timeout, allowed=allowed)
            for engine, body in bodies
        )


def _session(most: int, turns: Turns) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # uvicorn drops a connection that is idle for 5 s, maybe just as one writes to it.
        connector=Connector(most, turns, keepalive_timeout=3),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,  # a few bytes would become as many as they like
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def at_once(each: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all; raises the first error as soon as it comes, once the others are cancelled.

    None of them goes on by itself then, which would change engines whose turn is over.
    """
    tasks = [asyncio.ensure_future(one) for one in each]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def together(each: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all; raises the first one's error once every one has ended."""
    answers = await asyncio.gather(*each, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def _read(
    response: aiohttp.ClientResponse, engine: Engine, path: str, most: int
) -> tuple[int, str]:
    """Status and text of an answer, of ``most`` bytes.  Raises EngineError."""
    if 300 <= response.status < 400:
        location = response.headers.get("Location", "nowhere")
        raise _error(engine, path, response.status, texts.REDIRECT.format(location=location))
    content = await receiving.content(response, most)
    if content is None:
        raise _error(engine, path, response.status, texts.ANSWER_TOO_LARGE.format(most=most))
    return response.status, content.decode(errors="replace")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error(engine: Engine, path: str, status: int, said: str, *, sent: bool = True) -> EngineError:
    said = redaction.in_words(bounds.words(said, MAX_SAID + redaction.MARGIN))
    url, said = engine.url or "-", bounds.words(said, MAX_SAID)
    return EngineError(rank=engine.rank, url=url, path=path, status=status, said=said, sent=sent)
