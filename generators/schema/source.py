"""Schemas as Python source: plain literals, one argument on a line, the same text every time."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.engine.schemas import Schema

_HEAD = '''"""{title}

Made by ``make schema VERSION={version}`` from the wheel; do not edit.
"""

# fmt: off
'''
_LONG = "# ruff: noqa: E501\n"
_SCHEMA = "from sglang_operator.engine.schemas import Schema\n"
_EVERY = "x"
_NEVER = "."


def module_name(version: str) -> str:
    """``v0_5_5_post3`` of ``0.5.5.post3``."""
    return "v" + version.replace(".", "_")


def schema_module(schema: Schema) -> str:
    """The module of one version."""
    version = schema["version"]
    head = _HEAD.format(title=f"The arguments of SGLang {version}.", version=version)
    lines = [head + _LONG, _SCHEMA]
    lines.append("SCHEMA: Schema = {")
    for name, value in schema.items():
        if isinstance(value, dict):
            lines.append(f'    "{name}": {{')
            lines += [f"        {_literal(key)}: {_literal(row)}," for key, row in value.items()]
            lines.append("    },")
        else:
            lines.append(f'    "{name}": {_literal(value)},')
    return "\n".join([*lines, "}", ""])


def index_module(versions: Sequence[str]) -> str:
    """The module that imports no more than the version that is asked for."""
    head = _HEAD.format(title="The known versions, each imported on demand.", version=versions[-1])
    lines = [head, _SCHEMA, "# In the order of their releases.", "VERSIONS = ("]
    lines += [f'    "{version}",' for version in versions]
    lines += [")", "", "", "def load(version: str) -> Schema:"]
    lines += ['    """The schema of one of VERSIONS."""', "    match version:"]
    for version in versions:
        module = module_name(version)
        lines += [f'        case "{version}":']
        lines += [f"            from sglang_operator.engine.schemas import {module}", ""]
        lines += [f"            return {module}.SCHEMA"]
    return "\n".join([*lines, "    raise KeyError(version)", ""])


def history_module(schemas: Sequence[Schema]) -> str:
    """Which versions have which name, and by what it has been replaced."""
    newest = schemas[-1]["version"]
    head = _HEAD.format(title="Which versions have which argument, by all names.", version=newest)
    lines = [head]
    lines += [
        "# One sign for each of index.VERSIONS: x where the version has the name, as that of an",
        "# argument or of a field of ServerArgs.",
        "NAMES: dict[str, str] = {",
    ]
    spelled = [names(schema) for schema in schemas]
    for name in sorted(set().union(*spelled)):
        marks = "".join(_EVERY if name in there else _NEVER for there in spelled)
        lines.append(f'    "{name}": "{marks}",')
    lines += ["}", ""]
    lines += ["# What SGLang itself says is to be used instead: the newest word on each."]
    lines += ["REPLACEMENTS: dict[str, str] = {"]
    lines += [f"    {_literal(old)}: {_literal(new)}," for old, new in _replacements(schemas)]
    return "\n".join([*lines, "}", ""])


def names(schema: Schema) -> set[str]:
    """Every name that an argument of a version has, with underscores."""
    spelled = {
        flag.removeprefix("--").replace("-", "_")
        for argument in schema["arguments"].values()
        for flag in argument.get("flags", ())
        if not (argument["action"] == "boolean_optional" and flag.startswith("--no-"))
    }
    return spelled | set(schema["arguments"]) | set(schema["fields_without_flag"])


def _replacements(schemas: Sequence[Schema]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for schema in schemas:
        for key, argument in schema["arguments"].items():
            if replacement := argument.get("replacement"):
                found[key] = replacement
    return sorted(found.items())


def _literal(value: Any) -> str:
    """A literal with double quotes, as the formatter has them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
