"""``extraArgs``: each item is one argument, as SGLang's parser (argparse) sees it.

What is refused here ends every engine at its start, with the item in its last words: an item that
holds a flag with its value is no flag to argparse, but text that nobody asked for.  Of an item no
more than the name of a flag is ever told: what stands after it may be a secret.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from sglang_operator.api import errors
from sglang_operator.engine import aliases, ownership, schema, values

_FIELD = "spec.extraArgs"
_SHORTEST_PREFIX = 2  # "--tp"
_LONGEST_NAME = 80
# A flag, also with what slips in before it: spaces, a shell's quotes, a word processor's dashes.
_FLAG = re.compile(
    "(?P<before>[\\s\"'`]*)(?P<dashes>[-\u2010-\u2015\u2212]{1,2})"
    f"(?P<name>[A-Za-z][\\w.-]{{0,{_LONGEST_NAME}}})(?P<after>.?)",
    re.DOTALL,
)
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # which argparse takes for a value
_HELP = ("help", "hel", "he")
_VALUELESS = ("store_true", "store_const", "boolean_optional")

Fault = tuple[str, str, str]  # what was found, what was expected, what to do


def check(items: Sequence[str], known: schema.Schema, exact: bool) -> Iterator[errors.Problem]:
    """What is wrong with the items, each once.

    ``exact``: the schema is the engine's own version's, so that it says which flags have no value.
    """
    waits = False  # whether a value may follow
    for index, item in enumerate(items):
        field = f"{_FIELD}[{index}]"
        flag = _FLAG.match(item)
        is_alone = exact and flag is not None and _is_alone(flag["name"], known)
        owned = owned_key(flag["name"]) if flag else None
        if flag is not None and owned is not None:
            yield errors.EXTRA_ARGUMENT_OWNED(
                field, found=f"--{flag['name']}", key=owned, advice=ownership.DECIDES_BY[owned]
            )
        elif fault := _unwritable(item, flag) or _misread(item, flag, waits, is_alone):
            found, expected, advice = fault
            yield errors.FIELD_RANGE(field, found=found, expected=expected, advice=advice)
        if item.startswith("-") and not _is_value(item):
            waits = "=" not in item and not is_alone


def owned_key(name: str) -> str | None:
    """What the operator decides by, under this name of a flag.

    The last of two equal flags wins, so ``--load-format=dummy`` there would start engines with
    random weights behind an open gate.  argparse also takes unique beginnings of flags.
    """
    key = aliases.canonical(name)
    if key in ownership.DECIDES_BY:
        return key
    return _beginnings().get(key)


@functools.cache
def _beginnings() -> Mapping[str, str]:
    """What the operator decides by, under each beginning of each of its names."""
    spellings = {**{each: each for each in ownership.DECIDES_BY}, **aliases.ALIASES}
    owned = ((each, key) for each, key in spellings.items() if key in ownership.DECIDES_BY)
    found: dict[str, str] = {}
    for each, key in sorted(owned, key=lambda pair: pair[1], reverse=True):
        found |= dict.fromkeys((each[:n] for n in range(_SHORTEST_PREFIX, len(each) + 1)), key)
    return found


def _is_alone(name: str, known: schema.Schema) -> bool:
    """Whether this flag has no value."""
    argument = known.flags.get(f"--{name}") or known.flags.get(f"--{name.removeprefix('no-')}")
    return argument is not None and argument.action in _VALUELESS


def _unwritable(item: str, flag: re.Match[str] | None) -> Fault | None:
    """Why no process could have it as an argument, or as another one."""
    if fault := values.text_fault(item):
        return (
            f'"--{flag["name"]}" with other text' if flag else "an item with other text",
            *fault,
        )
    if fault := values.expansion_fault(item):
        return (errors.shown(item), *fault)
    return None


def _misread(item: str, flag: re.Match[str] | None, waits: bool, is_alone: bool) -> Fault | None:
    """Why SGLang's parser would not take it as what it is meant to be."""
    if flag is None:
        return _misread_value(item, waits)
    name = flag["name"]
    advice = (
        f'write "--{name}"' if is_alone else f'write "--{name}=VALUE", or VALUE as the next item'
    )
    if flag["after"].isspace() or (flag["after"] and flag["after"] in ":,;\"'`"):
        # Neither is that a value, as "-x y" is to argparse: "--flag=-x y" is a way to say that.
        return f'"--{name}" and more, in one item', "one flag or one value in each item", advice
    if flag["before"] or flag["dashes"] != "--":
        found = f'"{name}" after {_called(flag)}'
        return found, "two hyphens before the name of a flag, and nothing before them", advice
    if name in _HELP:
        return f'"--{name}"', "flags of an engine that is to run", "remove it"
    if is_alone and flag["after"] == "=":
        return f'"--{name}" with a value', "the flag alone, which has none", advice
    return None


def _misread_value(item: str, waits: bool) -> Fault | None:
    if item.startswith("-") and not _is_value(item):
        expected = "flags, which begin with two hyphens and a letter, and their values"
        return "hyphens without the name of a flag", expected, "remove them"
    if waits:
        return None
    found = "text that is no flag" if item else "an empty item"
    expected = "a flag, or the value of the flag in the item before"
    return found, expected, "put its flag before it, or remove it"


def _is_value(item: str) -> bool:
    """Whether an item that begins with a hyphen, and names no flag, is a value to argparse."""
    return item == "-" or " " in item or _NEGATIVE.fullmatch(item) is not None


def _called(flag: re.Match[str]) -> str:
    if flag["before"]:
        return "a space" if flag["before"].isspace() else "a quotation mark"
    return "one hyphen" if flag["dashes"] == "-" else "another sign than two hyphens"
