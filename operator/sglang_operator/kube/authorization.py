"""The Authorization header of each request, without the loop ever waiting for where it comes from.

It may come from a plugin: a process of somebody else's that takes seconds, or hangs.  So it is
asked for in a thread of its own, and the last one is used meanwhile, unless it is old: whoever
asks seldom would be refused with it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

# How long the last answer is good; asking costs more than a request of ours.
FRESH_SECONDS = 10.0
# One that is older may have ended meanwhile: the next is waited for.
OLD_SECONDS = 30.0
# So long at most, from when it was asked for.
WAIT_SECONDS = 20.0
# One that is refused is asked for anew, so often at most.
ANEW_SECONDS = 5.0
# One that hangs for longer is left to itself, and another asked; so many at a time.
GIVEN_UP_SECONDS = 60.0
MOST_THREADS = 4

log = logging.getLogger(__name__)


class CredentialsError(OSError):
    """There never were any, and whoever gives them does not."""


class Authorization:
    """``ask`` may block, and raise anything; it is called in threads.

    ``forget`` is called before it is to give another than the one that was refused.
    """

    def __init__(
        self, ask: Callable[[], str | None], forget: Callable[[], None] = lambda: None
    ) -> None:
        self._ask = ask
        self._forget = forget
        self._refused_at = float("-inf")
        self._value: str | None = None
        self._known = False
        self._learnt_at = float("-inf")
        self._asking: asyncio.Future[None] | None = None
        self._asking_since = 0.0
        self._threads = 0

    async def header(self) -> str | None:
        """The header's value, None without one.

        Raises CredentialsError if there never was an answer.
        """
        age = time.monotonic() - self._learnt_at
        if age > FRESH_SECONDS:
            self._renew()
        if not self._known:
            await self._first()
        elif age > OLD_SECONDS:
            await self._next()
        return self._value

    async def anew(self, refused: str | None) -> bool:
        """Ask for another than this, which the server refused: whether there is one now."""
        if self._value == refused:
            await self._next()
        now = time.monotonic()
        if self._value == refused and now - self._refused_at > ANEW_SECONDS:
            self._refused_at = now
            self._forget()
            self._renew()
            await self._next()
        return self._value != refused

    async def _first(self) -> None:
        if self._asking is None:
            raise CredentialsError("credentials: whoever gives them does not answer")
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.shield(self._asking)
        except TimeoutError:
            raise CredentialsError(f"credentials: no answer in {WAIT_SECONDS:g} s") from None

    async def _next(self) -> None:
        """Wait for the one that is asked for, if there is; the last one is good enough else.

        For one that hangs nobody waits twice: its time counts from when it was asked for.
        """
        if self._asking is not None and self._threads == 1:
            left = self._asking_since + WAIT_SECONDS - time.monotonic()
            await asyncio.wait({self._asking}, timeout=max(0.0, left))

    def _renew(self) -> None:
        now = time.monotonic()
        if self._asking is not None and now - self._asking_since < GIVEN_UP_SECONDS:
            return
        if self._asking is not None:
            log.warning("credentials: no answer for %.0f s", now - self._asking_since)
        if self._threads >= MOST_THREADS:
            return
        loop = asyncio.get_running_loop()
        asking = self._asking = loop.create_future()
        asking.add_done_callback(lambda done: done.exception())  # told by who waits, if anybody
        self._asking_since = now
        self._threads += 1

        def tell(value: str | None, error: BaseException | None) -> None:
            self._threads -= 1
            if error is None:
                self._value, self._known, self._learnt_at = value, True, time.monotonic()
            if self._asking is asking:
                self._asking = None
            if error is None:
                asking.set_result(None)
            else:
                asking.set_exception(_as_credentials_error(error))

        def run() -> None:
            value: str | None = None
            error: BaseException | None = None
            try:
                value = self._ask()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is over
                loop.call_soon_threadsafe(tell, value, error)

        threading.Thread(target=run, name="credentials", daemon=True).start()


def _as_credentials_error(error: BaseException) -> CredentialsError:
    if isinstance(error, OSError):
        return CredentialsError(str(error))
    # Its type alone: the text may quote what was read.
    return CredentialsError(f"credentials cannot be read: {type(error).__name__}")
