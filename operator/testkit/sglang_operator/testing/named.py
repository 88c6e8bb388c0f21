"""The planes that ``python -m sglang_operator.testing up`` started, by name.

A plane's process holds a lock for as long as it lives, so what the state file says is believed
only while somebody holds that lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sglang_operator.testing import binaries, errors, roots

PROGRAM = "sglang_operator.testing"
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
UP_SECONDS = 120.0
DOWN_SECONDS = 30.0
POLL_SECONDS = 0.05


class Slot:
    """The place that one named plane is in, or not."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        """Find the place of a name; raises KitError when it cannot be a file's name."""
        if NAME.fullmatch(name) is None:
            raise errors.KitError(f"--name {name!r}: use lower-case letters, digits and .-_")
        self.name = name
        self._environ = environ
        self._folder = binaries.cache_folder(environ) / "planes"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = self._folder / f"{name}.lock"
        self._state = self._folder / f"{name}.json"
        self._log = self._folder / f"{name}.log"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Occupy the place; raises KitError when a plane of the name is up."""
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise errors.KitError(
                    f"a control plane named {self.name!r} is up already; end it with `down` "
                    "or choose another --name"
                ) from None
            self._state.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._state.unlink(missing_ok=True)

    def publish(self, kubeconfig: Path) -> None:
        """Let other processes know of the plane, which is up in this one."""
        unfinished = self._state.with_suffix(".new")
        unfinished.write_text(json.dumps({"pid": os.getpid(), "kubeconfig": str(kubeconfig)}))
        unfinished.rename(self._state)

    def kubeconfig(self) -> Path:
        """The kubeconfig of the plane that is up; raises KitError when none is."""
        state = self._read()
        if state is None:
            raise errors.KitError(f"no control plane named {self.name!r} is up")
        return Path(state["kubeconfig"])

    def detach(self, nodes: str, *, real: bool = False) -> Path:
        """Start a plane in a process of its own and return its kubeconfig; raises KitError."""
        if self._occupied():
            with self.held():  # says why not
                pass
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", PROGRAM, "up", "--name", self.name),
                    *("--nodes", nodes, *(["--real"] if real else [])),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **self._environ,
                    "PYTHONPATH": roots.python_path(self._environ.get("PYTHONPATH", "")),
                },
            )
        deadline = time.monotonic() + UP_SECONDS
        while (state := self._read()) is None or state["pid"] != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                process.wait()
                said = self._log.read_text(errors="replace").strip()
                raise errors.KitError(f"the control plane did not come up:\n{said}")
            time.sleep(POLL_SECONDS)
        process.returncode = 0  # it is meant to go on, so no warning about that at our end
        return Path(state["kubeconfig"])

    def end(self) -> bool:
        """End the plane and tell whether there was one; raises KitError when it stays."""
        state = self._read()
        if state is None:
            return False
        os.kill(state["pid"], signal.SIGTERM)
        deadline = time.monotonic() + DOWN_SECONDS
        while self._occupied():
            if time.monotonic() > deadline:
                raise errors.KitError(f"process {state['pid']} does not end")
            time.sleep(POLL_SECONDS)
        return True

    def _read(self) -> dict[str, Any] | None:
        if not self._occupied():
            return None
        try:
            state: dict[str, Any] = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None  # starts or ends just now
        return state

    def _occupied(self) -> bool:
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
