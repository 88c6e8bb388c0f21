"""The one supervisor: nothing that must live dies in silence.

Whoever runs a task runs it through here.  What it did not expect is logged with its traceback,
counted by the task's name, and then either begun again (``kept``), or handed on so that the
process ends (``essential``: who holds the Lease may not go on as if nothing were).  Work that is
begun and left alone (``begun``) is told of too.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from sglang_operator.backoff import Backoff

BACKOFF = Backoff(0.5, 30.0)
# What ran for so long was well: the next failure begins with the shortest pause again.
GOOD_SECONDS = 60.0

T = TypeVar("T")

# Unexpected errors by the name of what they happened to, since this process began.
FAILURES: Counter[str] = Counter()

_UNDER_WAY: set[asyncio.Task[Any]] = set()
_TO_ITS_END: set[asyncio.Task[Any]] = set()

log = logging.getLogger(__name__)


class EndedError(Exception):
    """What must go on for ever came to an end."""


def failed(name: str, error: BaseException, *, about: str = "") -> None:
    """Tell of an error that nobody expected.  ``name`` is one of few, ``about`` is any object."""
    FAILURES[name] += 1
    where = f"{name}: {about}" if about else name
    log.error("%s: unexpected %s: %s", where, type(error).__name__, error, exc_info=error)


def unhandled(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """A loop's handler of what no task and no callback of it caught."""
    error = context.get("exception") or EndedError(context.get("message", "nobody knows what"))
    failed("loop", error, about=str(context.get("message", "")))


async def kept(name: str, run: Callable[[], Awaitable[object]]) -> None:
    """Run what must go on for ever; however it ends, it is begun again, until cancelled."""
    failures = 0
    FAILURES[name] += 0  # so that its series is there before the first
    while True:
        begun = time.monotonic()
        try:
            await run()
            raise EndedError("it ended by itself")
        except Exception as error:
            failed(name, error)
        if time.monotonic() - begun > GOOD_SECONDS:
            failures = 0
        pause = BACKOFF.pause(failures)
        log.warning("%s: begun again in %.1f s", name, pause)
        await asyncio.sleep(pause)
        failures += 1


async def essential(name: str, work: Awaitable[T], *expected: type[Exception]) -> T:
    """Await what cannot be begun again; an error that is not expected is told and goes on up."""
    try:
        return await work
    except expected:
        raise
    except Exception as error:
        failed(name, error)
        raise


def interruptible(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Of these, the ones that may be cancelled where a loop ends."""
    return [task for task in tasks if task not in _TO_ITS_END]


def _uninterrupted(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(work)
    _TO_ITS_END.add(task)
    task.add_done_callback(_TO_ITS_END.discard)
    return task


async def all_to_their_end(
    each: Iterable[Coroutine[Any, Any, T]],
) -> list[T | BaseException]:
    """The same for several at once, within it; what each ends with, an error too."""
    return await asyncio.gather(*map(_uninterrupted, each), return_exceptions=True)


async def to_its_end(
    work: Coroutine[Any, Any, T], among: set[asyncio.Task[Any]] | None = None
) -> T:
    """Await what must not be left half-way; who is cancelled meanwhile is so afterwards.

    ``among``: where it stands until then, for who has to wait for it (``ended``).
    """
    task = _uninterrupted(work)
    if among is not None:
        among.add(task)
        task.add_done_callback(among.discard)
    cancelled = await _waited({task})
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # whoever is cancelled does not ask how it ended
        raise cancelled
    return task.result()


async def ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until none of these is left, also of those that come meanwhile; else as above."""
    cancelled: asyncio.CancelledError | None = None
    while left := {task for task in tasks if not task.done()}:
        cancelled = await _waited(left) or cancelled
    if cancelled is not None:
        raise cancelled


async def _waited(tasks: set[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Wait for all of them; whether somebody wanted to cancel that."""
    cancelled: asyncio.CancelledError | None = None
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def begun(name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T | None]:
    """Begin what nobody waits for; it ends with None where it failed."""

    async def watched() -> T | None:
        try:
            return await work
        except Exception as error:
            failed(name, error)
            return None

    task = asyncio.create_task(watched(), name=name)
    _UNDER_WAY.add(task)  # a loop keeps no task alive by itself
    task.add_done_callback(_UNDER_WAY.discard)
    task.add_done_callback(lambda _: work.close())  # where it was cancelled before it began
    return task


async def left_alone(seconds: float) -> None:
    """Wait for work that was ``begun``, for so long: what it works with is closed next."""
    mine = asyncio.get_running_loop()
    tasks = {task for task in _UNDER_WAY if task.get_loop() is mine}
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)


def each(
    name: str, do: Callable[[T], object], things: Iterable[T], called: Callable[[T], str]
) -> None:
    """Do this to each; one that makes it fail costs itself alone, and is told as it is called."""
    for thing in things:
        try:
            do(thing)
        except Exception as error:
            failed(name, error, about=called(thing))
