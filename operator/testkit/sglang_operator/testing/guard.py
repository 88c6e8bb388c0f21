"""The process that owns a control plane's components and outlives nobody.

The plane starts this file as a program in a session of its own and keeps the write end of the
guard's standard input.  Each line there is a JSON order, each line on standard output is a JSON
fact.  End of file, which the kernel also delivers when the owner is killed by SIGKILL, means: end
every component and remove the data.  Should the guard itself be killed, the components get
SIGKILL from the kernel (Linux only).  Nothing here may import from the package: the guard runs
isolated, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol, cast

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.1
STOP_SECONDS = 10.0
GROUPS = "control-groups"  # in the data folder: those to remove, a line each


class _Prctl(Protocol):
    def __call__(self, option: int, value: int, /) -> int: ...


def _prctl() -> _Prctl | None:
    if sys.platform != "linux":
        return None
    return cast(_Prctl, ctypes.CDLL(None, use_errno=True).prctl)


class Guard:
    """Starts, watches and ends components on behalf of one owner."""

    def __init__(self, data: Path, *, keep_file: Path) -> None:
        self.data = data
        self.keep_file = keep_file
        self.owner = os.getppid()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._prctl = _prctl()

    def serve(self) -> None:
        """Obey orders until the owner is gone."""
        pending = b""
        while os.getppid() == self.owner:
            ready, _, _ = select.select([0], [], [], POLL_SECONDS)
            if ready:
                chunk = os.read(0, 65536)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self.obey(json.loads(line))
            self.report_deaths()

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order and answer it."""
        if order["op"] == "start":
            self.start(order["name"], order["argv"], order["log"], order["env"])
        elif order["op"] == "stop":
            self.stop(order["name"])

    def start(self, name: str, argv: list[str], log: str, env: dict[str, str]) -> None:
        """Start one component with its output appended to its log."""
        guard, prctl = os.getpid(), self._prctl

        def die_with_guard() -> None:
            if prctl is None:
                return
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:  # the guard died before the line above took effect
                os._exit(1)

        try:
            with Path(log).open("ab") as out:
                # This process has one thread, so the hook between fork and exec is safe.
                self.running[name] = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=self.data,
                    start_new_session=True,
                    preexec_fn=die_with_guard,
                )
        except OSError as error:
            say(event="failed", name=name, error=str(error))
            return
        say(event="started", name=name, pid=self.running[name].pid)

    def stop(self, name: str) -> None:
        """End one component at once; there is nothing in it worth saving."""
        process = self.running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS)
        say(event="stopped", name=name)

    def report_deaths(self) -> None:
        """Tell the owner of components that ended by themselves."""
        for name, process in list(self.running.items()):
            code = process.poll()
            if code is not None:
                del self.running[name]
                say(event="died", name=name, code=code)

    def clean_up(self) -> None:
        """End everything, the last started first, so that etcd outlives the API server."""
        for name in reversed(list(self.running)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name)
        remove_groups(self.data)
        if not self.keep_file.exists():
            remove_tree(self.data)


def say(**fact: object) -> None:
    """Write one fact for the owner, who may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(fact).encode() + b"\n")


def remove_tree(path: Path) -> None:
    """Remove a folder that a dying process may still write to."""
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(POLL_SECONDS)


def remove_groups(data: Path) -> None:
    """Remove the control groups of a plane, as soon as the last process in them is gone."""
    try:
        folders = [Path(line) for line in (data / GROUPS).read_text().split()]
    except FileNotFoundError:
        return
    deadline = time.monotonic() + STOP_SECONDS
    while folders:
        folders = [folder for folder in folders if not remove_group(folder)]
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS / 5)


def remove_group(folder: Path) -> bool:
    """Remove a control group with those in it, as far as they are empty; tell if all are gone."""
    for inner, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # a process in it is not quite gone
            Path(inner).rmdir()
    return not folder.exists()


def main() -> None:
    """Run the guard: the arguments are the data folder and the file whose presence keeps it."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: sys.exit(0))  # ends in the clean-up below
    guard = Guard(Path(sys.argv[1]), keep_file=Path(sys.argv[2]))
    try:
        guard.serve()
    finally:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(sig, signal.SIG_IGN)
        guard.clean_up()


if __name__ == "__main__":
    main()
