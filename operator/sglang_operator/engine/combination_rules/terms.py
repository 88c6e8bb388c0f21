"""Rules that are a few terms which hold at once, written as text.

``a`` says that a is set, ``!a`` that it is not; ``a=x|y`` that it is one of these, ``a!=x|y`` that
it is none; ``a>1``, ``a<1`` and ``a<=0`` compare numbers.  What nobody sets and has no default is
not set, none of these and no number.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sglang_operator.engine.combination_rules.base import Rule, Settings, number

_TERM = re.compile(r"(?P<not>!?)(?P<field>\w+)(?:(?P<sign>!=|<=|[=<>])(?P<value>\S+))?")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One condition on one field."""

    field: str
    sign: str  # one of = != < <= >, or "" and "!" for set and not set
    values: tuple[str, ...]

    def holds(self, s: Settings) -> bool:
        """Whether the settings meet it."""
        return _HOLDS[self.sign](s[self.field], self.values)


def _among(value: object, values: tuple[str, ...]) -> bool:
    return str(value) in values


def _less(value: object, values: tuple[str, ...]) -> bool:
    found = number(value)
    return found is not None and found < float(values[0])


def _larger(value: object, values: tuple[str, ...]) -> bool:
    found = number(value)
    return found is not None and found > float(values[0])


_HOLDS: Mapping[str, Callable[[object, tuple[str, ...]], bool]] = {
    "": lambda value, values: bool(value),
    "!": lambda value, values: not value,
    "=": _among,
    "!=": lambda value, values: not _among(value, values),
    "<": _less,
    "<=": lambda value, values: number(value) is not None and not _larger(value, values),
    ">": _larger,
}


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a rule."""
    found = [match for word in text.split() if (match := _TERM.fullmatch(word))]
    return tuple(
        Term(
            field=match["field"],
            sign=match["not"] or match["sign"] or "",
            values=tuple((match["value"] or "").split("|")),
        )
        for match in found
    )


def rule(text: str, expected: str, advice: str) -> Rule:
    """The rule that these terms do not all hold."""
    terms = parse(text)
    return Rule(
        reads=tuple(dict.fromkeys(term.field for term in terms)),
        broken=lambda s: all(term.holds(s) for term in terms),
        expected=expected,
        advice=advice,
    )
