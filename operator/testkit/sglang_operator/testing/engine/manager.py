"""The part of an engine that answers HTTP: pauses, versions, health, shutting down.

SGLang's TokenizerManager.  It goes on answering when the scheduler blocks, which is why /health
without generation says so little.
"""

import argparse
import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from sglang_operator.testing.engine import log
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.locks import ReadWriteLock
from sglang_operator.testing.engine.scheduler import Request, Scheduler

_LOOK_SECONDS = 1.0  # tokenizer_manager.py: between looks whether what was aborted has ended

STARTING, UP, UNHEALTHY = "Starting", "Up", "UnHealthy"

T = TypeVar("T")


class Manager:
    """State that belongs to no single request."""

    def __init__(
        self, args: argparse.Namespace, behaviour: Behaviour, scheduler: Scheduler
    ) -> None:
        self.args = args
        self.behaviour = behaviour
        self.scheduler = scheduler
        self.status = STARTING
        self.weight_version: str | None = getattr(args, "weight_version", None)
        self.health_failed = False  # and nothing but a later check takes it back
        self.exiting = asyncio.Event()
        self.requests: dict[str, Request] = {}
        self.waiting = 0  # requests that wait for the end of a pause
        self.paused = False
        self.pause = asyncio.Condition()
        self.updates = ReadWriteLock()
        self.first_weights = asyncio.Event()  # from checkpoint-engine
        self.touched: Callable[[], None] = lambda: None  # called with the first use of it

    @property
    def open_requests(self) -> int:
        """How many requests the drain waits for."""
        counted = self.waiting if self.behaviour.drain_counts_paused else 0
        return len(self.requests) + counted

    @property
    def ready(self) -> bool:
        """GET /ready."""
        return not self.paused and not self.exiting.is_set() and self.status == UP

    @contextlib.asynccontextmanager
    async def admitted(
        self, requests: list[Request], first: Request | None = None
    ) -> AsyncIterator[None]:
        """Wait for the end of a pause and of updates, then let requests run while this lasts.

        ``first`` runs alone before them: the prompt of several samples, which follow it without
        asking for a pause again (tokenizer_manager.py, _handle_batch_request, 0.5.7 to 0.5.23).
        """
        self.touched()
        self.waiting += len(requests)
        try:
            async with self.pause:
                await self.pause.wait_for(lambda: not self.paused)
            async with self.updates.reading():
                self.waiting -= len(requests)
                try:
                    if first is not None:
                        self.scheduler.submit(first)
                        await first.finished
                    for request in requests:
                        self.requests[request.rid] = request
                        self.scheduler.submit(request)
                    yield
                finally:
                    self.waiting += len(requests)
                    for request in requests:
                        self.requests.pop(request.rid, None)
        finally:
            self.waiting -= len(requests)

    async def pause_generation(self, mode: str) -> None:
        """POST /pause_generation."""
        async with self.pause:
            self.paused = True
            if mode != "abort":
                await self.scheduler.call(lambda: self.scheduler.hold(mode))
                return
            self.abort("", everything=True)
            while self.behaviour.pause_waits and self.updates.held:
                await asyncio.sleep(_LOOK_SECONDS)
                self.abort("", everything=True)

    async def continue_generation(self) -> None:
        """POST /continue_generation."""
        async with self.pause:
            self.paused = False
            if self.scheduler.paused:
                await self.scheduler.call(self.scheduler.release)
            self.pause.notify_all()

    def abort(self, rid: str, *, everything: bool) -> None:
        """POST /abort_request; an id that is not known is ignored."""
        if everything or rid in self.requests:
            self.scheduler.abort(rid, everything=everything)

    async def updating(self, update: Callable[[], Awaitable[T]]) -> T:
        """Do an update of weights under the locks that this version takes for it."""
        self.touched()
        if not self.behaviour.update_while_paused:
            async with self.updates.writing():
                return await update()
        async with self.pause:
            paused = self.paused
            if paused and self.behaviour.update_holds_pause:
                return await update()
        if paused:
            return await update()
        async with self.updates.writing():
            return await update()

    async def health_generate(self, timeout: float) -> bool:
        """Generate one token; true if anything at all came back, which takes 1 s at the least."""
        loop = asyncio.get_running_loop()
        request = Request(
            rid=f"HEALTH_CHECK_{uuid.uuid4().hex}",
            prompt=(0,),
            max_new_tokens=1,
            finished=loop.create_future(),
            health_check=True,
        )
        begun, before = loop.time(), self.scheduler.outputs

        async def generate() -> None:
            async with self.admitted([request]):
                await request.finished

        task = asyncio.create_task(generate())
        try:
            while loop.time() < begun + timeout:
                await asyncio.sleep(1)
                if self.scheduler.outputs > before:
                    self.health_failed = False
                    if not self.behaviour.sticky_unhealthy:
                        self.status = UP
                    return True
        finally:
            task.cancel()
        self.health_failed = True
        if not self.behaviour.sticky_unhealthy:
            self.status = UNHEALTHY
        log.line(
            "Health check failed. Server couldn't get a response from detokenizer for last "
            f"{timeout:g} seconds."
        )
        return False
