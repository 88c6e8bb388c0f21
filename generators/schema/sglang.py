"""One SGLang version's own command line parser and constructor, as far as they need no GPU."""

import argparse
import functools
import logging
import os
import typing
from typing import Any, NoReturn

from generators.schema import wheels
from generators.schema.wheel_interpreter import WheelInterpreter

SERVER_ARGS = "sglang.srt.server_args"
_ARGUMENTS = "sglang.srt.arg_groups.arg_utils"


class ParserError(Exception):
    """What SGLang's parser says before it exits with 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ParserError(message)


class SGLang:
    """A version out of its wheel."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.interpreter = WheelInterpreter(wheels.open_wheel(version), version)
        if self.interpreter.source(_ARGUMENTS):
            module = self.interpreter.module(_ARGUMENTS).__dict__
            if record_fields := module.get_or_none("record_fields"):
                # From 0.5.20 on asked anew for each command line and each check, and slow.
                module["record_fields"] = functools.cache(record_fields)
        self._server_args = self.interpreter.get(SERVER_ARGS, "ServerArgs")
        self.parser = _parser(self._server_args)

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """The fields that SGLang makes of a command line; raises ParserError as it would exit.

        Up to ``from_cli_args``; ``__post_init__``, which looks for GPUs and models, does not run.
        """
        logging.disable(logging.WARNING)  # deprecated flags are our own business
        try:
            return self.fields(self.parser.parse_args(argv))
        finally:
            logging.disable(logging.NOTSET)

    def fields(self, namespace: argparse.Namespace) -> dict[str, Any]:
        """The fields of ServerArgs by name, of what the parser has found."""
        built = self._server_args.from_cli_args.__func__(self._record, namespace)
        return {name: getattr(built, name) for name in self.names}

    @functools.cached_property
    def _record(self) -> Any:
        """ServerArgs without its ``__post_init__``."""
        return type("ServerArgs", (self._server_args,), {"__post_init__": lambda self: None})

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The fields of ServerArgs, which are the keyword arguments of SGLang's Engine."""
        struct = getattr(self._server_args, "__struct_fields__", None)
        return tuple(struct or self._server_args.__dataclass_fields__)

    def action(self, key: str) -> argparse.Action | None:
        """What the parser has for a name: that of a flag, else of a field."""
        actions = self.parser._option_string_actions
        if (found := actions.get("--" + key.replace("_", "-"))) is not None:
            return found
        return next((action for action in actions.values() if action.dest == key), None)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The fields of ServerArgs as they are for a Python caller who says nothing."""
        record = self._record(model_path="x")
        return {name: getattr(record, name) for name in self.names}

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """SGLang's annotations of the fields."""
        return typing.get_type_hints(self._server_args)


def _parser(server_args: Any) -> argparse.ArgumentParser:
    """Its parser as ``prepare_server_args`` makes it, whatever is in our environment."""
    parser = _Parser(prog="sglang")
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("SGLANG_")}
    try:
        server_args.add_cli_args(parser)
    finally:
        os.environ.update(hidden)
    return parser


@functools.cache
def opened(version: str) -> SGLang:
    """A version, opened once."""
    return SGLang(version)
