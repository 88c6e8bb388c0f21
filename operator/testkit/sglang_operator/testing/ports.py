"""A free port on the loopback interface.

It is taken below the range from which the kernel gives ports to outgoing connections, else a
client's socket may sit on a server's port.  Between the look and the component's own bind another
plane may be faster; the plane then notices and starts again on other ports.
"""

from __future__ import annotations

import random
import socket

from sglang_operator.testing import errors

HOST = "127.0.0.1"
LOWEST, HIGHEST = 18000, 30000  # Linux hands out ports from 32768 on unless told otherwise
TRIES = 200


def free() -> int:
    """Return a free port; raises PlaneError when none is found."""
    for _ in range(TRIES):
        port = random.randrange(LOWEST, HIGHEST)
        if _is_free(port):
            return port
    raise errors.PlaneError(f"no free port between {LOWEST} and {HIGHEST} on {HOST}")


def is_listening(port: int) -> bool:
    """Tell whether somebody takes connections to a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
