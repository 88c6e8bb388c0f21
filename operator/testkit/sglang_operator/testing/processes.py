"""The owner's side of the guard: orders to it, what it reported, and figures from /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing import datadir, errors, guard

LOG_TAIL_LINES = 25
ANSWER_SECONDS = 15.0


class Processes:
    """The components of one plane, started and watched through a guard process."""

    def __init__(self, data: Path, *, lock: int) -> None:
        """Start the guard, which takes over ``data`` and the descriptor of its lock."""
        self.data = data
        self.pids: dict[str, int] = {}
        self.deaths: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        self._changed = threading.Condition()
        self._orders = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(data), str(data / datadir.KEEP)],
            pass_fds=[lock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="plane-guard", daemon=True)
        self._reader.start()

    @property
    def guard_pid(self) -> int:
        """The process id of the guard."""
        return self._guard.pid

    def log_of(self, name: str) -> Path:
        """Where a component's output goes."""
        return self.data / "logs" / f"{name}.log"

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start a component and return its process id; raises PlaneError."""
        order = {
            "op": "start",
            "name": name,
            "argv": list(argv),
            "log": str(self.log_of(name)),
            "env": {**os.environ, **(env or {})},
        }
        self.deaths.pop(name, None)
        self._send(order)
        self._await(name, lambda: name in self.pids or name in self.deaths)
        if name in self._failures:
            raise errors.PlaneError(f"cannot start {name}: {self._failures[name]}")
        return self.pids.get(name, 0)

    def stop(self, name: str) -> None:
        """Kill a component, as a crash would; raises PlaneError when the guard is gone."""
        self._send({"op": "stop", "name": name})
        self._await(name, lambda: name not in self.pids)

    def check(self) -> None:
        """Raise PlaneError, with the end of the log, when a component or the guard has died."""
        if self.deaths:
            parts = [
                f"{name} ended with exit code {code}; the end of its log:\n{self.tail(name)}"
                for name, code in sorted(self.deaths.items())
            ]
            raise errors.PlaneError("\n".join(parts))
        if self._guard.poll() is not None:
            raise errors.PlaneError(
                f"the control plane's guard ended with exit code {self._guard.returncode}"
            )

    def tail(self, name: str) -> str:
        """The last lines of a component's log, indented."""
        try:
            lines = self.log_of(name).read_text(errors="replace").splitlines()
        except OSError as error:
            return f"  ({error})"
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])

    def close(self) -> None:
        """End every component and the guard; the guard removes the data folder."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        try:
            self._guard.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # the kernel then ends its children
            self._guard.wait()
        self._reader.join(ANSWER_SECONDS)
        if self._guard.stdout:
            self._guard.stdout.close()

    def _send(self, order: Mapping[str, Any]) -> None:
        pipe = self._guard.stdin
        assert pipe is not None
        try:
            with self._orders:
                pipe.write(json.dumps(order).encode() + b"\n")
                pipe.flush()
        except (OSError, ValueError) as error:
            raise errors.PlaneError(f"the control plane's guard is gone: {error}") from error

    def _await(self, name: str, done: Any) -> None:
        with self._changed:
            if not self._changed.wait_for(done, ANSWER_SECONDS):
                raise errors.PlaneError(f"the control plane's guard gave no answer about {name}")

    def _read(self) -> None:
        assert self._guard.stdout is not None
        for line in self._guard.stdout:
            with self._changed:
                self._note(json.loads(line))
                self._changed.notify_all()

    def _note(self, fact: Mapping[str, Any]) -> None:
        name = fact["name"]
        if fact["event"] == "started":
            self._failures.pop(name, None)
            self.pids[name] = fact["pid"]
            return
        if fact["event"] == "died":
            self.deaths[name] = fact["code"]
        elif fact["event"] == "failed":
            self._failures[name] = fact["error"]
            self.deaths[name] = 127
        # Last, so that who sees the process gone also sees how it went.
        self.pids.pop(name, None)


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU, user and system, that a process has used; 0 when it is gone (Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Bytes of memory a process has resident; 0 when it is gone (Linux)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
