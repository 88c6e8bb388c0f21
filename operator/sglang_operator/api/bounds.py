"""How much of what trainers and engines say is kept: what they write stands in conditions of every
pod, in the status and in the operator's memory, and they are not trusted.

Standard library only: the trainer's client is built on it.
"""

import hashlib
import math
import re

MAX_LABEL = 512  # characters of a version, or of another name that a trainer gives
MAX_WORDS = 2048  # of a reason in somebody's own words
MAX_PATH = 4096  # Linux's PATH_MAX
MAX_TAGS = 16
INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_LAST_MOMENT = 253_402_300_799  # 9999-12-31T23:59:59Z; no later year has four digits
_DIGITS = 16
_MOST_DIGITS = 9
_MOST_LIST = 16_384  # characters
_REASON = re.compile(r"([A-Za-z][A-Za-z0-9_,:]{0,510}[A-Za-z0-9_]|[A-Za-z])?")  # metav1.Condition
_OTHER = re.compile(r"^[^A-Za-z]+|[^A-Za-z0-9_]+")


def label(text: str) -> str:
    """A version or a name, as it is kept: one that no client of ours would write gets a digest.

    So it stays another than every other, and the same wherever it comes from.
    """
    if len(text) <= MAX_LABEL and text.isprintable():
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"{printable(text[: MAX_LABEL - _DIGITS - 1])}…{digest}"


def words(text: str, most: int = MAX_WORDS) -> str:
    """A reason in somebody's own words, on one line, and cut."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return printable(text)


def integer(value: int | None) -> int | None:
    """A number as JSON's readers take it (int64); nothing for one that they do not."""
    return value if value is not None and -_INT64 <= value <= _INT64 else None


def count(text: str | None) -> int:
    """A number from 0 in digits; 0 for what is none, or has more digits than any that is used.

    Anybody who may edit pods may write anything, and int() of thousands of digits raises.
    """
    return int(text) if text and len(text) <= _MOST_DIGITS and text.isdecimal() else 0


def counts(text: str) -> tuple[int, ...]:
    """Numbers with commas between them; what is none is left out."""
    return tuple(count(part) for part in text[:_MOST_LIST].split(",") if part.isdecimal())


def number(value: float | None) -> float | None:
    """A number that JSON can write."""
    return value if value is not None and math.isfinite(value) else None


def reason(text: str) -> str:
    """A reason as a condition takes it: one word."""
    return text if _REASON.fullmatch(text) else _OTHER.sub("_", text[:MAX_LABEL]).strip("_")


def moment(seconds: float) -> float:
    """A time since the epoch that can be written as one; 0 for any other."""
    return seconds if 0 <= seconds <= _LAST_MOMENT else 0.0


def printable(text: str) -> str:
    """Without what a terminal would act on, a log take for a new line, or XML not allow."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)
