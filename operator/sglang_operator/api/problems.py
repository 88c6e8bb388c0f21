"""What a finding about a pool is, and how messages quote what they found.

The table of all findings is ``errors``; everybody imports these names from there.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum

_SECRET_NAME = re.compile(
    r"(?i)(^|[_.-])(TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|PAT)([_.-]|$)"
    r"|(^|[_.-])(API|ACCESS|SECRET|PRIVATE|AUTH|LICENSE|ENCRYPTION|SIGNING|ACCOUNT)[_.-]?KEY([_.-]|$)"
    r"|_KEY$"
)


def is_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return _SECRET_NAME.search(name) is not None


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
        return Problem(
            reason=self.reason,
            field=_cut(field, _FIELD_LENGTH),
            message=_cut(self.text.format(**values), _MESSAGE_LENGTH),
            severity=self.severity,
        )


# A name that somebody wrote may be as long as an object.
_FIELD_LENGTH = 512
_MESSAGE_LENGTH = 4096


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def error_row(reason: str, text: str, authority: str) -> Row:
    """A row that stops the pool."""
    return Row(reason=reason, text=text, authority=authority)


def warning_row(reason: str, text: str, authority: str) -> Row:
    """A row that is only told."""
    return Row(reason=reason, text=text, authority=authority, severity=Severity.WARNING)


_SHOWN_LENGTH = 80  # characters of a found value that a message quotes
_LOOKS_OTHERWISE = re.compile(r"[-+]?[0-9.]{1,20}(e[-+]?[0-9]{1,3})?|(?i:true|false|null|yes|no)")


def shown(value: object) -> str:
    """A found value as messages quote it: as YAML would have it, on one line, not too long."""
    text = value if isinstance(value, str) else _notation(value)
    line = "".join(char if char.isprintable() else " " for char in text)
    if not line.strip():
        return f'"{line[:_SHOWN_LENGTH]}"'
    return line if len(line) <= _SHOWN_LENGTH else line[: _SHOWN_LENGTH - 1] + "…"


def typed(value: object) -> str:
    """The same where the type is what is wrong: text that looks like something else is quoted."""
    if isinstance(value, str) and _LOOKS_OTHERWISE.fullmatch(value):
        return f'"{value}"'
    return shown(value)


def _notation(value: object) -> str:
    """JSON, which is YAML too, as far as it goes; then Python's notation."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"
