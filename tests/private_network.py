"""Python in a network of its own, which has a loopback and nothing else: for servers that listen on
all addresses."""

import functools
import shutil
import subprocess
import sys

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
_LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as found:
    fcntl.ioctl(found, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
"""
_BOTH = "socket.create_server(('::1', 0), family=socket.AF_INET6).close()"


def run(code: str, timeout: float = 60) -> str:
    """What a program prints there.  Raises CalledProcessError with what it said else."""
    command = [*_UNSHARE, sys.executable, "-c", _LOOPBACK_UP + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def lacking() -> str:
    """Why there is none here; empty if there is, with both families."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    try:
        run(_BOTH)
    except AssertionError as error:
        return f"no network of one's own with IPv6: {error}"
    return ""
