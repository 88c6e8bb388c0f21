"""Why an engine ended, from what Kubernetes kept of it (rl-semantics.md §3.6).

The termination message is the end of the log (``FallbackToLogsOnError``, 2048 bytes).  SGLang
that dies of a child's failure kills itself, so the exit code says little: 137 looks like a lack
of memory, and 0 is no success.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.engine import signatures

_MESSAGE_LENGTH = 300  # characters

EXITED = "EngineExited"
KILLED = "EngineKilled"
TERMINATED = "EngineTerminated"
FAILED = "EngineFailed"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What happened, in one line, and what to do about it in one more."""

    reason: str
    message: str
    advice: str


# By exit code, where the text says nothing.
_ENDS: Mapping[int, tuple[str, str, str]] = {
    0: (
        EXITED,
        "the engine exited with code 0",
        "read the engine's log: SGLang exits with 0 after some crashes too",
    ),
    137: (
        KILLED,
        "the engine was killed (exit code 137)",
        "read the engine's log and the pod's events: the kubelet kills for probes, SGLang kills "
        "itself when a child fails",
    ),
    143: (
        TERMINATED,
        "the engine ended on SIGTERM (exit code 143)",
        "look for who deleted or evicted the pod",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The pool's own numbers, for advice; empty where the user gave none."""

    mem_fraction_static: str = ""
    memory_limit: str = ""


def diagnose(
    message: str, exit_code: int | None, reason: str | None, numbers: Numbers | None = None
) -> Diagnosis:
    """What an engine died of: by the kubelet's reason, then the text, then the exit code.

    ``message`` is the termination message, ``reason`` the kubelet's word for the end of the
    container; either may be empty.
    """
    known = _known(numbers or Numbers())
    if reason == signatures.OUT_OF_HOST_MEMORY:
        return Diagnosis(
            reason=reason,
            message="the kernel killed the engine: its pod reached its memory limit",
            advice=signatures.MORE_MEMORY.format(**known),
        )
    for signature in signatures.SIGNATURES:
        if match := signature.pattern.search(message):
            return _filled(signature, match, message, known)
    return _by_exit_code(message, exit_code)


def _known(numbers: Numbers) -> dict[str, str]:
    """As the texts take them: in brackets, or nothing."""
    return {
        "fraction": f" (now {numbers.mem_fraction_static})" if numbers.mem_fraction_static else "",
        "limit": f" (now {numbers.memory_limit})" if numbers.memory_limit else "",
    }


def _filled(
    signature: signatures.Signature, match: re.Match[str], message: str, known: Mapping[str, str]
) -> Diagnosis:
    found: dict[str, str] = {name: text or "" for name, text in match.groupdict().items()}
    found.update(known)
    found["key"] = _key(found.get("flag", ""))
    found["error"] = _last_error(message)
    return Diagnosis(
        reason=signature.reason,
        message=line(signature.message.format(**found)),
        advice=line(signature.advice.format(**found)),
    )


def _by_exit_code(message: str, exit_code: int | None) -> Diagnosis:
    if exit_code is not None and exit_code in _ENDS:
        reason, text, advice = _ENDS[exit_code]
    else:
        reason, advice = FAILED, "read the engine's log"
        text = "the engine failed" + ("" if exit_code is None else f" (exit code {exit_code})")
    last = last_words(message)
    return Diagnosis(
        reason=reason, message=line(f"{text}: {last}" if last else text), advice=advice
    )


def _key(flag: str) -> str:
    """The ServerArgs field behind a flag: of ``--a-b/--c`` the last, of ``--a-b=1`` the name."""
    return flag.rpartition("/")[2].partition("=")[0].lstrip("-").replace("-", "_")


_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception)(?::.*)?$", re.MULTILINE)


def _last_error(message: str) -> str:
    """The last exception in a log, or the last line if it holds none."""
    found = _ERROR.findall(message)
    return found[-1] if found else _last_line(message)


_TIME = re.compile(r"^\[[0-9][^\]]*\] *")


# SGLang logs all its arguments in one line, keys in clear: however much of it is left, it is no
# reason for an end, and does not belong into anybody's status.
_ARGUMENTS = re.compile(r"(?:\b\w+=[^=]*){6}")


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not _ARGUMENTS.search(line)]
    return _TIME.sub("", telling[-1]) if telling else "no message"


def last_words(message: str) -> str:
    """The last exception in a log, or its last line; empty if it says nothing."""
    return _last_error(message) if message.strip() else ""


def line(text: str) -> str:
    """On one line, without what a terminal would obey, and not too long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"
