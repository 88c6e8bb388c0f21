"""One row of the tables of what engines say at their end."""

import re
from dataclasses import dataclass

from sglang_operator.api.patterns import Pattern

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

    What is searched is anybody's text.  So a pattern begins with a word of its own, or at the
    beginning of a line or word, and what may stand between its words is bounded.
    """

    reason: str
    pattern: Pattern
    message: str
    advice: str
    # One of these is in every text that matches, in small letters; for patterns that are slow to
    # find out that nothing does, as those are that ignore case.
    words: tuple[str, ...] = ()

    def found_in(self, text: str, lowered: str) -> re.Match[str] | None:
        """The match in a text, which is given in small letters too."""
        if self.words and not any(word in lowered for word in self.words):
            return None
        return self.pattern.search(text)


def signature(
    reason: str, pattern: str, message: str, advice: str, *, words: tuple[str, ...] = ()
) -> Signature:
    return Signature(
        reason=reason,
        pattern=Pattern(pattern, re.MULTILINE),
        message=message,
        advice=advice,
        words=words,
    )
