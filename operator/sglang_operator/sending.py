"""Requests that change an engine: each leaves only while it may, for the operator and for trainers.

A process may stand still at any moment: its loop blocked, stopped, its cgroup frozen.  By the time
that it goes on, the Lease may be another's.  So whoever writes is asked once there is a connection,
as each piece of the body leaves, and again as the kernel takes it; a request without the whole of
its body is none to an engine.  The kernel takes little ahead, and what it has taken and cannot
deliver is given up while others still wait.
"""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from sglang_operator import receiving
from sglang_operator.clocks import steady

# What was sent and is not acknowledged for so long never arrives: the connection is given up.
DELIVERY_SECONDS = 8.0
_PIECE = 2**16  # bytes; what a connection buffers before the next piece is asked for
# Bytes that the kernel (Linux: twice as many) keeps of what the other side has not taken yet.
_AHEAD = 2**17

Allowed = Callable[[], bool]


class _RefusedError(Exception):
    """Ends a request whose body may not leave any more."""


class Body:
    """The body of a request, sent in pieces while ``allowed`` says so.

    ``refused``: not all of it has left, and none will.  ``left``: all of it was on its way, so that
    the engine may have got it, or may get it yet; without, the engine has been asked nothing.
    ``arrives_until``: by the steady clock, when it has arrived or never will.
    """

    def __init__(self, content: bytes, allowed: Allowed) -> None:
        self._content = content
        self._allowed = allowed
        self._revoked = False
        self.refused = False
        self.left = False
        self.arrives_until = float("-inf")
        self._transport: asyncio.Transport | None = None
        self.headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
        }

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), _PIECE):
            if not self._may_leave():
                self.refused = True
                raise _RefusedError
            self.left = start + _PIECE >= len(self._content)
            self.arrives_until = steady() + DELIVERY_SECONDS
            yield self._content[start : start + _PIECE]

    def revoke(self) -> bool:
        """Nothing of it leaves any more; whether that is in time."""
        self._revoked = True
        return not self.left

    def give_up(self) -> None:
        """What of it is not on the other side by now never will be.

        What is there, and what the engine has not read yet, cannot be taken back.
        """
        self._revoked = True
        if self._transport is not None and _undelivered(self._transport):
            self._transport.abort()

    def leaves_over(self, transport: asyncio.Transport, made: receiving.Bounded) -> None:
        """This is its connection, on which nothing leaves but what may."""
        self._transport = transport
        plain = transport.get_extra_info("sslcontext") is None
        made.may_send = self._all_may_leave if plain else self._may_leave

    def _may_leave(self) -> bool:
        return not self._revoked and self._allowed()

    def _all_may_leave(self) -> bool:
        """The same of bytes that are all this request's, as without TLS: or it is never whole."""
        may = self._may_leave()
        if not may:
            self.refused, self.left = True, False
        return may


_leaving: ContextVar[Body | None] = ContextVar("leaving", default=None)


@contextlib.contextmanager
def leaving(body: Body | None) -> Iterator[None]:
    """A request over a ``Connector`` has this body; where it fails, the body is given up.

    A connection that is closed would still send what waits in this process.
    """
    token = _leaving.set(body)
    try:
        yield
    except BaseException:
        if body is not None:
            body.give_up()
        raise
    finally:
        _leaving.reset(token)


def _undelivered(transport: asyncio.Transport) -> bool:
    """Whether the other side's kernel has not acknowledged all that was written."""
    if transport.get_write_buffer_size():
        return True
    number = transport.get_extra_info("socket").fileno()
    if number < 0:  # closed
        return False
    try:
        return bool(struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:  # not asked so elsewhere than on Linux
        return True


class Connector(receiving.Connector):
    """Connections on which a body (``leaving``) is asked to the last moment if it may leave."""

    def __init__(self, most: int, turns: receiving.Turns, **options: Any) -> None:
        self._made: weakref.WeakValueDictionary[int, receiving.Bounded]
        self._made = weakref.WeakValueDictionary()
        factory = receiving.bounded(most, turns, _impatient, self._remember)
        super().__init__(limit=0, socket_factory=factory, **options)

    def _remember(self, made: receiving.Bounded) -> None:
        self._made[made.fileno()] = made

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        transport = connection.transport
        if transport is not None:
            made = self._made[transport.get_extra_info("socket").fileno()]
            made.may_send = receiving.always
            if body := _leaving.get():
                body.leaves_over(transport, made)
        return connection


def _impatient(made: receiving.Bounded) -> None:
    """Nothing is sent on it again and again for longer than others wait for it, and little ahead.

    Once it is closed, nothing is: else the kernel delivers for as long as the other side reads.
    """
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _AHEAD)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(DELIVERY_SECONDS * 1000)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
