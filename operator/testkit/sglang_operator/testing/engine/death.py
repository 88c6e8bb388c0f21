"""How an engine ends: SGLang kills its own process tree, which is no exit code that one expects."""

import os
import signal
from typing import NoReturn

from sglang_operator.testing.engine import log

_LAUNCHING = "Received sigquit from a child process. It usually means the child failed."
_RUNNING = "SIGQUIT received. signum=None, frame=None. It usually means one child failed."


def kill_tree() -> NoReturn:
    """SIGKILL of itself: 137 for whoever waits; as PID 1 the kernel ignores it, and 0 follows.

    srt/utils/common.py, kill_process_tree: ``itself.kill(); sys.exit(0)``; both ends were seen
    (explanation/sglang.md, Ends).
    """
    try_kill()
    os._exit(0)


def try_kill() -> None:
    """SIGKILL of itself; returns only as PID 1."""
    pid = os.getpid()
    log.line(f"kill_process_tree called: parent_pid={pid}, include_parent=True, pid={pid}")
    os.kill(pid, signal.SIGKILL)


def scheduler_exited(last_words: str) -> None:
    """Log what a scheduler that exited said, and what its parent noticed (seen on 0.5.14)."""
    log.raw(last_words)
    log.line("Subprocess scheduler_0 crashed with exit code 1. Triggering SIGQUIT for cleanup...")
    log.line(_RUNNING)


def scheduler_failed(traceback: str, *, launching: bool) -> None:
    """Log what a scheduler says that ends with an exception, and its parent after it."""
    log.line(f"Scheduler hit an exception: {traceback}\n")
    log.line(_LAUNCHING if launching else _RUNNING)


def traceback(error: str, *frames: tuple[str, str]) -> str:
    """A Python traceback with this last line; frames are pairs of SGLang's file and function."""
    lines = ["Traceback (most recent call last):"]
    for file, function in frames:
        lines.append(f'  File "/sgl-workspace/sglang/python/sglang/{file}", in {function}')
    return "\n".join([*lines, error])
