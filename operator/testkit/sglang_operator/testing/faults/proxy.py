"""A reverse proxy between an operator and the API server that breaks what it is told to break.

It listens on the loopback interface without TLS and speaks TLS to the API server; the operator's
own credentials pass through.  It runs in a thread of the test's process, so that its rules,
counters and streams are plain Python objects, and nothing of it outlives the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import web

from sglang_operator.testing.faults import streams, traffic
from sglang_operator.testing.faults.rules import Answer, Fault, Reset, Rule
from sglang_operator.testing.faults.streams import End, Stream
from sglang_operator.testing.faults.traffic import Match, Request, Write
from sglang_operator.testing.ports import HOST

# Not those of a connection, nor the ones aiohttp writes itself.
HOP = frozenset({"host", "connection", "accept-encoding", "content-length", "transfer-encoding"})
START_SECONDS = 10.0
CLOSE_SECONDS = 0.25


class Side(Enum):
    """Where the world stops: before a write is sent, or after it is done and before the reply."""

    BEFORE = "before"
    AFTER = "after"


class Stop:
    """The world stops at one write.  ``wait`` says whether it has."""

    def __init__(self, write: int, side: Side) -> None:
        self.write = write
        self.side = side
        self.request: Request | None = None
        self.reached = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait until the write has come, at most ``timeout`` seconds."""
        return self.reached.wait(timeout)


async def _let_go() -> None:
    """End what is still held, and let TLS connections close: they need their loop for it."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(CLOSE_SECONDS)


class Proxy:
    """One proxy in front of one API server; a context manager."""

    def __init__(self, server: str, *, ca_file: Path) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._session: aiohttp.ClientSession | None = None
        self._failure: BaseException | None = None
        self._ending: asyncio.Event = asyncio.Event()
        self._frozen: asyncio.Event = asyncio.Event()
        self._stop: Stop | None = None
        self._epoch = 0  # grows when the world goes on: what was held before is dead
        self.port = 0
        self.rules: list[Rule] = []
        self.streams: list[Stream] = []
        self.counts: Counter[str] = Counter()
        self.writes: list[Write] = []
        self.write_count = 0
        self.last_request = time.monotonic()
        self._owners = Owners()

    # --- life

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._failure:
            raise RuntimeError(f"the fault proxy did not start: {self._failure}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_SECONDS)

    @property
    def url(self) -> str:
        """Where the operator is to send its requests."""
        return f"http://{HOST}:{self.port}"

    # --- breaking

    def add(
        self,
        match: Match,
        fault: Fault,
        *,
        first: int = 1,
        times: int | None = None,
        share: float = 1.0,
        seed: int = 0,
    ) -> Rule:
        """Break what matches from now on; the newest rule that takes a request decides."""
        rule = Rule(match=match, fault=fault, first=first, times=times, share=share, seed=seed)
        self.rules = [rule, *self.rules]
        return rule

    def remove(self, rule: Rule) -> None:
        """Break it no more."""
        self.rules = [other for other in self.rules if other is not rule]

    def clear(self) -> None:
        """Remove every rule; what is held by the world's end is let go."""
        self.rules = []
        self.resume()

    def live(self, match: Match) -> list[Stream]:
        """The watches that run now and match."""
        return [stream for stream in self.streams if not stream.ended and match(stream.request)]

    def stop_at(self, write: int, side: Side) -> Stop:
        """Stop the world at the n-th write from now on: nothing passes until ``resume``."""
        stop = Stop(self.write_count + write, side)
        self._stop = stop
        return stop

    def resume(self) -> None:
        """Let the world go on; the connections that were held in it are reset."""
        self._stop = None
        self._epoch += 1
        self._loop.call_soon_threadsafe(self._frozen.clear)

    def reset_counters(self) -> None:
        """Forget what was counted, before another operator's run."""
        self.counts, self.writes, self.write_count = Counter(), [], 0
        self.streams = [stream for stream in self.streams if not stream.ended]

    # --- serving

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:  # shown by whoever starts the proxy
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            # Without cancellation a held request would outlive its operator.
            server = web.Server(self._handle, handler_cancellation=True, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, HOST, 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._ending.wait()
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()  # a killed operator's never close by themselves
            await runner.cleanup()
        await _let_go()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        body = await http.read()
        agent = http.headers.get("User-Agent", "")
        authorization = http.headers.get("Authorization", "")
        request = traffic.parse(http.method, http.path, http.query_string, agent, authorization)
        sent: dict[str, Any] = {}
        if request.verb in traffic.WRITES:
            sent = _object(body)
            self.write_count += 1
            request = _numbered(request, self.write_count, sent)
        self.counts[request.kind] += 1
        self.last_request = time.monotonic()
        epoch = self._epoch
        exchange = _Exchange(self, http, body, request, sent)
        try:
            await self._world(exchange, Side.BEFORE, epoch)
            rule = next((rule for rule in self.rules if rule.takes(request)), None)
            if rule is None and request.verb == "watch":
                return await self._watch(exchange)
            answer = await (rule.fault(exchange) if rule else exchange.forward())
            await self._world(exchange, Side.AFTER, epoch)
        except (Reset, aiohttp.ClientError, OSError):
            return _reset(http)
        if request.write:
            exchange.note(told=True)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _world(self, exchange: _Exchange, side: Side, epoch: int) -> None:
        """Stop the world here if it is to stop here; nothing passes while it stands still."""
        stop = self._stop
        if stop and (stop.write, stop.side) == (exchange.request.write, side):
            self._frozen.set()
            stop.request = exchange.request
            stop.reached.set()
        while self._frozen.is_set() and epoch == self._epoch:
            await asyncio.sleep(0.005)
        if epoch != self._epoch:
            raise Reset

    async def _watch(self, exchange: _Exchange) -> web.StreamResponse:
        assert self._session is not None
        http, stream = exchange.http, Stream(exchange.request, self._loop)
        async with self._session.get(
            self._server + http.path_qs, headers=_forwarded(http.headers)
        ) as upstream:
            headers = {"Content-Type": upstream.headers.get("Content-Type", "")}
            if upstream.status != 200:
                body = await upstream.read()
                return web.Response(status=upstream.status, body=body, headers=headers)
            response = web.StreamResponse(headers=headers)
            await response.prepare(http)
            self.streams.append(stream)
            feeding = asyncio.create_task(_feed(upstream, stream))
            try:
                end = await stream.relay(response, self._frozen)
            finally:
                feeding.cancel()
        if end is End.RESET:
            return _reset(http)
        await response.write_eof()
        return response


class _Exchange:
    """One request; see ``rules.Exchange``."""

    def __init__(
        self,
        proxy: Proxy,
        http: web.BaseRequest,
        body: bytes,
        request: Request,
        sent: Mapping[str, Any],
    ) -> None:
        self.http = http
        self.request = request
        self._proxy = proxy
        self._body = body
        self._sent = sent
        self._place: int | None = None

    async def forward(self) -> Answer:
        """Send it to the API server.  What was begun is finished even if the operator dies."""
        return await asyncio.shield(asyncio.ensure_future(self._forward()))

    async def _forward(self) -> Answer:
        session = self._proxy._session
        assert session is not None
        async with session.request(
            self.http.method,
            self._proxy._server + self.http.path_qs,
            data=self._body or None,
            headers=_forwarded(self.http.headers),
        ) as upstream:
            body = await upstream.read()
        kept = ("Content-Type", "Retry-After", "Warning")
        headers = {key: upstream.headers[key] for key in kept if key in upstream.headers}
        if self.request.write:
            self._record(upstream.status, body)
        return Answer(upstream.status, body, headers)

    def _record(self, status: int, body: bytes) -> None:
        uid, owner = self._proxy._owners.of(_object(body) if status < 400 else {})
        write = Write(
            request=self.request,
            status=status,
            at=time.monotonic(),
            uid=uid,
            owner=owner.get("uid", ""),
            owner_name=owner.get("name", ""),
            owner_sent=_controller(self._sent.get("metadata", {})).get("uid", ""),
            told=False,
        )
        self._place = len(self._proxy.writes)
        self._proxy.writes.append(write)

    def note(self, *, told: bool) -> None:
        """Remember whether the operator was told what came of its write."""
        if self._place is not None and self._place < len(self._proxy.writes):
            write = self._proxy.writes[self._place]
            fields = {name: getattr(write, name) for name in Write.__slots__}
            self._proxy.writes[self._place] = Write(**{**fields, "told": told})

    async def until_closed(self) -> None:
        """Return never; the server cancels this when the operator hangs up."""
        epoch = self._proxy._epoch
        while epoch == self._proxy._epoch:
            await asyncio.sleep(0.05)


class Owners:
    """Who controls the objects that were answered: what is deleted at once is named in a Status."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, Any]] = {}  # by UID of what they control

    def of(self, answer: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """UID of the object that this answer is about, and the reference to its controller."""
        if answer.get("kind") == "Status":
            uid = answer.get("details", {}).get("uid", "")
            return uid, self._known.pop(uid, {})
        metadata = answer.get("metadata", {})
        uid, owner = metadata.get("uid", ""), _controller(metadata)
        self._known[uid] = owner
        return uid, owner


async def _feed(upstream: aiohttp.ClientResponse, stream: Stream) -> None:
    try:
        async for line in streams.split(upstream.content.iter_any()):
            stream.receive(line)
        stream.finish(End.CLEAN)
    except (aiohttp.ClientError, OSError):
        stream.finish(End.RESET)


def _reset(http: web.BaseRequest) -> web.StreamResponse:
    """Cut the connection as if the other side had died."""
    if http.transport is not None:
        http.transport.abort()
    return web.Response(status=502)


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in headers.items() if key.lower() not in HOP}
    # Said out loud, for aiohttp would ask for compressed answers by itself.
    return {**kept, "Accept-Encoding": "identity"}


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = metadata.get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), {})


def _numbered(request: Request, number: int, sent: Mapping[str, Any]) -> Request:
    name = request.name or sent.get("metadata", {}).get("name", "")
    return dataclasses.replace(request, name=name, write=number)
