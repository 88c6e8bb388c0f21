"""A free port on the loopback interface.

It is taken below the range from which the kernel gives ports to outgoing connections, else a
client's socket may sit on a server's port.  It is this process's until that ends, or has taken
``KEPT`` others: between the look and the server's own bind another process that uses this module
is not given it.  Who does not use it may still be faster; a plane then notices, and starts again on
other ports.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

from sglang_operator.testing import errors

HOST = "127.0.0.1"
LOWEST, HIGHEST = 18000, 30000  # Linux hands out ports from 32768 on unless told otherwise
KEPT = 1000
TRIES = 200


class _Reserved:
    """The ports of this process, told to all others by locks on the bytes of one file.

    The locks end with the process, however it ends, and a child does not inherit them.
    """

    def __init__(self) -> None:
        path = Path(tempfile.gettempdir(), f"sglang-operator-ports-{os.getuid()}")
        self._pid = os.getpid()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ports: collections.deque[int] = collections.deque()

    def of_this_process(self) -> bool:
        """Whether the locks are ours: not after a fork."""
        return self._pid == os.getpid()

    def add(self, port: int) -> bool:
        """Take a port; False if it is taken, by this process or by another."""
        if port in self._ports:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        self._ports.append(port)
        while len(self._ports) > KEPT:
            self.remove(self._ports[0])
        return True

    def remove(self, port: int) -> None:
        """Give a port back."""
        with contextlib.suppress(ValueError):
            self._ports.remove(port)
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)


_lock = threading.Lock()
_reserved: _Reserved | None = None


def free() -> int:
    """Return a free port that no other call was given; raises PlaneError when none is found."""
    global _reserved
    with _lock:
        if _reserved is None or not _reserved.of_this_process():
            _reserved = _Reserved()
        for _ in range(TRIES):
            port = random.randrange(LOWEST, HIGHEST)
            if not _reserved.add(port):
                continue
            if _is_free(port):
                return port
            _reserved.remove(port)
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
