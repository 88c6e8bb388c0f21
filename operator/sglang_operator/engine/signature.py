"""One row of the tables of what engines say at their end."""

import re
from dataclasses import dataclass

MORE_SHM = (
    "mount an emptyDir at /dev/shm in podTemplate, with medium: Memory and a larger sizeLimit, "
    "which takes the place of the operator's; the memory limit has to hold it"
)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A text that SGLang, PyTorch or transformers writes; groups of the pattern fill the texts.

    ``{fraction}`` and ``{limit}`` are the pool's mem_fraction_static and memory limit, in brackets;
    ``{key}`` is the name of a field, where the pattern has a ``flag``; ``{error}`` is the last
    exception in the text.
    """

    reason: str
    pattern: re.Pattern[str]
    message: str
    advice: str


def signature(reason: str, pattern: str, message: str, advice: str) -> Signature:
    return Signature(
        reason=reason,
        pattern=re.compile(pattern, re.MULTILINE),
        message=message,
        advice=advice,
    )
