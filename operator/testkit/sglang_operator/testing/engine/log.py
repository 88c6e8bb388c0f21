"""The engine's log: on standard error, with the time in front, as SGLang writes it."""

import sys
import time


def line(text: str) -> None:
    """One message."""
    raw(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}")


def raw(text: str) -> None:
    """Text without a time: tracebacks and what other libraries print."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
