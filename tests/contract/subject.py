"""One engine under test, fake or real, and what a test may do with it."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from sglang_operator.testing import ports
from tests.contract.targets import ARGUMENTS, Target, model
from tests.contract.zygote import Child, Zygote

TOKENS = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
# For ever, for a test: the longest that a fake's or a tiny model's context allows.
LONG = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}


@dataclass(frozen=True)
class Answer:
    """A response; ``seconds`` from the sending to the last byte."""

    status: int
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)


class Subject:
    """An engine; use as an asynchronous context."""

    def __init__(
        self,
        target: Target,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        base: Sequence[str] = ARGUMENTS,
    ) -> None:
        self.target = target
        self.port = ports.free()
        self.url = target.url or f"http://127.0.0.1:{self.port}"
        self.arguments = (*base, *arguments)
        self.environment = {**target.settings, **(environment or {})}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.process: subprocess.Popen[bytes] | Child | None = None

    def start(self) -> Self:
        """Start the process, without waiting."""
        if not self.target.url:
            own = [f"--port={self.port}", *self.arguments]
            env = {**os.environ, **self.environment}
            if not self.target.command:
                model_path = f"--model-path={model()}"
                self.process = _zygote().start([model_path, *own], env, self._log)
                return self
            self.process = subprocess.Popen(
                [*self.target.command, *own],
                env=env,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def stop(self) -> None:
        """End the process and its children, whatever they do."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    @property
    def last_line(self) -> str:
        """The last line of its log."""
        return self.log.rstrip().rpartition("\n")[2]

    async def ready(self) -> Self:
        """Wait until it says that it is."""
        if not self.target.url:
            await self.until(lambda: "ready to roll" in self.log, 30 + 5 * self.target.patience)
        return self

    async def until(self, condition: Any, seconds: float = 10) -> None:
        """Wait for a condition that holds at some time, while the process lives."""
        async with asyncio.timeout(seconds):
            while not condition():
                if self.process is not None and self.process.poll() is not None:
                    assert condition(), f"ended with {self.process.returncode}: {self.log[-2048:]}"
                    return
                await asyncio.sleep(0.02)

    async def ended(self, seconds: float = 20) -> int:
        """Wait for its end: the exit code as a kubelet counts it."""
        assert self.process is not None
        async with asyncio.timeout(seconds + self.target.patience):
            while (code := self.process.poll()) is None:
                await asyncio.sleep(0.02)
        return 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        assert self.process is not None
        self.process.send_signal(number)

    async def call(
        self, method: str, path: str, body: Any = None, *, seconds: float = 30, key: str = ""
    ) -> Answer:
        """One request on a connection of its own."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=seconds)
        begun = asyncio.get_running_loop().time()
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.request(method, self.url + path, json=body) as response,
        ):
            text = await response.text()
            return Answer(response.status, text, asyncio.get_running_loop().time() - begun)

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        """POST with JSON."""
        return await self.call("POST", path, body, **options)

    async def generate(self, body: Mapping[str, Any] = TOKENS, **options: Any) -> Answer:
        """POST /generate."""
        return await self.post("/generate", body, **options)

    def later(self, method: str, path: str, body: Any = None) -> "asyncio.Task[Answer]":
        """A request that goes on beside the test."""
        return asyncio.create_task(self.call(method, path, body, seconds=120))

    async def dropped(self, method: str, path: str, body: Any = None) -> bool:
        """Whether the engine closes the connection without an answer, or is gone already."""
        try:
            await self.call(method, path, body)
        except (aiohttp.ClientConnectionError, ConnectionError):
            return True
        return False

    async def versioned_info(self) -> dict[str, Any]:
        """What /model_info, or its older name, says."""
        path = "/model_info" if self.target.since("0.5.6") else "/get_model_info"
        answer = await self.get(path)
        assert answer.status == 200
        found: dict[str, Any] = answer.json
        return found


@functools.cache
def _zygote() -> Zygote:
    return Zygote()


async def waits(task: "asyncio.Task[Answer]", seconds: float = 0.5) -> bool:
    """Whether a request has no answer yet after this time."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done
