"""What the flows of several trainers have in common: groups of a trainer, and a router."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sglang_operator.testing.engine import rendezvous, weights

NAMES = list(weights.names(2))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """All of these in threads of their own; their results, or the first one's error."""
    found: list[Any] = [None] * len(calls)

    def one(index: int) -> None:
        try:
            found[index] = calls[index]()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "no answer for a minute"
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


@contextlib.contextmanager
def group(gpus: Sequence[int]) -> Iterator[tuple[rendezvous.Trainer, list[int]]]:
    """Rank 0 of a trainer over engines of so many GPUs, and the rank at which each begins."""
    offsets = [1 + sum(gpus[:index]) for index in range(len(gpus))]
    with rendezvous.Trainer(1 + sum(gpus)) as trainer:
        yield trainer, offsets


@contextlib.contextmanager
def router() -> Iterator[tuple[str, int]]:
    """sglang_router itself, on the loopback."""
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "sglang_router.launch_router", "--host=127.0.0.1"]
    command += [f"--port={port}", "--prometheus-host=127.0.0.1", f"--prometheus-port={metrics}"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}/workers"):
            assert process.poll() is None and time.monotonic() < deadline, "no router came up"
            time.sleep(0.1)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(30)


def workers(address: tuple[str, int], count: int) -> list[str]:
    """The URLs that the router knows, once there are so many: it takes them in by and by."""
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen("http://{}:{}/workers".format(*address), timeout=10) as answer:
            found = [each["url"] for each in json.load(answer)["workers"]]
        if len(found) >= count or time.monotonic() > deadline:
            return sorted(found)
        time.sleep(0.1)


def post(url: str, body: object) -> None:
    """Raises HTTPError for what is refused."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=30).close()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


def version_of(url: str) -> str:
    """The weight version that an engine names, by which a gate Versioned opens."""
    with urllib.request.urlopen(f"{url}/model_info", timeout=10) as answer:
        return str(json.load(answer)["weight_version"])
