"""Requests that change an engine: each leaves only while it may, for the operator and for trainers.

A process may stand still at any moment: its loop blocked, stopped, its cgroup frozen.  By the time
that it goes on, the Lease may be another's.  So whoever writes is asked once there is a connection,
as each piece of the body leaves; a request without the whole of its body is none to an engine.
What the kernel has taken and cannot deliver is given up while others still wait.
"""

import socket
from collections.abc import AsyncIterator, Callable

from sglang_operator.clocks import steady

# What was sent and is not acknowledged for so long never arrives: the connection is given up.
DELIVERY_SECONDS = 8.0
_PIECE = 2**16  # bytes; what a connection buffers before the next piece is asked for

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
        self.headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
        }

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), _PIECE):
            if self._revoked or not self._allowed():
                self.refused = True
                raise _RefusedError
            self.left = start + _PIECE >= len(self._content)
            self.arrives_until = steady() + DELIVERY_SECONDS
            yield self._content[start : start + _PIECE]

    def revoke(self) -> bool:
        """Nothing of it leaves any more; whether that is in time."""
        self._revoked = True
        return not self.left


def impatient(made: socket.socket) -> None:
    """Nothing is sent on it again and again for longer than others wait for it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(DELIVERY_SECONDS * 1000)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
