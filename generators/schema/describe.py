"""From a version's own parser and HTTP server to its schema."""

import argparse
import ast
import logging
import os
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from generators.schema import later, rules
from generators.schema.sglang import SGLang
from sglang_operator.engine.schemas import Argument, Schema

HEALTH_VARIABLE = "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"
_HTTP_SERVER = "sglang.srt.entrypoints.http_server"
_CUDA_GRAPH_CONFIG = "sglang.srt.model_executor.cuda_graph_config"
_HELP_LENGTH = 80

# argparse's type functions by name -> ours.  A new one stops the generator: somebody has to say
# what values it takes.
_TYPES = {
    "str": "str",
    "nullable_str": "str",
    "parse_cuda_graph_backend_arg": "str",
    "int": "int",
    "float": "float",
    "human_readable_int": "human_int",
    "loads": "json",
    "json_list_type": "json_list",
    "parse_cuda_graph_config_arg": "json_object",
}
_ACTIONS = {
    "_StoreAction": "store",
    "DeprecatedAliasStoreAction": "store",
    "_StoreTrueAction": "store_true",
    "DeprecatedStoreTrueAction": "store_true",
    "DeprecatedStoreConstAction": "store_const",
    "DeprecatedAction": "ignored",
    "BooleanOptionalAction": "boolean_optional",
    "LoRAPathAction": "lora_paths",
}
_DEPRECATED = re.compile(r"[\s(\[]*(note:\s*)?(--\S+ is )?deprecated", re.IGNORECASE)
_REPLACEMENT = re.compile(r"(?:use|alias for|set)\s+[`']?(--[a-z][^\s'`,;)]*)", re.IGNORECASE)


def describe(sglang: SGLang) -> Schema:
    """Everything that rendering has to know about a version."""
    fields = _fields_by_destination(sglang)
    arguments: dict[str, Argument] = {}
    for action in sglang.parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        key = _key(action, fields.get(action.dest), arguments)
        if key in arguments:
            raise ValueError(f"{sglang.version}: two arguments are called {key}")
        arguments[key] = _argument(action, key, fields.get(action.dest, ""))
        if arguments[key].get("type") == "json_object":
            arguments[key]["keys"] = _cuda_graph_keys(sglang)
        later.add(sglang.interpreter, key, arguments[key])
    reached = {argument.get("field", key) for key, argument in arguments.items()}
    return {
        "version": sglang.version,
        "arguments": dict(sorted(arguments.items())),
        "rules": rules.places(sglang),
        "fields_without_flag": tuple(sorted(set(sglang.names) - reached)),
        "endpoints": tuple(sorted(set(_endpoints(sglang)))),
        "health_without_generation": _health(sglang),
    }


def _fields_by_destination(sglang: SGLang) -> dict[str, str]:
    """argparse's destinations -> fields: up to 0.5.9 from_cli_args renames some."""
    marks = {action.dest: object() for action in sglang.parser._actions}
    built = sglang.fields(argparse.Namespace(**marks))
    by_mark = {id(value): name for name, value in built.items()}
    return {dest: by_mark[id(mark)] for dest, mark in marks.items() if id(mark) in by_mark}


def _key(action: argparse.Action, field: str | None, taken: dict[str, Argument]) -> str:
    """The field's name for its own argument, the flag's for further ones of the same field."""
    spelled = action.option_strings[0].removeprefix("--").replace("-", "_")
    own = not type(action).__name__.startswith("Deprecated")
    return field if field and own and field not in taken else spelled


def _argument(action: argparse.Action, key: str, field: str) -> Argument:
    kind = _ACTIONS[type(action).__name__]
    argument: Argument = {}
    if action.option_strings != ["--" + key.replace("_", "-")]:
        argument["flags"] = tuple(action.option_strings)
    argument["action"] = kind
    if field != key:
        argument["field"] = field
    if kind == "store_true":
        if action.default is True:
            raise ValueError(f"{key} is true without its flag")
        if action.default is None:
            argument["undecided"] = True
    elif kind == "store_const":
        _add_const(argument, action)
    elif kind == "ignored":
        _add_outcome(argument, action)
    elif kind == "lora_paths":
        argument["type"] = "lora_json" if _takes_json(action) else "lora"
    elif kind == "store":
        argument["type"] = _TYPES[getattr(action.type, "__name__", "str")]
        _add_nargs(argument, action)
    if action.choices:
        argument["choices"] = _choices(action.choices)
    if action.default not in (None, False, argparse.SUPPRESS):
        argument["default"] = _literal(action.default)
    if short := _short(action.help):
        argument["help"] = short
    _add_deprecation(argument, action)
    return argument


def _add_const(argument: Argument, action: argparse.Action) -> None:
    argument["const"] = action.const_value  # type: ignore[attr-defined]
    if action.nargs != 0:
        argument["action"], argument["type"] = "store", "str"


def _add_outcome(argument: Argument, action: argparse.Action) -> None:
    """A deprecated flag without a value is ignored with a warning, or stops the start."""
    try:
        with mock.patch.object(logging.Logger, "warning"):
            action(_silent(), argparse.Namespace(), [], action.option_strings[0])
    except (Exception, SystemExit):
        argument["action"] = "refused"


def _silent() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.error = mock.Mock(side_effect=SystemExit)  # type: ignore[method-assign]
    return parser


def _takes_json(action: argparse.Action) -> bool:
    """Whether an item may be an object; before, it was a path named by its JSON."""
    namespace = argparse.Namespace()
    item = '{"lora_name": "a", "lora_path": "b"}'
    action(_silent(), namespace, [item], action.option_strings[0])
    return isinstance(getattr(namespace, action.dest), list)


def _add_nargs(argument: Argument, action: argparse.Action) -> None:
    if action.nargs is not None:
        if action.nargs not in ("?", "*", "+"):
            raise ValueError(f"{action.dest} takes {action.nargs} values")
        argument["nargs"] = str(action.nargs)
    if action.const is not None:
        argument["const"] = action.const


def _cuda_graph_keys(sglang: SGLang) -> dict[str, tuple[str, ...]]:
    """What parse_cuda_graph_config_arg, the only type that reads an object, allows in it."""
    found = sglang.interpreter.get(_CUDA_GRAPH_CONFIG, "ALLOWED_KEYS_PER_PHASE")
    return {str(phase): tuple(keys) for phase, keys in found.items()}


def _choices(choices: Any) -> tuple[str | int, ...]:
    """In SGLang's order, if it has one; a set differs from run to run."""
    listed = sorted(choices) if isinstance(choices, (set, frozenset)) else list(choices)
    if not all(type(choice) in (str, int) for choice in listed):
        raise ValueError(f"choices {listed} are no literals")
    return tuple(dict.fromkeys(listed))


def _literal(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_literal, value))
    if type(value) not in (str, int, float, bool):
        raise ValueError(f"the default {value!r} is no literal")
    return value


def _short(text: str | None) -> str:
    """The first sentence of a help text."""
    if text is None or text == argparse.SUPPRESS:
        return ""
    line = " ".join(text.split())
    sentence = re.split(r"(?<=[a-z0-9)'`])\. ", line)[0].rstrip(".")
    return sentence if len(sentence) <= _HELP_LENGTH else sentence[: _HELP_LENGTH - 1] + "…"


def _add_deprecation(argument: Argument, action: argparse.Action) -> None:
    text = action.help or ""
    if type(action).__name__.startswith("Deprecated") or _DEPRECATED.match(text):
        argument["deprecated"] = True
        found = _REPLACEMENT.search(text)
        replacement = getattr(action, "new_flag", None) or (found and found[1].rstrip("."))
        if replacement:
            argument["replacement"] = replacement


def _endpoints(sglang: SGLang) -> Iterator[str]:
    """The paths of the HTTP server's routes that are written down as literals."""
    for node in ast.walk(_http_server(sglang)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from filter(None, map(_route, node.decorator_list))


def _http_server(sglang: SGLang) -> ast.Module:
    return ast.parse(sglang.interpreter.source(_HTTP_SERVER) or "")


def _route(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Name(id="app"), attr="get" | "post" | "put" | "delete" | "api_route"
            ),
            args=[ast.Constant(value=str() as path), *_],
        ):
            return path
    return None


def _health(sglang: SGLang) -> str:
    """What the variable does, by asking the very condition that ``/health`` tests.

    0.5.5.post3 tests the variable's object, which is true whatever its value is.
    """
    for node in ast.walk(_http_server(sglang)):
        if isinstance(node, ast.If) and HEALTH_VARIABLE in ast.unparse(node.test):
            condition = compile(ast.Expression(node.test), _HTTP_SERVER, "eval")
            names = {
                "envs": sglang.interpreter.get("sglang.srt.environ", "envs"),
                "request": SimpleNamespace(url=SimpleNamespace(path="/health")),
            }
            with mock.patch.dict(os.environ, {HEALTH_VARIABLE: "false"}):
                return "works" if eval(condition, names) else "no effect"
    return "absent"
