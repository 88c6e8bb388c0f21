"""A value of the wrong type, in words: what was found, what was expected, what to do.

ROLL's loader is as strict as this: it takes no text for a number either, though it holds one.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum

from sglang_operator.api import errors

_TYPES = re.compile(r"Expected `(?P<expected>[^`]+)`, got `[^`]+`")
_LACKS = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_ENUM = re.compile(r"Invalid enum value .*", re.DOTALL)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "a map",
    "array": "a list",
}
_NUMBER = re.compile(r"\s*[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[-+]?[0-9]+\s*", re.ASCII)
_BOOLEANS = frozenset({"true", "false", "yes", "no", "on", "off"})


def problem(
    field: str, detail: str, raw: Mapping[str, object], choices: Mapping[str, type[Enum]]
) -> errors.Problem:
    """What ``detail``, msgspec's words about a field, means to whoever wrote it."""
    value = value_at(raw, field)
    whole = field.partition("[")[0]
    advice = f"correct it; kubectl explain sgi.spec.{whole} tells its form"
    path = f"spec.{field}"
    if lacks := _LACKS.fullmatch(detail):
        return errors.FIELD_TYPE(
            path, detail=f"the map lacks its required field {lacks['name']}", advice=advice
        )
    expected = _expected(detail, field, choices)
    if expected is None:
        return errors.FIELD_TYPE(path, detail=detail.replace("`", ""), advice=advice)
    found = errors.quoted(path, value, is_word="text" not in expected.split(" or "))
    told = f"found {found}, expected {expected}"
    return errors.FIELD_TYPE(path, detail=told, advice=_advice(value, expected) or advice)


def _expected(detail: str, field: str, choices: Mapping[str, type[Enum]]) -> str | None:
    if _ENUM.fullmatch(detail) and field in choices:
        return f"one of {', '.join(str(choice.value) for choice in choices[field])}"
    types = _TYPES.fullmatch(detail)
    names = types["expected"].split(" | ") if types else []
    words = [_WORDS.get(name, name) for name in names if name != "null"]
    return " or ".join(words) or None


def _advice(value: object, expected: str) -> str | None:
    """What to do, where it is plain."""
    if isinstance(value, str) and "${" in value:
        return "${...} is filled in by ROLL's config loader, not here: write the value itself"
    if expected == "text" and isinstance(value, (bool, int, float)):
        return "write it in quotes"
    pattern = {"a whole number": _WHOLE, "a number": _NUMBER}.get(expected)
    is_quoted = isinstance(value, str) and (
        (pattern is not None and pattern.fullmatch(value) is not None)
        or (expected == "true or false" and value.strip().lower() in _BOOLEANS)
    )
    return "write it without quotes" if is_quoted else None


def value_at(raw: Mapping[str, object], field: str) -> object:
    """What stands at a path such as ``extraArgs[1]``; None if it is not there."""
    found: object = raw
    for key in re.findall(r"[^.\[\]]+", field):
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, Sequence) and not isinstance(found, str) and key.isdecimal():
            found = found[int(key)] if int(key) < len(found) else None
        else:
            return None
    return found
