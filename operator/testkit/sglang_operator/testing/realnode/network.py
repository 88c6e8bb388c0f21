"""A plane's network: its addresses, and how a thread or a program gets into it.

The namespace has no name, so it is gone when the last process in it is.  All addresses are on its
loopback interface; pods hang on it by one veth each.  So planes know nothing of each other and may
use the same addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sglang_operator.testing import errors
from sglang_operator.testing.realnode import holder

COMPONENT = "network"
CONTROL_PLANE = "10.210.0.1"
NAME_SERVER = "10.210.0.53"
NODE = "10.210.1.{}"
POD_RANGE = "10.244.0.0/16"
NODE_POD_RANGE = "10.244.{}.0/24"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES = "10.96.0.1"  # the Service of the API server
CLUSTER_DOMAIN = "cluster.local"
MAX_NODES = 200

CLONE_NEWNET = 0x40000000


def holder_command(ready: Path) -> list[str]:
    """The process that makes the namespace and keeps it; it writes ``ready`` when it is done."""
    return [
        *("unshare", "--net", "--", sys.executable, "-I", holder.__file__),
        *(str(ready), SERVICE_RANGE, CONTROL_PLANE, NAME_SERVER),
    ]


class Network:
    """The namespace of one plane, known by a process that is in it."""

    def __init__(self, pid: int) -> None:
        self.path = Path(f"/proc/{pid}/ns/net")

    def wrapped(self, argv: Sequence[str]) -> list[str]:
        """The command line by which a program runs inside; its process id stays the same."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into the network: the sockets it makes, and the threads and processes
        it starts, are inside and stay there.  Raises PlaneError when the network is gone."""
        outer = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            try:
                inner = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise errors.PlaneError(f"the plane's network is gone: {error}") from error
            try:
                _enter(inner)
            finally:
                os.close(inner)
            try:
                yield
            finally:
                _enter(outer)
        finally:
            os.close(outer)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise errors.PlaneError(f"cannot enter the plane's network: {os.strerror(number)}")
