"""Whether a version's schema takes a value for an argument: its form, its type, its choices."""

import json
import re
from collections.abc import Mapping, Sequence

from sglang_operator.api import errors
from sglang_operator.engine import aliases, habits, later_json
from sglang_operator.engine.schema import Argument

_SHOWN_CHOICES = 12
# What stands for no value in Python, and for itself, a text, in YAML.
_NOTHINGS = ("None", "null")
_NO_VALUE: dict[str, object] = {
    "expected": "a value; as text it is one word like any other",
    "advice": "leave the argument out",
}
_MAX_INTEGER = 2**63
# human_readable_int in SGLang: decimals with a decimal unit only.
_SUFFIXED = re.compile(r"[0-9]+|[0-9]+(\.[0-9]+)?[kMGT]|[0-9]+[KMGT]i", re.ASCII)
_TYPE_NAMES = {"int": "a whole number", "float": "a number", "human_int": "a number, or 32k"}
_JSON_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "json": ("a map", (Mapping, list)),
    "json_list": ("a list", (list,)),
    "json_object": ("a map", (Mapping,)),
}
_LORA_KEYS = {"lora_name", "lora_path"}

# A row of the table of errors, and what it wants to be told.
Fault = tuple[errors.Row, dict[str, object]]


def fault(argument: Argument, value: object) -> Fault | None:
    """What is wrong with a value for this argument."""
    if argument.action == "refused":
        advice = f"use {argument.replacement}" if argument.replacement else "remove it"
        return None if value is False else (errors.ARGUMENT_RETIRED, {"advice": advice})
    if value in _NOTHINGS and value not in argument.choices and not argument.is_flag:
        return errors.ARGUMENT_TEXT, _NO_VALUE
    if argument.is_flag:
        if argument.undecided and value is False:
            return errors.ARGUMENT_FALSE, {}
        return None if isinstance(value, bool) else (errors.ARGUMENT_FLAG, {})
    if argument.action == "lora_paths":
        return _lora_fault(argument, value)
    if argument.is_list:
        return _list_fault(argument, value)
    return _value_fault(argument, value)


def _list_fault(argument: Argument, value: object) -> Fault | None:
    if not isinstance(value, (list, tuple)):
        return errors.ARGUMENT_LIST, {"expected": f"a list, {_item_name(argument)} each"}
    return next(filter(None, (_item_fault(argument, item) for item in value)), None)


def _item_fault(argument: Argument, item: object) -> Fault | None:
    if isinstance(item, Mapping) and argument.type == "str":
        return errors.ARGUMENT_TEXT, {"expected": "a list, text each", "advice": "correct it"}
    return _value_fault(argument, item)


def _item_name(argument: Argument) -> str:
    return _TYPE_NAMES.get(argument.type, "text")


def _value_fault(argument: Argument, value: object) -> Fault | None:
    """What is wrong with one value: its type, then its choice."""
    if argument.is_json:
        return _json_fault(argument, value)
    if argument.type in _TYPE_NAMES:
        found = _number_fault(argument.type, value)
    else:
        found = _text_fault(argument, value)
    return found or _choice_fault(argument, value)


def _number_fault(kind: str, value: object) -> Fault | None:
    words: dict[str, object] = {"expected": _TYPE_NAMES[kind], "advice": "correct it"}
    if isinstance(value, str):
        if kind == "human_int" and _SUFFIXED.fullmatch(value):
            return None
        if _reads_as(kind, value):
            return errors.ARGUMENT_TEXT, {**words, "advice": "write it without quotes"}
        return errors.ARGUMENT_TYPE, words
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return errors.ARGUMENT_TYPE, words
    if kind == "float" or isinstance(value, int):
        return None
    # 8.0 is what JSON may make of 8; beyond 64 bits it would be written with an exponent.
    whole = value.is_integer() and abs(value) < _MAX_INTEGER
    return None if whole else (errors.ARGUMENT_TYPE, words)


def _reads_as(kind: str, text: str) -> bool:
    """Whether SGLang's parser would read the text as such a number."""
    try:
        float(text) if kind == "float" else int(text)
    except ValueError:
        return False
    return True


def _text_fault(argument: Argument, value: object) -> Fault | None:
    """Numbers are no text: YAML has lost how they were written, as in 1.10."""
    if argument.json:
        return _later_fault(argument, value)
    if isinstance(value, str):
        return None
    if argument.choices:
        return None  # judged by the choices
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return errors.ARGUMENT_TEXT, {"expected": "text", "advice": "correct it"}
    return errors.ARGUMENT_TEXT, {"expected": "text", "advice": "write it in quotes"}


def _later_fault(argument: Argument, value: object) -> Fault | None:
    """A map, or a text that SGLang reads as one when its parser is done."""
    if isinstance(value, Mapping):
        return None
    if isinstance(value, str):
        if later_json.is_unread_file(argument, value):
            return errors.ARGUMENT_FILE, {"expected": later_json.EXPECTED}
        words = later_json.fault(argument, value)
        return (errors.ARGUMENT_JSON, words) if words else None
    return errors.ARGUMENT_JSON, {"expected": later_json.EXPECTED, "advice": "correct it"}


def _choice_fault(argument: Argument, value: object) -> Fault | None:
    choices = argument.choices
    if not choices or (value in choices and not isinstance(value, bool)):
        return None
    if own := habits.word(argument, value):
        advice = f"{value} is vLLM's word: write {own}"
        return errors.ARGUMENT_CHOICE, {"expected": _one_of(choices, []), "advice": advice}
    near = _nearest_choices(value, choices)
    advice = f"did you mean {aliases.either(near)}?" if near else "correct it"
    return errors.ARGUMENT_CHOICE, {"expected": _one_of(choices, near), "advice": advice}


def _one_of(choices: Sequence[str | int], near: Sequence[str]) -> str:
    listed = list(map(str, choices))
    if len(listed) <= _SHOWN_CHOICES:
        return f"one of {', '.join(listed)}"
    shown = ", ".join(list(dict.fromkeys([*near, *listed]))[:_SHOWN_CHOICES])
    return f"one of {len(listed)} words such as {shown}"


def _nearest_choices(value: object, choices: Sequence[str | int]) -> list[str]:
    if not isinstance(value, str):
        return []
    return aliases.close(value, [choice for choice in choices if isinstance(choice, str)])


def _json_fault(argument: Argument, value: object) -> Fault | None:
    expected, kind = _JSON_KINDS[argument.type]
    words: dict[str, object] = {"expected": expected, "advice": "correct it"}
    # Of the types only that of an object looks at what it has read.
    row = errors.ARGUMENT_TYPE if argument.type == "json_object" else errors.ARGUMENT_JSON
    if isinstance(value, bool):
        return row, words
    parsed = value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return errors.ARGUMENT_TYPE, {**words, "expected": f"{expected}, or its JSON as text"}
    if not isinstance(parsed, kind):
        return row, words
    return _keys_fault(argument, parsed) if isinstance(parsed, Mapping) else None


def _keys_fault(argument: Argument, value: Mapping[object, object]) -> Fault | None:
    """A map whose keys SGLang's parser knows, and whose values are such maps too."""
    if not argument.keys:
        return None
    for name, inner in value.items():
        known = argument.keys.get(str(name))
        if known is None:
            expected = f"a map with {' and '.join(argument.keys)}"
            return errors.ARGUMENT_TYPE, {"expected": expected, "advice": "correct it"}
        if not isinstance(inner, Mapping) or not all(key in known for key in inner):
            expected = f"{name} to be a map with {', '.join(known)}"
            return errors.ARGUMENT_TYPE, {"expected": expected, "advice": "correct it"}
    return None


def _lora_fault(argument: Argument, value: object) -> Fault | None:
    """A list of adapters; a map of names and paths is the same, as in ServerArgs."""
    expected = "a list of adapters, each a path or name=path"
    if isinstance(value, Mapping):
        plain = all(isinstance(p, str) and "=" not in name for name, p in value.items())
        return None if plain else (errors.ARGUMENT_LORA, {"expected": "a map of names and paths"})
    if not isinstance(value, (list, tuple)):
        return errors.ARGUMENT_LIST, {"expected": expected}
    if argument.type == "lora_json":
        expected += " or a map with lora_name and lora_path"
    good = all(_is_adapter(argument, item) for item in value)
    return None if good else (errors.ARGUMENT_LORA, {"expected": expected})


def _is_adapter(argument: Argument, item: object) -> bool:
    if isinstance(item, Mapping):
        return argument.type == "lora_json" and item.keys() >= _LORA_KEYS
    return isinstance(item, str) and not item.strip().startswith("{")
