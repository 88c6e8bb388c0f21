"""Clients of a pool: they ask all the while, over three routes, and check each answer's weights."""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp

from sglang_operator.testing.engine import weights
from tests.weights_real.trainer import TENSORS, checkpoint_of

FRESH, KEPT = "Service, new connection", "Service, kept connection"
COVERED = "an engine that a commit covers"
FRESH_SECONDS = 0.12  # between two requests over new connections
KEPT_SECONDS = 0.1  # between an answer and the next request over the same connection
COVERED_SECONDS = 0.4  # between two requests to each engine that a commit covers
COVERED_PATIENCE = 5.0
KEPT_CLIENTS = 4
IN_FLIGHT = 12  # requests over new connections that may wait at a time
CONNECT_SECONDS = 1.0
PATIENCE = 40.0  # seconds that a request waits for its answer
PROMPTS = 7
LONG_EVERY = 5  # each such request generates for some time, so that pauses meet running ones


@dataclass
class Told:
    """What clients were told, and what of it was wrong."""

    requests: Counter[str] = field(default_factory=Counter)  # by route
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by route and kind
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Told") -> None:
        """Count another's in."""
        self.requests += other.requests
        self.answers += other.answers
        self.wrong += other.wrong


class Covered(NamedTuple):
    """An engine that a commit covers, by the Lease: what it holds is beyond doubt."""

    url: str
    instance: str
    commit: str  # the transaction
    version: str


class Checker:
    """Knows which checksums are whole: those of versions that a trainer began to send."""

    def __init__(self) -> None:
        self._whole: dict[str, str] = {}
        self._versions: list[str] = []
        self._oldest = 0  # that an engine may still answer from

    def expect(self, version: str) -> None:
        """A trainer is about to send this version, or to commit it with its checkpoint."""
        for stamp in (version, checkpoint_of(version)):
            held = weights.Weights(TENSORS, dummy=True, source="")
            held.update(None, stamp)
            self._whole[held.checksum()] = version
        self._versions.append(version)

    def serves(self, version: str) -> None:
        """Every engine holds this one now, and nobody writes: no older one comes back."""
        self._oldest = self._versions.index(version)

    @property
    def oldest(self) -> int:
        """For ``problem``: the age that a request sent now may be answered from."""
        return self._oldest

    def problem(self, answer: dict[str, Any], *, oldest: int = 0, version: str = "") -> str:
        """What is wrong with the weights of an answer; empty if they are whole, or had no part.

        ``oldest``: as it was when the request left.  ``version``: the only right one.
        """
        found = answer["fake_weights"]
        if found["state"] == weights.NONE:
            return ""
        held = self._whole.get(found["checksum"])
        if held is None or found["state"] != weights.WHOLE:
            return str(found["state"])
        if found["stamp"] not in (held, checkpoint_of(held)):
            return f"{held} for {found['stamp']}"
        if version and held != version:
            return f"{held} instead of {version}'s"
        older = self._versions.index(held) < oldest
        return f"{held}, older than {self._versions[oldest]}'s" if older else ""


class Clients:
    """Several clients of one Service, and one who knows what each engine is to hold.

    ``covered`` tells what the Lease says at this moment.  An asynchronous context manager.
    """

    def __init__(
        self, url: str, checker: Checker, covered: Callable[[], Awaitable[set[Covered]]]
    ) -> None:
        self._url = f"{url}/generate"
        self._checker = checker
        self._covered = covered
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._sent = 0
        self.told = Told()

    async def __aenter__(self) -> Self:
        clients = [self._fresh(), *(self._kept() for _ in range(KEPT_CLIENTS)), self._direct()]
        self._tasks = [asyncio.create_task(client) for client in clients]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [*self._tasks, *self._waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self) -> Told:
        """What was told since this was last called; raises what a client died of."""
        for task in self._tasks:
            if task.done():
                task.result()
        told, self.told = self.told, Told()
        return told

    async def _fresh(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                if len(self._waiting) < IN_FLIGHT:
                    task = asyncio.create_task(self._ask(session, [FRESH]))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)
                await asyncio.sleep(FRESH_SECONDS)

    async def _kept(self) -> None:
        """One connection, kept until the other side ends it."""
        route = [FRESH]

        async def reuse(*_: object) -> None:
            route[0] = KEPT

        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(reuse)
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=3600)
        async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session:
            while True:
                route[0] = FRESH
                await self._ask(session, route)
                await asyncio.sleep(KEPT_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, route: list[str]) -> None:
        """One request; ``route`` is known once it has a connection."""
        oldest = self._checker.oldest
        kind = "cancelled"
        try:
            limits = aiohttp.ClientTimeout(total=PATIENCE, sock_connect=CONNECT_SECONDS)
            async with session.post(self._url, json=self._body(), timeout=limits) as response:
                kind = f"status {response.status}"
                if response.status == 200:
                    kind = self._checked(await response.json(), oldest=oldest)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            kind = "no connection"  # nobody is behind the Service
        except TimeoutError:
            kind = "no answer in time"
        except (aiohttp.ClientError, OSError):
            kind = "connection lost"
        finally:
            self._count(route[0], kind)

    def _body(self) -> dict[str, Any]:
        self._sent += 1
        tokens = 150 if self._sent % LONG_EVERY == 0 else 2
        # Few prompts, so that most answers come from what a prefix cache holds.
        prompt = hashlib.sha256(str(self._sent % PROMPTS).encode()).digest()
        return {"input_ids": list(prompt[:4]), "sampling_params": {"max_new_tokens": tokens}}

    def _count(self, way: str, kind: str) -> None:
        self.told.requests[way] += 1
        self.told.answers[way, kind] += 1
        if kind.startswith("WRONG"):
            self.told.wrong.append(f"{way}: {kind}")

    async def _direct(self) -> None:
        """Ask each engine that a commit covers; it counts if the commit stands after the answer.

        So an engine that something older is written into is found out, as long as nobody syncs.
        """
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                await asyncio.sleep(COVERED_SECONDS)
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    before = list(await self._covered())
                    found = await asyncio.gather(*(self._answer(session, e) for e in before))
                    after = await self._covered()
                    for engine, answer in zip(before, found, strict=True):
                        if answer is not None and engine in after:
                            kind = self._checked(answer, version=engine.version)
                            self._count(COVERED, kind)

    async def _answer(
        self, session: aiohttp.ClientSession, engine: Covered
    ) -> dict[str, Any] | None:
        limits = aiohttp.ClientTimeout(total=COVERED_PATIENCE, sock_connect=CONNECT_SECONDS)
        url = f"{engine.url}/generate"
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.post(url, json=self._body(), timeout=limits) as response:
                if response.status == 200:
                    found: dict[str, Any] = await response.json()
                    return found
        return None

    def _checked(self, answer: dict[str, Any], *, oldest: int = 0, version: str = "") -> str:
        problem = self._checker.problem(answer, oldest=oldest, version=version)
        if problem:
            host, named = answer["fake_weights"]["host"], answer["meta_info"]["weight_version"]
            return f"WRONG: {problem} weights, by {host}, which names {named}, at {time.time():.2f}"
        reason = answer["meta_info"]["finish_reason"]["type"]
        return "whole" if reason == "length" else f"whole, {reason}"
