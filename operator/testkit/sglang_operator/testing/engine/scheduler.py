"""The scheduler: one loop that runs requests and obeys commands in the order of their coming.

It is a process of its own in SGLang.  A command that blocks (a group whose ranks never come) blocks
everything behind it, and an exception in it is the end of the engine.
"""

import asyncio
import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from sglang_operator.testing.engine.latencies import Latencies
from sglang_operator.testing.engine.prefix_cache import PrefixCache
from sglang_operator.testing.engine.weights import NOTHING, TORN

_STEP_SECONDS = 0.01  # between looks at the running requests; idle, there are none
_VOCABULARY = 32_000

_ABORTED = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}

T = TypeVar("T")


class SchedulerError(Exception):
    """What the scheduler dies of; the text is the last line of its traceback."""


class SchedulerExit(SchedulerError):
    """What makes the scheduler's process exit without an exception; the text is its last line."""


@dataclass(kw_only=True, eq=False)
class Request:
    """One sequence to generate."""

    rid: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    finished: asyncio.Future[dict[str, Any]]  # the finish_reason
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    health_check: bool = False
    tokens: float = 0.0  # generated so far; steps may be worth less than one
    retractions: int = 0
    waiting: bool = False  # for its turn, on no GPU
    grammar: bool = False  # its answer has a form
    compiling: bool = False  # it waits for its grammar, which only a scheduler that runs looks at
    to_end: bool = False  # aborted on the GPU: with its next step
    stale: bool = False  # its prompt came from a cache that other weights had filled
    # Those of the latest step that it had a part in, in the words of an answer; once torn, those.
    # Not those at the time of the answer: what is aborted is told of while an update may go on.
    weights: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    cached_tokens: int = 0
    came: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)  # when it had its latest token

    @property
    def generated(self) -> int:
        """Whole tokens."""
        return min(int(self.tokens), self.max_new_tokens)

    def output_ids(self, checksum: str) -> list[int]:
        """Tokens that follow from the prompt and from weights of this checksum."""
        seed = hashlib.sha256(f"{checksum}{self.prompt}".encode()).digest()
        return [
            int.from_bytes(hashlib.sha256(seed + i.to_bytes(4, "big")).digest()[:4], "big")
            % _VOCABULARY
            for i in range(self.generated)
        ]

    def finish(self, reason: dict[str, Any]) -> None:
        """End it, if it has not ended."""
        if not self.finished.done():
            self.finished.set_result(reason)
        self.progress.set()


class Scheduler:
    """``crashed`` is called with what the scheduler died of, once."""

    def __init__(self, token_seconds: float, crashed: Callable[[SchedulerError], None]) -> None:
        self._tokens_per_step = _STEP_SECONDS / max(token_seconds, 1e-6)
        self._crashed = crashed
        self._inbox: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._going = asyncio.Event()
        self._going.set()
        self.running: list[Request] = []  # and waiting
        self.paused = False
        self.minds_waiting = True  # whether a flush in a pause is refused for requests that wait
        self.minds_grammars = True  # the same, for requests that wait for their grammar
        self.cache = PrefixCache(on=True)
        self.weights: Callable[[], Mapping[str, str]] = lambda: NOTHING  # as they are
        self.unmapped: set[str] = set()  # memory that a forward pass would fail on
        self.dead = False
        self.outputs = 0  # whatever was sent back so far: a sign of life
        self.generated_tokens = 0
        self.prompt_tokens = 0
        self.finished_requests = 0
        self.aborted_requests = 0
        self.latencies = Latencies()

    async def run(self) -> None:
        """Until the end of the engine."""
        try:
            while True:
                await self._turn()
        except SchedulerError as error:
            self.dead = True
            self._crashed(error)

    @overload
    async def call(self, command: Callable[[], Awaitable[T]]) -> T: ...

    @overload
    async def call(self, command: Callable[[], T]) -> T: ...

    async def call(self, command: Callable[[], Any]) -> Any:
        """Have a command done in its turn; never returns if the scheduler is dead or blocked."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            result = command()
            value = await result if inspect.isawaitable(result) else result
            self.outputs += 1
            if not done.done():
                done.set_result(value)

        self._inbox.put_nowait(work)
        return await done

    def post(self, command: Callable[[], None]) -> None:
        """Have a command done in its turn, without waiting."""

        async def work() -> None:
            command()

        self._inbox.put_nowait(work)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self.post(lambda: self._admit(request))

    def abort(self, rid: str, *, everything: bool) -> None:
        """End requests whose id begins with ``rid``, or all."""
        self.post(lambda: self._abort(rid, everything))

    def stall(self) -> None:
        """Do nothing any more, as a scheduler that hangs in a kernel."""
        self._going.clear()

    def go_on(self) -> None:
        """End a ``stall``."""
        self._going.set()

    def fail(self, error: str) -> None:
        """Die of an exception, in turn."""

        def raising() -> None:
            raise SchedulerError(error)

        self.post(raising)

    @property
    def idle(self) -> bool:
        """Whether no request is in it."""
        return not self.running

    @property
    def flushable(self) -> bool:
        """Whether no request keeps the cache."""
        if self.paused and not self.minds_waiting:
            return not any(self._in_the_way(request) for request in self.running)
        return self.idle

    def _in_the_way(self, request: Request) -> bool:
        return not request.waiting or (request.compiling and self.minds_grammars)

    def flush(self) -> bool:
        """Empty the cache, unless a request keeps it."""
        if not self.flushable:
            return False
        self.cache.clear()
        return True

    def hold(self, mode: str) -> None:
        """Stand still; ``retract`` takes requests off the GPU, ``in_place`` leaves them there."""
        self.paused = True
        if mode == "retract":
            for request in self.running:
                request.retractions += not request.waiting
                request.waiting = True

    def release(self) -> None:
        """Go on."""
        self.paused = False
        for request in self.running:
            request.waiting = request.compiling = False

    async def _turn(self) -> None:
        busy = bool(self.running) and not self.paused
        if not busy:
            await self._do(await self._inbox.get())
            return
        while not self._inbox.empty():
            await self._do(self._inbox.get_nowait())
        await asyncio.sleep(_STEP_SECONDS)
        await self._going.wait()
        if not self.paused:
            self._step()

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._going.wait()
        await work()

    def _admit(self, request: Request) -> None:
        if request.health_check and self.running:
            return  # what runs shows that it lives
        request.waiting = self.paused
        request.compiling = self.paused and request.grammar
        self.running.append(request)
        self.prompt_tokens += len(request.prompt)

    def _step(self) -> None:
        if self.running and self.unmapped:
            raise SchedulerError(
                "ValueError: Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)"
            )
        now = self.weights()
        for request in list(self.running):
            if request.to_end:
                self._end(request, _ABORTED)
                continue
            if request.weights["state"] != TORN:
                request.weights = now
            self._prefilled(request, now["checksum"])
            before = request.generated
            request.tokens += self._tokens_per_step
            self._progressed(request, before)
            request.progress.set()
            if request.generated >= request.max_new_tokens:
                self._end(request, {"type": "length", "length": request.max_new_tokens})
        self.outputs += 1

    def _prefilled(self, request: Request, now: str) -> None:
        if request.health_check or request.tokens:
            return
        cached = self.cache.cached(request.prompt)
        request.stale = cached is not None and cached != now
        request.cached_tokens = len(request.prompt) - 1 if cached is not None else 0
        self.cache.fill(request.prompt, now)

    def _progressed(self, request: Request, before: int) -> None:
        self.generated_tokens += request.generated - before
        if request.generated == before or request.health_check:
            return
        now = time.monotonic()
        self.latencies.progressed(now - request.came, before, request.generated, now - request.last)
        request.last = now

    def _end(self, request: Request, reason: dict[str, Any]) -> None:
        self.running.remove(request)
        self.finished_requests += 1
        if not request.health_check:
            self.latencies.whole.observe(time.monotonic() - request.came)
        self.outputs += 1
        request.finish(reason)

    def _abort(self, rid: str, everything: bool) -> None:
        for request in list(self.running):
            if not (everything or request.rid.startswith(rid)):
                continue
            self.aborted_requests += 1
            if self.paused and (request.compiling or not request.waiting):
                request.to_end = True  # it is where nothing moves in a pause
            else:
                self._end(request, _ABORTED)
