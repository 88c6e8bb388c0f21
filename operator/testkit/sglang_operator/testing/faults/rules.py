"""Faults: each says what becomes of one request.  Frozen data; ``Exchange`` does the work."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
from collections.abc import Mapping
from typing import Protocol

from sglang_operator.testing.faults.traffic import Match, Request


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, as the API server gave it or as a fault makes it up."""

    status: int
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Exchange(Protocol):
    """One request while it is in the proxy's hands."""

    request: Request

    async def forward(self) -> Answer:
        """Send it to the API server, once; its answer."""

    async def until_closed(self) -> None:
        """Return never: the operator gives up, or ends."""


class Reset(Exception):
    """The operator's connection is to be reset."""


class Fault(Protocol):
    """What becomes of a request.  Raises Reset to cut its connection."""

    async def __call__(self, exchange: Exchange, /) -> Answer: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delay:
    """Wait before the API server is asked, and again before its answer is handed on."""

    before: float = 0.0
    after: float = 0.0

    async def __call__(self, exchange: Exchange, /) -> Answer:
        await asyncio.sleep(self.before)
        answer = await exchange.forward()
        await asyncio.sleep(self.after)
        return answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop:
    """Reset the connection, before or after the API server has carried the request out."""

    after_commit: bool

    async def __call__(self, exchange: Exchange, /) -> Answer:
        if self.after_commit:
            await exchange.forward()
        raise Reset


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlackHole:
    """Say nothing for ever; with ``commit`` the API server has carried the request out."""

    commit: bool = False

    async def __call__(self, exchange: Exchange, /) -> Answer:
        if self.commit:
            await exchange.forward()
        await exchange.until_closed()
        raise Reset


@dataclasses.dataclass(frozen=True)
class Reply:
    """Answer in the API server's place, with a Status object unless there is a ``body``."""

    status: int
    reason: str = ""
    message: str = "injected"
    retry_after: int | None = None
    body: bytes | None = None

    async def __call__(self, exchange: Exchange, /) -> Answer:
        del exchange
        headers = {"Content-Type": "application/json"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return Answer(self.status, self.body or status_object(self), headers)


def status_object(reply: Reply) -> bytes:
    """A ``meta/v1.Status`` as the API server would send it."""
    return json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": reply.message,
            "reason": reply.reason,
            "code": reply.status,
        }
    ).encode()


class Gate:
    """A fault that holds requests until ``open`` is called; then they go on."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.waiting = 0

    def open(self) -> None:
        """Let go what is held, and hold no more."""
        self._open.set()

    async def opened(self) -> None:
        """Return once ``open`` is called."""
        self.waiting += 1
        while not self._open.is_set():
            await asyncio.sleep(0.005)
        self.waiting -= 1

    async def __call__(self, exchange: Exchange, /) -> Answer:
        await self.opened()
        return await exchange.forward()


class OldList:
    """A fault that answers a list with the first answer it saw, for as long as it stands."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[str, str, str], Answer] = {}
        self.replaying = False
        self.replayed = 0

    async def __call__(self, exchange: Exchange, /) -> Answer:
        asked = exchange.request
        key = (asked.resource, asked.namespace, asked.selector)
        if self.replaying and key in self._recorded:
            self.replayed += 1
            return self._recorded[key]
        answer = await exchange.forward()
        self._recorded.setdefault(key, answer)
        return answer


@dataclasses.dataclass(kw_only=True)
class Rule:
    """A fault for the requests that match: from the ``first`` on, ``times`` of them.

    With a ``share`` below 1 a seeded coin decides for each.  ``hits`` counts what was broken.
    """

    match: Match
    fault: Fault
    first: int = 1
    times: int | None = None
    share: float = 1.0
    seed: int = 0
    hits: int = 0
    seen: int = 0
    hit: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._coin = random.Random(self.seed)

    def takes(self, request: Request) -> bool:
        """Whether this request is one to break; counts it."""
        if not self.match(request):
            return False
        self.seen += 1
        if self.seen < self.first or (self.times is not None and self.hits >= self.times):
            return False
        if self._coin.random() >= self.share:
            return False
        self.hits += 1
        self.hit.set()
        return True
