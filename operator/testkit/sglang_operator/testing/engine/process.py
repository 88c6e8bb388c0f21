"""Fake engines for a test: each is a process of its own, as the real one is."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from sglang_operator.testing import ports
from sglang_operator.testing.engine.settings import PREFIX

_POLL_SECONDS = 0.02


class FakeEngine:
    """A running engine; ``settings`` are fields of ``settings.Settings``.

    ``with FakeEngine(version="0.5.7") as engine: engine.wait_ready(); use(engine.url)``.  It
    listens on 127.0.0.1 and ends with the context.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        port: int = 0,
        model_path: str = "/models/fake",
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        port = port or ports.free()
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        command = [sys.executable, "-m", "sglang_operator.testing.engine"]
        command += ["--model-path", model_path, "--port", str(port), *arguments]
        variables = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **variables, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        # Another description of the same file would share its offset with the process.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_ready(self, timeout: float = 30) -> Self:
        """Wait until it is up; raises TimeoutError, or RuntimeError if it ends before."""
        deadline = time.monotonic() + timeout
        while "ready to roll" not in self.log:
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode}:\n{self.log[-2048:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {timeout} s:\n{self.log[-2048:]}")
            time.sleep(_POLL_SECONDS)
        return self

    def wait_listening(self, timeout: float = 30) -> Self:
        """Wait until it answers HTTP, with whatever status; raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/get_model_info", timeout=1).close()
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"nothing listens after {timeout} s:\n{self.log[-2048:]}")

    def terminate(self) -> None:
        """Send SIGTERM, as the kubelet does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end: the exit code, as a shell or a kubelet counts it (137: SIGKILL)."""
        code = self.process.wait(timeout)
        return 128 - code if code < 0 else code

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()
