"""How large a model is, as far as its name tells, and how long an engine may take to load it."""

import re

# 8B, 30B-A3B (30 of which 3 are active), 0.6B, 8x7B; not the A3B, nor a 32BIT.
_SIZE = re.compile(
    r"(?<![A-Za-z0-9.])(?:(?P<experts>[0-9]{1,3})x)?(?P<billions>[0-9]{1,4}(?:\.[0-9]{1,3})?)B"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
BYTES_PER_PARAMETER = 2  # bfloat16; a quantised model is smaller, and has more time than it needs
# A file system that all engines of a pool read at once: slow on purpose.
BYTES_PER_SECOND = 100e6
# Starting, compiling and capturing graphs: 140 s were measured, cold, for a small model.
BASE_SECONDS = 600
# SGLang's own limit: for so long the pods of one engine may load apart
# (UNBALANCED_MODEL_LOADING_TIMEOUT_S, in the code of every version).
LOADING_APART_SECONDS = 480
DEFAULT_SECONDS = 1800  # where nothing is known, and at least


def parameters(model: str) -> float | None:
    """Parameters by the last part of a model's name or path that tells them; None: none does."""
    for part in reversed(model.rstrip("/").split("/")):
        found = [
            float(match["billions"]) * int(match["experts"] or 1) * 1e9
            for match in _SIZE.finditer(part)
        ]
        if found:
            return max(found)
    return None


def startup_seconds(model: str, load_format: str) -> int:
    """How long an engine may take from its container's start to its first healthy answer."""
    count = None if load_format == "dummy" else parameters(model)
    if count is None:
        return DEFAULT_SECONDS
    reading = count * BYTES_PER_PARAMETER / BYTES_PER_SECOND
    return max(DEFAULT_SECONDS, round(BASE_SECONDS + reading))
