"""The moments of an engine's start, seen from outside, and a server without Kubernetes."""

import contextlib
import itertools
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing import errors

POLL_SECONDS = 0.05
# In their order.  "ready" is the pool's condition, "noticed" the kubelet's of the containers.
MOMENTS = ("asked", "pod", "container", "listening", "healthy", "noticed", "ready")
OPERATORS = (("asked", "pod"), ("noticed", "ready"))  # what the operator itself takes

Seen = Callable[[], bool]


def follow(looks: Mapping[str, Seen], seconds: float, begun: float) -> dict[str, float]:
    """Seconds from ``begun`` to the first time that each look was true, in their order."""
    found: dict[str, float] = {}
    left = dict(looks)
    while left:
        if time.monotonic() - begun > seconds:
            raise errors.WaitTimeoutError(f"after {seconds:g} s: not yet {', '.join(left)}")
        for name in list(left):
            if not left[name]():
                break  # what is later cannot be yet
            found[name] = round(time.monotonic() - begun, 3)
            del left[name]
        time.sleep(POLL_SECONDS)
    return found


def seen(looks: Mapping[str, Seen], seconds: float, begun: float) -> dict[str, float]:
    """Seconds from ``begun`` to the first time that each look was true, in whatever order."""
    found: dict[str, float] = {}
    while left := [name for name in looks if name not in found]:
        if time.monotonic() - begun > seconds:
            raise errors.WaitTimeoutError(f"after {seconds:g} s: not yet {', '.join(left)}")
        for name in left:
            if looks[name]():
                found[name] = round(time.monotonic() - begun, 3)
        time.sleep(POLL_SECONDS)
    return found


def laps(moments: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each moment to the next, under the name of the next."""
    return {
        later: round(moments[later] - moments[sooner], 3)
        for sooner, later in itertools.pairwise(name for name in MOMENTS if name in moments)
    }


def own(moments: Mapping[str, float]) -> float:
    """The seconds of a start in which everybody waited for the operator."""
    return round(sum(moments[later] - moments[sooner] for sooner, later in OPERATORS), 3)


def answers(url: str) -> int:
    """The status that something at this address answers with; 0 while nothing does."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def argument(argv: Sequence[str], **changes: str) -> list[str]:
    """A command line with other values of some flags."""
    flags = {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
    kept = [each for each in argv if each.partition("=")[0] not in flags]
    return [*kept, *(f"{flag}={value}" for flag, value in flags.items())]


def environment(pid: int) -> dict[str, str]:
    """The environment of a process."""
    said = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (line.decode(errors="replace").partition("=") for line in said if b"=" in line)
    return {key: value for key, _, value in pairs}


@contextlib.contextmanager
def bare(argv: Sequence[str], variables: Mapping[str, str], log: Path) -> Any:
    """The server as a process of its own; ended with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env=dict(variables),
            cwd="/",
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
