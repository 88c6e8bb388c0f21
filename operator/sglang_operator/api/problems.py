"""What a finding about a pool is, and how messages quote what they found.

The table of all findings is ``errors``; everybody imports these names from there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

from sglang_operator.api import bounds
from sglang_operator.api.redaction import (
    HIDDEN,
    is_a_key,
    is_secret,
    looks_like_a_key,
    without_keys,
    without_secrets,
)


class Severity(Enum):
    """An error stops the pool before any pod exists; a warning is only told."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One finding about one field, in words that a user can act on."""

    reason: str
    field: str
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidError(ValueError):
    """Raised where parsing cannot go on; carries the problem, or all of them."""

    def __init__(self, problem: Problem, *more: Problem) -> None:
        super().__init__("; ".join(map(str, (problem, *more))))
        self.problem = problem
        self.problems = (problem, *more)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; calling it with the field and the values makes the problem."""

    reason: str
    text: str
    authority: str
    severity: Severity = Severity.ERROR

    def __call__(self, field: str, /, **values: object) -> Problem:
        told = {name: _scrubbed(name, value, field) for name, value in values.items()}
        return Problem(
            reason=self.reason,
            field=_of_variables(field, _told(field, _place(field))),
            message=_cut(self.text.format(**told), _MESSAGE_LENGTH),
            severity=self.severity,
        )


# What a row takes of an object as it is; all else are our own words.
_WRITTEN = frozenset({"found", "key", "name", "image", "first", "second"})


def _scrubbed(name: str, value: object, field: str) -> object:
    if name in _WRITTEN and isinstance(value, str):
        return _of_variables(field, _told(value, "…"))
    return value


def _of_variables(field: str, text: str) -> str:
    """Of variables and Secrets the name may be the secret: who writes one swaps the two."""
    place = field[:_TOLD_LENGTH]
    return without_keys(text) if any(key in _CLOSED for key in _KEY.findall(place)) else text


def _place(field: str) -> str:
    """Where in a spec a field is, in our own words alone."""
    return ".".join(field.split(".", 2)[:2])


def _told(text: str, otherwise: str) -> str:
    """A name without secrets; of one that is too long for any, how it begins.

    A pool may have many, and each as long as an object: so much of it is never looked through.
    What is told ends before anything that only what follows shows to be a secret.
    """
    if len(text) <= _TOLD_LENGTH:
        return _scrubbed_text(text, otherwise)
    begins = _PLAIN.match(text, 0, _TOLD_LENGTH - 1)
    return _scrubbed_text(begins[0] if begins else "", otherwise) + "…"


# Characters that are looked through for secrets in all findings of a pool; some for each text.
_MOST_READ, _EACH = 16_384, 32
_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


@contextmanager
def sparing() -> Iterator[None]:
    """Findings that are made meanwhile quote so much of an object and no more.

    There may be one for each of a thousand keys, and all are made in one step of the loop.
    """
    token = _left.set([_MOST_READ])
    try:
        yield
    finally:
        _left.reset(token)


def _scrubbed_text(text: str, otherwise: str) -> str:
    """Text without secrets, or what is told where too much was quoted already."""
    left = _left.get()
    if left is None:
        return without_secrets(text)
    left[0] -= len(text) + _EACH
    return without_secrets(text) if left[0] >= 0 else otherwise


_TOLD_LENGTH = 512
_PLAIN = re.compile(r"[\w.\[\]/-]*+")
_MESSAGE_LENGTH = 4096


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def error_row(reason: str, text: str, authority: str) -> Row:
    """A row that stops the pool."""
    return Row(reason=reason, text=text, authority=authority)


def warning_row(reason: str, text: str, authority: str) -> Row:
    """A row that is only told."""
    return Row(reason=reason, text=text, authority=authority, severity=Severity.WARNING)


# --- how messages quote what they found, which may hold a secret

_SHOWN_LENGTH = 80  # characters of a found value that a message quotes
_READ_LENGTH = 512  # of which so many are looked through for secrets
_LOOKS_OTHERWISE = re.compile(r"[-+]?[0-9.]{1,20}(e[-+]?[0-9]{1,3})?|(?i:true|false|null|yes|no)")
# Fields whose values are variables or Secrets, whatever is written there.
_CLOSED = frozenset(
    {"env", "envFrom", "system_envs", "secret", "imagePullSecrets", "security", "stringData"}
)
_KEY = re.compile(r"[^.\[\]]+")
# What may be meant as a number or as one of a few words: a word, or some of letters or of digits.
_WORD_LENGTH = 32
_WORD = re.compile(r"\s*(\S+|([A-Za-z]+|[-+0-9.,_]+)(\s+([A-Za-z]+|[-+0-9.,_]+))*)\s*", re.ASCII)
_TYPES = {str: "text", bool: "true or false", type(None): "null"}


def quoted(where: str, value: object, *, is_word: bool = False) -> str:
    """A found value as a message about this place quotes it: where secrets stand, its type.

    ``is_word``: a number or a word is expected there (``word``).
    """
    if len(where) > _TOLD_LENGTH:
        return kind(value)  # a key in it is as long as an object
    *above, last = _KEY.findall(where) or [""]
    is_closed = last in _CLOSED or is_secret(last)
    is_closed |= any(key in _CLOSED or is_secret(key) for key in above)
    if is_closed and value != "":
        return kind(value)
    return word(value) if is_word else typed(value)


def kind(value: object) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return _TYPES.get(type(value), "a number")


def shown(value: object) -> str:
    """A found value as messages quote it: as YAML would have it, on one line, not too long."""
    text = _text(value) if isinstance(value, str) else _notation(value)
    line = bounds.printable(text)
    if not line.strip():
        return f'"{line[:_SHOWN_LENGTH]}"'
    return _cut(line, _SHOWN_LENGTH)


def typed(value: object) -> str:
    """The same where the type is what is wrong: text that looks like something else is quoted.

    Of text that looks like a key its type is told: it was meant for another place.
    """
    if isinstance(value, str):
        bare = value.strip().lstrip("+-")[:_READ_LENGTH]
        if looks_like_a_key(bare) or is_a_key(bare):
            return kind(value)
    if isinstance(value, str) and _LOOKS_OTHERWISE.fullmatch(value):
        return f'"{value}"'
    return shown(value)


def word(value: object) -> str:
    """The same where a number, or one of a few words, is expected.

    Text that cannot be meant as one was meant for another place, and nothing of it is told.
    """
    is_meant = not isinstance(value, str) or (
        len(value) <= _WORD_LENGTH and (not value.strip() or _WORD.fullmatch(value) is not None)
    )
    return typed(value) if is_meant else kind(value)


def _text(text: str) -> str:
    """Text without secrets; JSON as text, or what was meant as JSON, may hold one anywhere."""
    text = text[:_READ_LENGTH]
    inner = text.lstrip(" \t\r\n'\"")
    if inner[:1] in ("{", "[") and any(mark in inner for mark in ":\"'"):
        return f"text that begins with {inner[0]}"
    return _scrubbed_text(text, "…")


def _notation(value: object) -> str:
    """JSON, which is YAML too, as far as it goes; then Python's notation."""
    try:
        return json.dumps(_open(value))
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"


def _open(value: object) -> object:
    """A value of lists and maps with everything hidden that stands under a secret's name."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_open(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_variable = is_secret(str(value.get("name", "")))
    return {
        _text(key) if isinstance(key, str) else key: HIDDEN
        if key in _CLOSED or is_secret(str(key)) or (is_variable and key != "name")
        else _open(item)
        for key, item in value.items()
    }
