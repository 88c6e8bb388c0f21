"""What a version's schema says about the arguments that a user gives (rl-semantics.md §6.1, 6).

Only arguments that a user wrote are judged, and only those that no rule of ours decides.  Where
the version is exactly known, a finding is an error and the argument is taken out; where another
version's schema stands in, it is a warning, and the argument is passed on as it is.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from sglang_operator.api import errors
from sglang_operator.engine import aliases
from sglang_operator.engine.schema import (
    MOST_SUGGESTED,
    Argument,
    Schema,
    replacement,
    similar,
    versions_with,
)
from sglang_operator.engine.versions import Version

# Names that people bring from ROLL's other backend, vLLM, to which nothing in SGLang is similar.
OTHER_BACKENDS = {
    "gpu_memory_utilization": "mem_fraction_static",
    "max_model_len": "context_length",
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "max_prefill_tokens",
    "enforce_eager": "disable_cuda_graph",
    "block_size": "page_size",
}
_SHOWN_CHOICES = 12
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
_Fault = tuple[errors.Row, dict[str, object]]


def check(
    given: aliases.Given, schema: Schema, exact: bool, decided: Collection[str]
) -> Iterator[errors.Problem]:
    """Judge what the user wrote, except ``decided`` keys, which have rules of their own."""
    suggestions = iter(range(MOST_SUGGESTED))
    for key in [key for key in given.spelled if key in given.values and key not in decided]:
        argument = schema.argument(key)
        problem = _unknown(given, key, schema, suggestions) if argument is None else None
        if argument is not None:
            problem = _wrong(given, argument)
            yield from _deprecated(given, argument, schema)
        if problem is not None and exact:
            del given.values[key]
            yield problem
        elif problem is not None:
            yield _softened(problem, schema)
    yield from _conflicts(given, schema, decided)


def _softened(problem: errors.Problem, schema: Schema) -> errors.Problem:
    text = (
        f"{problem.message} (by the arguments of SGLang {schema.version}, the nearest version "
        "that is known; it is passed on as it is)"
    )
    return dataclasses.replace(problem, severity=errors.Severity.WARNING, message=text)


# --- names


def _unknown(
    given: aliases.Given, key: str, schema: Schema, suggestions: Iterator[object]
) -> errors.Problem:
    """Why a version does not have a name: too old, too new, for Python only, or no such name."""
    path, spelling = given.path(key), given.spelling(key)
    having = versions_with(key)
    if key in schema.fields_without_flag:
        return errors.ARGUMENT_PYTHON_ONLY(path, key=spelling, version=schema.version)
    if having and having[-1] > schema.version:
        first = next(version for version in having if version > schema.version)
        return errors.ARGUMENT_LATER(
            path, key=spelling, first=first, version=schema.version, advice=_older(key, schema)
        )
    if having:
        return errors.ARGUMENT_REMOVED(
            path, key=spelling, last=having[-1], version=schema.version, advice=_newer(key)
        )
    return errors.ARGUMENT_UNKNOWN(
        path,
        key=spelling,
        version=schema.version,
        advice=_instead(key, schema.version, suggestions),
    )


def _older(key: str, schema: Schema) -> str:
    """What an older version calls it, if it was only renamed."""
    flag = "--" + key.replace("_", "-")
    old = [name for name in sorted(schema.arguments) if replacement(name) == flag]
    return f"use {old[0]}, or a newer image" if old else "remove it, or use a newer image"


def _newer(key: str) -> str:
    instead = replacement(key)
    return f"use {_as_key(instead)} instead" if instead else "remove it, or use an older image"


def _as_key(flag: str) -> str:
    """A replacement in the words of strategy_config, where it is no more than a name."""
    name = flag.partition(" ")[0].removeprefix("--").replace("-", "_")
    return name if re.fullmatch("[a-z0-9_]+", name) else flag


def _instead(key: str, version: Version, suggestions: Iterator[object]) -> str:
    """What it might mean, for as long as there are suggestions left."""
    names = similar(version, key) if next(suggestions, None) is not None else ()
    if key in OTHER_BACKENDS:
        names = (OTHER_BACKENDS[key],)
    if not names:
        return "correct its name, or remove it"
    return f"did you mean {aliases.either(names)}?"


def _deprecated(
    given: aliases.Given, argument: Argument, schema: Schema
) -> Iterator[errors.Problem]:
    if argument.deprecated and given.values[argument.key] is not False:
        if argument.action == "refused":
            return  # said as an error
        advice = f"use {_as_key(argument.replacement)}" if argument.replacement else "remove it"
        yield errors.ARGUMENT_DEPRECATED(
            given.path(argument.key),
            key=given.spelling(argument.key),
            version=schema.version,
            advice=advice,
        )


def _conflicts(
    given: aliases.Given, schema: Schema, decided: Collection[str]
) -> Iterator[errors.Problem]:
    """An old name and a new one of the same field: the last on the command line would win."""
    setting: dict[str, str] = {}
    for key in given.spelled:
        argument = schema.argument(key)
        if argument is None or key not in given.values or key in decided or not argument.field:
            continue
        if argument.action == "store_const" and given.values[key] is False:
            continue  # it means one value of the field, or nothing
        first = setting.setdefault(argument.field, key)
        if first != key and not _agree(given, schema, first, key):
            yield aliases.conflict(given, first, given.spelling(key), given.values[key])


def _agree(given: aliases.Given, schema: Schema, one: str, other: str) -> bool:
    meant = []
    for key in (one, other):
        argument, value = schema.arguments[key], given.values[key]
        use_const = argument.const is not None and not argument.nargs
        meant.append(argument.const if use_const else value)
    return aliases.same(*meant)


# --- values


def _wrong(given: aliases.Given, argument: Argument) -> errors.Problem | None:
    """What is wrong with a value for this argument."""
    value = given.values[argument.key]
    fault = _fault(argument, value)
    if fault is None:
        return None
    row, words = fault
    key = given.spelling(argument.key)
    found = aliases.shown(argument.key, value)
    return row(given.path(argument.key), key=key, found=found, **words)


def _fault(argument: Argument, value: object) -> _Fault | None:
    if argument.action == "refused":
        advice = f"use {argument.replacement}" if argument.replacement else "remove it"
        return None if value is False else (errors.ARGUMENT_RETIRED, {"advice": advice})
    if argument.is_flag:
        if argument.undecided and value is False:
            return errors.ARGUMENT_FALSE, {}
        return None if isinstance(value, bool) else (errors.ARGUMENT_FLAG, {})
    if argument.action == "lora_paths":
        return _lora_fault(argument, value)
    if argument.is_list:
        return _list_fault(argument, value)
    return _value_fault(argument, value)


def _list_fault(argument: Argument, value: object) -> _Fault | None:
    if not isinstance(value, (list, tuple)):
        return errors.ARGUMENT_LIST, {"expected": f"a list, {_item_name(argument)} each"}
    return next(filter(None, (_item_fault(argument, item) for item in value)), None)


def _item_fault(argument: Argument, item: object) -> _Fault | None:
    if isinstance(item, Mapping) and argument.type == "str":
        return errors.ARGUMENT_TEXT, {"expected": "a list, text each", "advice": "correct it"}
    return _value_fault(argument, item)


def _item_name(argument: Argument) -> str:
    return _TYPE_NAMES.get(argument.type, "text")


def _value_fault(argument: Argument, value: object) -> _Fault | None:
    """What is wrong with one value: its type, then its choice."""
    if argument.is_json:
        return _json_fault(argument, value)
    if argument.type in _TYPE_NAMES:
        fault = _number_fault(argument.type, value)
    else:
        fault = _text_fault(argument, value)
    return fault or _choice_fault(argument, value)


def _number_fault(kind: str, value: object) -> _Fault | None:
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


def _text_fault(argument: Argument, value: object) -> _Fault | None:
    """Numbers are no text: YAML has lost how they were written, as in 1.10."""
    if isinstance(value, (str, Mapping)):
        return None
    if any(not isinstance(choice, str) for choice in argument.choices):
        return None  # judged by the choices
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return errors.ARGUMENT_TEXT, {"expected": "text", "advice": "correct it"}
    return errors.ARGUMENT_TEXT, {"expected": "text", "advice": "write it in quotes"}


def _choice_fault(argument: Argument, value: object) -> _Fault | None:
    choices = argument.choices
    if not choices or (value in choices and not isinstance(value, bool)):
        return None
    near = _nearest_choices(value, choices)
    listed = list(map(str, choices))
    if len(listed) > _SHOWN_CHOICES:
        shown = ", ".join(list(dict.fromkeys([*near, *listed]))[:_SHOWN_CHOICES])
        expected = f"one of {len(listed)} words such as {shown}"
    else:
        expected = f"one of {', '.join(listed)}"
    advice = f"did you mean {aliases.either(near)}?" if near else "correct it"
    return errors.ARGUMENT_CHOICE, {"expected": expected, "advice": advice}


def _nearest_choices(value: object, choices: Sequence[str | int]) -> list[str]:
    if not isinstance(value, str):
        return []
    return aliases.close(value, [choice for choice in choices if isinstance(choice, str)])


def _json_fault(argument: Argument, value: object) -> _Fault | None:
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


def _keys_fault(argument: Argument, value: Mapping[object, object]) -> _Fault | None:
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


def _lora_fault(argument: Argument, value: object) -> _Fault | None:
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
