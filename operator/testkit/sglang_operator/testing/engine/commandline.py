"""SGLang's command line of one version, out of the operator's argument schema."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sglang_operator.engine.schemas import Argument, index
from sglang_operator.testing.engine import log
from sglang_operator.testing.engine.behaviour import Behaviour


def human_readable_int(text: str) -> int:
    """12, 32k, 1.5M: SGLang's name for it is in argparse's messages."""
    factors = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
    low = text.strip().lower()
    if low and low[-1] in factors:
        return int(float(low[:-1]) * factors[low[-1]])
    return int(low)


def json_list_type(text: str) -> Any:
    """A list in JSON; the name is SGLang's."""
    return json.loads(text)


# The schema's types -> what converts a value; argparse prints the functions' names.
_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "human_int": human_readable_int,
    "json": json.loads,
    "json_list": json_list_type,
    "json_object": json.loads,
}


class _Refused(argparse.Action):
    """A flag that this version only knows in order to refuse it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"argument {option_string}: is deprecated")


def parse(behaviour: Behaviour, version: str, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments by their fields in ServerArgs; ends the process with 2 as argparse does.

    ``version`` is one of ``schemas.index.VERSIONS``.
    """
    parser = argparse.ArgumentParser(prog=behaviour.program)
    for key, argument in index.load(version)["arguments"].items():
        _add(parser, key, argument)
    return _normal(parser.parse_args(argv))


def _add(parser: argparse.ArgumentParser, key: str, argument: Argument) -> None:
    flags = argument.get("flags", ("--" + key.replace("_", "-"),))
    action = argument["action"]
    options: dict[str, Any] = {"dest": argument.get("field", key) or key}
    if action in ("store_true", "ignored"):
        options["action"] = "store_true"
    elif action == "store_const":
        options |= {"action": "store_const", "const": argument.get("const")}
    elif action == "boolean_optional":
        options["action"] = argparse.BooleanOptionalAction
        flags = tuple(flag for flag in flags if not flag.startswith("--no-"))
    elif action == "refused":
        options |= {"action": _Refused, "nargs": 0}
    else:
        options |= _valued(argument)
    # Several arguments can set one field: only its own says what it is without all of them.
    own = argument.get("field", key) == key
    unset = False if options.get("action") == "store_true" else None
    if argument.get("undecided"):
        unset = None
    options["default"] = argument.get("default", unset) if own else argparse.SUPPRESS
    if key == "model_path":
        options["required"] = True
    parser.add_argument(*flags, **options)


def _valued(argument: Argument) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if kind := _TYPES.get(argument.get("type", "")):
        options["type"] = kind
    if argument["action"] == "lora_paths":
        options["nargs"] = "*"
    elif "nargs" in argument:
        options["nargs"] = argument["nargs"]
    if options.get("nargs") == "?":
        options["const"] = argument.get("const")
    if choices := argument.get("choices"):
        options["choices"] = list(choices)
    return options


def _normal(args: argparse.Namespace) -> argparse.Namespace:
    """What SGLang fills in itself."""
    defaults = {
        "tp_size": 1,
        "pp_size": 1,
        "base_gpu_id": 0,
        "dp_size": 1,
        "nnodes": 1,
        "node_rank": 0,
        "host": "127.0.0.1",
        "port": 30000,
    }
    for name, value in defaults.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    args.tokenizer_path = args.tokenizer_path or args.model_path
    args.served_model_name = args.served_model_name or args.model_path
    return args


def log_arguments(args: argparse.Namespace) -> None:
    """The line with all arguments, keys included, that every SGLang prints at its start."""
    log.line(
        "server_args=ServerArgs(" + ", ".join(f"{k}={v!r}" for k, v in vars(args).items()) + ")"
    )
