"""Clients of a pool: they ask all the while, over two routes, and check every answer's weights."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from sglang_operator.testing.engine import weights
from tests.weights_real.trainer import TENSORS

FRESH, KEPT = "Service, new connection", "Service, kept connection"
FRESH_SECONDS = 0.12  # between two requests over new connections
KEPT_SECONDS = 0.1  # between an answer and the next request over the same connection
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


class Checker:
    """Knows which checksums are whole: those of versions that a trainer began to send."""

    def __init__(self) -> None:
        self._whole: dict[str, str] = {}

    def expect(self, version: str) -> None:
        """A trainer is about to send this version."""
        held = weights.Weights(TENSORS, dummy=True, source="")
        held.update(None, version)
        self._whole[held.checksum()] = version

    def problem(self, answer: dict[str, Any]) -> str:
        """What is wrong with the weights of an answer; empty if they are whole."""
        found = answer["fake_weights"]
        version = self._whole.get(found["checksum"])
        if version is None or found["state"] != weights.WHOLE:
            return str(found["state"])
        return "" if version == found["stamp"] else f"{version} for {found['stamp']}"


class Clients:
    """Several clients of one Service; an asynchronous context manager."""

    def __init__(self, url: str, checker: Checker) -> None:
        self._url = f"{url}/generate"
        self._checker = checker
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._sent = 0
        self.told = Told()

    async def __aenter__(self) -> Self:
        clients = [self._fresh(), *(self._kept() for _ in range(KEPT_CLIENTS))]
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
        """What was told since this was last called."""
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
        self._sent += 1
        tokens = 150 if self._sent % LONG_EVERY == 0 else 2
        # Few prompts, so that most answers come from what a prefix cache holds.
        prompt = hashlib.sha256(str(self._sent % PROMPTS).encode()).digest()
        body = {"input_ids": list(prompt[:4]), "sampling_params": {"max_new_tokens": tokens}}
        kind = "cancelled"
        try:
            limits = aiohttp.ClientTimeout(total=PATIENCE, sock_connect=CONNECT_SECONDS)
            async with session.post(self._url, json=body, timeout=limits) as response:
                kind = f"status {response.status}"
                if response.status == 200:
                    kind = self._checked(await response.json())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            kind = "no connection"  # nobody is behind the Service
        except TimeoutError:
            kind = "no answer in time"
        except (aiohttp.ClientError, OSError):
            kind = "connection lost"
        finally:
            (way,) = route
            self.told.requests[way] += 1
            self.told.answers[way, kind] += 1
            if kind.startswith("WRONG"):
                self.told.wrong.append(f"{way}: {kind}")

    def _checked(self, answer: dict[str, Any]) -> str:
        problem = self._checker.problem(answer)
        if problem:
            return f"WRONG: {problem} weights"
        reason = answer["meta_info"]["finish_reason"]["type"]
        return "whole" if reason == "length" else f"whole, {reason}"
