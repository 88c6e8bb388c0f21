"""Why an engine ended, from what Kubernetes kept of it (explanation/sglang.md, Ends).

The termination message is the end of the log (``FallbackToLogsOnError``, 2048 bytes).  SGLang
that dies of a child's failure kills itself, so the exit code says little: 137 looks like a lack
of memory, and 0 is no success.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sglang_operator.api import bounds, redaction
from sglang_operator.api.patterns import Pattern
from sglang_operator.engine import endings, node_ends, signatures
from sglang_operator.engine.signature_row import Signature

_MESSAGE_LENGTH = 300  # characters
_LOOKED_AT = 1024  # of which so many are looked through for secrets

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
        "kubectl sglang logs: SGLang exits with 0 after some crashes too",
    ),
    137: (
        KILLED,
        "the engine was killed (exit code 137), and not for its memory limit",
        "kubectl sglang logs and the pod's events: the kubelet kills for probes, SGLang kills "
        "itself when a child fails, the kernel kills when the whole node lacks memory",
    ),
    126: (
        FAILED,
        "the engine's command could not be run (exit code 126)",
        "use an image of SGLang in spec.image",
    ),
    127: (
        FAILED,
        "the image holds no python3 (exit code 127)",
        "use an image of SGLang in spec.image",
    ),
    132: (
        node_ends.CPU_UNSUPPORTED,
        "the node's CPU lacks an instruction that the image uses (exit code 132)",
        "use nodes with a newer CPU, or an image built for this one",
    ),
    135: (
        endings.SHARED_MEMORY,
        "the engine got a bus error (exit code 135): /dev/shm is likely too small",
        signatures.MORE_SHM,
    ),
    139: (
        node_ends.SEGMENTATION_FAULT,
        "the engine crashed in native code (exit code 139)",
        "try another SGLang version or attention_backend",
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
    return read(message).diagnosis(exit_code, reason, numbers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a text says, whoever reads it: what of it depends on a pool is put in later."""

    signature: Signature | None = None
    found: Mapping[str, str] = field(default_factory=dict)
    last_words: str = ""

    def diagnosis(
        self, exit_code: int | None, reason: str | None, numbers: Numbers | None = None
    ) -> Diagnosis:
        """What the engine died of that wrote this."""
        known = _known(numbers or Numbers())
        if reason == signatures.OUT_OF_HOST_MEMORY:
            return Diagnosis(
                reason=reason,
                message="the kernel killed the engine: its pod reached its memory limit",
                advice=signatures.MORE_MEMORY.format(**known),
            )
        if self.signature is None:
            return _by_exit_code(self.last_words, exit_code)
        told = {**self.found, **known}
        return Diagnosis(
            reason=self.signature.reason,
            message=line(self.signature.message.format(**told)),
            advice=line(self.signature.advice.format(**told)),
        )


def read(message: str) -> Reading:
    """Look for what is known in the last words of an engine, once for each end: it takes long."""
    text = bounded(redaction.in_words(_ends(message, _LONGEST + 2 * redaction.MARGIN)))
    last = last_words(text)
    if others := _by_other_process(text):
        return Reading(signature=_OTHER_PROCESS, found=others, last_words=last)
    lowered = text.lower()
    for signature in signatures.SIGNATURES:
        if match := signature.found_in(text, lowered):
            found = _filled(match, text, last)
            return Reading(signature=signature, found=found, last_words=last)
    return Reading(last_words=last)


# What an engine writes at its end is its user's text: what patterns are tried on has a bound, and
# so have its words, for those that begin with any word.  Kubelets keep no more than this.
_LONGEST = 4096
_LONG_WORD = Pattern(r"(?<!\S)(\S{256})\S+")


def bounded(text: str) -> str:
    """As patterns may be tried on it: of a longer one the beginning and the end."""
    return _LONG_WORD.sub(r"\1…", _ends(text, _LONGEST))


def _ends(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2 - 1
    return f"{text[:half]}\n…{text[-half:]}"


_FULL = Pattern(
    r"CUDA out of memory\. Tried to allocate (?P<wanted>[\d.]+ \w+)\. GPU (?P<gpu>\d+) has a total "
    r"capacity of (?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free\.(?P<rest>[^\n]*)"
)
_OTHER = Pattern(r"Process \d+ has ([\d.]+ \w+) memory in use")
_OWN = Pattern(r"this process has ([\d.]+ \w+) memory in use")
_UNITS = {"bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
# A CUDA context of a helper process is smaller than this part of a GPU.
_MUCH = 0.1


_OTHER_PROCESS = Signature(
    reason=signatures.GPU_SHARED,
    pattern=_FULL,
    message=signatures.OTHER_PROCESS,
    advice=signatures.OTHER_PROCESS_ADVICE,
)


def _by_other_process(message: str) -> Mapping[str, str] | None:
    """A GPU that somebody else fills: no number of the engine's own would help."""
    full = _FULL.search(message)
    if full is None:
        return None
    total, free = _size(full["total"]), _size(full["free"])
    others = sum(_size(found) for found in _OTHER.findall(full["rest"]))
    own = _OWN.search(full["rest"])
    if own is not None and not others:
        others = total - free - _size(own[1])
    if others < _MUCH * total:
        return None
    return {**full.groupdict(), "other": f"{others / _UNITS['GiB']:.2f} GiB"}


def _size(text: str) -> float:
    """As PyTorch writes sizes: ``896.00 MiB``."""
    number, _, unit = text.partition(" ")
    try:
        return float(number) * _UNITS.get(unit, 1.0)
    except ValueError:
        return 0.0


def _known(numbers: Numbers) -> dict[str, str]:
    """As the texts take them: in brackets, or nothing."""
    return {
        "fraction": f" (now {numbers.mem_fraction_static})" if numbers.mem_fraction_static else "",
        "limit": f" (now {numbers.memory_limit})" if numbers.memory_limit else "",
    }


def _filled(match: re.Match[str], message: str, last: str) -> Mapping[str, str]:
    found: dict[str, str] = {name: text or "" for name, text in match.groupdict().items()}
    found["key"] = _key(found.get("flag", ""))
    found["error"] = _last_error(message)
    found["because"] = f": {last}" if last else ""
    return found


def _by_exit_code(last: str, exit_code: int | None) -> Diagnosis:
    if exit_code is not None and exit_code in _ENDS:
        reason, text, advice = _ENDS[exit_code]
    else:
        reason, advice = FAILED, "kubectl sglang logs shows what came before its end"
        text = "the engine failed" + ("" if exit_code is None else f" (exit code {exit_code})")
    return Diagnosis(
        reason=reason, message=line(f"{text}: {last}" if last else text), advice=advice
    )


def _key(flag: str) -> str:
    """The ServerArgs field behind a flag: of ``--a-b/--c`` the last, of ``--a-b=1`` the name."""
    key = flag.rpartition("/")[2].partition("=")[0].lstrip("-").replace("-", "_")
    return _FIELDS.get(key, key)


# Where SGLang's own code calls the value of a field otherwise.
_FIELDS = {"model_override_args": "json_model_override_args"}


_PREFIX = Pattern(r"^(?:\[[^\]\n]*\]:? ?)+|^(?:ERROR|CRITICAL):\s+")
_ERROR = Pattern(
    r"^(?:\[[^\]\n]*\]:? ?)*((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit"
    r"|OutOfResources|Timeout|NotFound)(?::.*)?)$",
    re.MULTILINE,
)
# What follows an end, and says nothing of its cause.
_NOISE = Pattern(
    r"resource_tracker|kill_process_tree|[Rr]eceived sigquit|SIGQUIT received|leaked \w+ objects"
    r"|warnings\.warn|^Traceback \(|^ *File \"|^ *[\^~]+ *$|^Killed$|^Fatal Python error: Aborted"
    r"|destroy_process_group|It usually means the child failed|Rank \d+ scheduler (?:is dead|died)"
    r"|Please check if there are relevant logs|terminate called|Stopping the reloader"
    r"|(?:Waiting for|Finished) (?:application|server)|Shutting down",
)
# Exceptions that only tell that another process has gone.
_ECHO = Pattern(
    r"(?:EOFError|KeyboardInterrupt|SystemExit|BrokenPipeError|ConnectionResetError"
    r"|\S*CancelledError)\b|RuntimeError: Rank \d+ scheduler"
)


def _last_error(message: str) -> str:
    """The last exception in a log that is a cause, else the last line that tells anything."""
    found: list[str] = _ERROR.findall(message)
    causes = [error for error in found if not _ECHO.match(error)]
    if causes or found:
        return (causes or found)[-1]
    return _last_line(message) or "no message"


# SGLang logs all its arguments in one line, keys in clear: however much of it is left, it is no
# reason for an end, and does not belong into anybody's status.
_ARGUMENTS = Pattern(r"(?:\b\w+=[^=]*){6}")


def _last_line(message: str) -> str:
    for line in reversed(message.splitlines()):
        told = line.strip()
        if told and not _ARGUMENTS.search(told) and not _NOISE.search(told):
            return _PREFIX.sub("", told)
    return ""


def last_words(message: str) -> str:
    """The last exception in a log, or its last line; empty if it says nothing."""
    found = _last_error(bounded(message))
    return "" if found == "no message" else found


def line(text: str) -> str:
    """On one line, without secrets and what a terminal would obey, and not too long."""
    line = " ".join(bounds.printable(text[:_LOOKED_AT]).split())
    line = redaction.in_clusters_words(line)
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"
