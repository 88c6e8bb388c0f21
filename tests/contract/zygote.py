"""Starts fake engines by fork from a process that has imported them: a tenth of the CPU time.

``Zygote().start(…)`` gives what ``subprocess.Popen`` would, as far as ``subject`` needs it.  The
other process is this module as a program: it reads one JSON object a line (argv, env, log) and
answers with ``[pid]``, and with ``[pid, status]`` when that process has ended.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, Any

_SLICE_SECONDS = 0.005
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that was started; its parent is the zygote."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self._zygote = zygote
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """As of the last ``poll``: negative for a signal."""
        return self._zygote.ended.get(self.pid)

    def poll(self) -> int | None:
        """The exit status if it has ended."""
        self._zygote.listen()
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        while (code := self.poll()) is None:
            time.sleep(_SLICE_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Zygote:
    """The process to fork from; it and the engines end with this one, however that ends."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            command = [sys.executable, "-m", "tests.contract.zygote"]
            self._process = subprocess.Popen(command, stdin=other.fileno())
        self._unread = b""
        self._born: list[int] = []
        self.ended: dict[int, int] = {}

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> Child:
        """Start a fake engine with SGLang's arguments ``argv``."""
        order = {
            "argv": list(argv),
            "env": dict(env),
            "log": f"/proc/{os.getpid()}/fd/{log.fileno()}",
        }
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        while not self._born:
            self.listen(block=True)
        return Child(self, self._born.pop())

    def listen(self, *, block: bool = False) -> None:
        """Take in what the zygote has said."""
        self._socket.setblocking(block)
        with contextlib.suppress(BlockingIOError):
            while True:
                read = self._socket.recv(65536)
                if not read:
                    raise RuntimeError("the zygote is gone")
                self._unread += read
                if block:
                    break
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            pid, *status = json.loads(line)
            if status:
                self.ended[pid] = status[0]
            else:
                self._born.append(pid)

    @property
    def pid(self) -> int:
        """The process id of the zygote."""
        return self._process.pid

    def close(self) -> None:
        """End it, and with it the engines that still run."""
        self._socket.close()
        self._process.wait()


def _die_with(zygote: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:  # it ended before the line above took effect
        os._exit(1)


def _child(order: dict[str, Any], zygote: int) -> None:
    from sglang_operator.testing.engine import __main__ as engine

    os.setsid()
    _die_with(zygote)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["launch_server.py", *order["argv"]]
    code: object = 1
    try:
        engine.main()
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _serve() -> None:
    import sglang_operator.testing.engine.__main__  # noqa: F401 (what every child needs)

    peer, zygote = socket.socket(fileno=os.dup(0)), os.getpid()
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    with selectors.DefaultSelector() as selector:
        selector.register(peer, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        unread = b""
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if woken in ready:
                os.read(woken, 4096)
                _reap(peer)
            if peer.fileno() in ready:
                if not (read := peer.recv(65536)):
                    return
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    if (pid := os.fork()) == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        selector.close()
                        peer.close()
                        _child(json.loads(line), zygote)
                    peer.sendall(json.dumps([pid]).encode() + b"\n")


def _reap(peer: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            answer = [pid, os.waitstatus_to_exitcode(status)]
            peer.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    _serve()
