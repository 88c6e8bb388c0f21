"""Texts that SGLang reads as JSON after its parser is done, where the engine would die of them."""

import json
from collections.abc import Mapping

from sglang_operator.engine.schema import Argument

EXPECTED = "a map, or its JSON as text"
_FROM_FILE = "@"
_BEGINNINGS = ("{", "[", "'", '"')  # of what is meant as JSON, and is no path
_QUOTES = ("'", '"')


def fault(argument: Argument, text: str) -> dict[str, object] | None:
    """What was expected instead of a text, and what to do; nothing if it is well."""
    if _means_something_else(argument, text) or isinstance(_read(text), Mapping):
        return None
    return {"expected": _expected(argument), "advice": _advice(text)}


def is_unread_file(argument: Argument, text: str) -> bool:
    """Whether a text names a file, in a way in which only other versions read one."""
    return argument.json.get("at_file") is False and _is_file(text)


def _is_file(text: str) -> bool:
    return text.startswith(_FROM_FILE) and len(text) > 1


def _means_something_else(argument: Argument, text: str) -> bool:
    how = argument.json
    if not text:
        return how.get("empty", False)
    if how.get("at_file", False) and _is_file(text):
        return True
    if how["reads"] == "braces" and not text.lstrip().startswith(_BEGINNINGS):
        return True
    return text in how.get("words", ()) or text.endswith(how.get("endings", ()))


def _expected(argument: Argument) -> str:
    how = argument.json
    others = [*how.get("words", ()), *(f"a path in {end}" for end in how.get("endings", ()))]
    if how.get("at_file", False):
        others.append("@ and the path of a file")
    if how["reads"] == "braces":
        others.append("a path")
    return ", or ".join([EXPECTED, *others])


def _advice(text: str) -> str:
    """The map that was meant, written as one, is always right."""
    inner = text.strip()
    if inner[:1] in _QUOTES and inner[-1:] == inner[:1] and isinstance(_read(inner[1:-1]), Mapping):
        return "remove the quotes of the shell that are in the text, or write it as a map"
    if "'" in text:
        return "JSON has double quotes, not Python's: write it as a map, without quotes around it"
    return "write it as a map, without quotes around it"


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
