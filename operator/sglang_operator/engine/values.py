"""Values of ``strategy_config`` as command line tokens (explanation/roll.md, rule 5).

Where the version's schema has the argument, ``tokens`` goes by its action; else by the value's
type alone: ``True`` is a bare flag, a list is a flag and its items, a map is JSON, the rest is
``--flag=value``, which is safe for values that begin with a dash.  ``problem`` says first whether
a value has such a form.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping

from sglang_operator.api import errors
from sglang_operator.engine import aliases
from sglang_operator.engine.schema import Argument

_MAX_DEPTH = 32  # levels of lists and maps in one value
_MAX_INTEGER = 2**63

# What the kubelet replaces in a text (Kubernetes' third_party/forked/golang/expansion).
_EXPANDED = re.compile(r"\$\$|\$\([^)]*\)")

# What a value should have been, and what to do about it.
_Fault = tuple[str, str]


def literal(text: str) -> str:
    """The text so that the kubelet leaves it alone.

    In arguments and in values of the environment Kubernetes replaces ``$(NAME)``, and ``$$`` by
    ``$``; so each ``$`` is doubled, which is what it takes for all texts to come out as they were.
    """
    return text.replace("$", "$$")


def argument_tokens(argument: Argument, value: object) -> tuple[str, ...]:
    """The tokens of an argument that the version's schema has."""
    if argument.action == "boolean_optional" and value is False:
        return (argument.negated,)
    if argument.is_json and isinstance(value, (list, tuple)):
        return (f"{argument.flag}={literal(_json(value))}",)
    if argument.action == "lora_paths" and isinstance(value, Mapping):
        return tokens(argument.flag, [f"{name}={path}" for name, path in value.items()])
    return tokens(argument.flag, value)


def tokens(flag: str, value: object) -> tuple[str, ...]:
    """One argument's tokens; nothing for false, null and empty lists.

    ``value`` is one that ``problem`` has nothing to say about.
    """
    match value:
        case None | False:
            return ()
        case True:
            return (flag,)
        case list() | tuple():
            return (flag, *(literal(_text(item)) for item in value)) if value else ()
        case _:
            return (f"{flag}={literal(_text(value))}",)


def problem(field: str, key: str, value: object, *, as_json: bool = False) -> errors.Problem | None:
    """Why a value cannot stand on a command line, if it cannot; ``as_json`` lists are one value."""
    if unresolved(value):
        return errors.UNRESOLVED(field, found=aliases.shown(key, value))
    fault = _json_fault(value) if as_json and isinstance(value, (list, tuple)) else _fault(value)
    if fault is None:
        return None
    expected, advice = fault
    return errors.ARGUMENT_FORM(
        field, key=key, found=aliases.shown(key, value), expected=expected, advice=advice
    )


def unresolved(value: object) -> bool:
    """Whether a ``${...}`` of ROLL's config loader is left anywhere in a value."""
    return any(isinstance(leaf, str) and "${" in leaf for leaf in _leaves(value))


def text_fault(text: str) -> _Fault | None:
    """What is wrong with a text as a single argument of a process."""
    if any(char in text for char in "\0\n\r"):
        return "text on one line", "remove the line breaks and NUL characters"
    if not _encodable(text):
        return "text in UTF-8", "write the characters themselves"
    return None


def expansion_fault(text: str) -> _Fault | None:
    """What is wrong with an argument that is not made literal: a variable's value in its place.

    The kubelet puts it there after every check, so that it could be any argument, one that the
    operator must know among them.
    """
    found = next((match for match in _EXPANDED.finditer(text) if match[0] != "$$"), None)
    if found is None:
        return None
    expected = f"an argument without {errors.shown(found[0])}, which the kubelet would replace"
    return expected, "write the value itself, or $$( for a dollar sign before a parenthesis"


def _encodable(text: str) -> bool:
    """Whether the text holds no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _leaves(value: object) -> Iterator[object]:
    """Everything in a value that is no list or map, keys of maps included; without recursion."""
    waiting = [value]
    while waiting:
        top = waiting.pop()
        if isinstance(top, Mapping):
            waiting += [*top.keys(), *top.values()]
        elif isinstance(top, (list, tuple)):
            waiting += top
        else:
            yield top


def _fault(value: object) -> _Fault | None:
    if isinstance(value, Mapping):
        return _json_fault(value)
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_item_fault, value)), None)
    return _scalar_fault(value)


def _scalar_fault(value: object) -> _Fault | None:
    match value:
        case None | bool():
            return None
        case int() | float():
            return number_fault(value)
        case str():
            if value.lower() in ("true", "false"):
                return "true or false", "write it without quotes"
            return text_fault(value)
    return "a string, a number, true, false, a list or a map", "correct it"


def number_fault(value: float) -> _Fault | None:
    """What is wrong with a number outside Python."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number", "correct it"
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        return "a number of 64 bits", "correct it"
    return None


def _item_fault(item: object) -> _Fault | None:
    """Items stand alone, so that argparse takes one with a leading dash for another flag."""
    if isinstance(item, Mapping):
        return _json_fault(item)
    if isinstance(item, (list, tuple, bool)) or item is None:
        return "a list of strings, numbers or maps", "correct its items"
    if isinstance(item, str):
        if item.startswith("-"):
            return "a list whose items do not begin with a dash", "use extraArgs for such an item"
        return text_fault(item)
    return _scalar_fault(item)


def _json_fault(value: object) -> _Fault | None:
    if _depth_exceeds(value, _MAX_DEPTH):
        return f"a map of at most {_MAX_DEPTH} levels", "correct it"
    if not all(isinstance(key, str) for key in _keys(value)):
        return "a map whose keys are strings", "write the keys with quotes"
    for leaf in _leaves(value):
        if isinstance(leaf, (int, float)) and (fault := number_fault(leaf)):
            return fault
        if not isinstance(leaf, (str, int, float, type(None))):
            return "a map of strings, numbers, true, false, lists and maps", "correct it"
    return None


def _keys(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        top = waiting.pop()
        if isinstance(top, Mapping):
            yield from top
            waiting += top.values()
        elif isinstance(top, (list, tuple)):
            waiting += top


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else []


def _text(value: object) -> str:
    """One value as text; whole floats as integers, since YAML's 8.0 may arrive as 8."""
    if isinstance(value, Mapping):
        return _json(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_INTEGER:
        return str(int(value))
    return str(value)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
