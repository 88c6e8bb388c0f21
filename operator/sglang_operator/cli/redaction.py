"""What is never printed: values under names that secrets have."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sglang_operator.api import errors
from sglang_operator.api.errors import Problem
from sglang_operator.api.redaction import HIDDEN, in_words, without_passwords
from sglang_operator.cli.yaml_tree.nodes import YamlNode, leaves, plain

_ARGUMENT = re.compile(
    r"(?i)(api|access|secret|private|auth)[_-]?key|password|secret|_token$|^token$"
)


def is_secret_argument(name: str) -> bool:
    """The same of an argument, where a token is mostly something else."""
    return _ARGUMENT.search(name.replace("-", "_").strip("_")) is not None


def argument(token: str) -> str:
    """One token of a command line, without the value of a secret."""
    flag, equals, value = token.partition("=")
    if equals and value and not value.startswith("$(") and is_secret_argument(flag):
        return f"{flag}={HIDDEN}"
    if value.startswith(("{", "[")):
        return f"{flag}={in_words(value)}"
    return without_passwords(token)


def arguments(tokens: Iterable[str]) -> list[str]:
    """A command line; a secret's value may also be the token after its flag."""
    shown, hide = [], False
    for token in tokens:
        follows_flag = hide and not token.startswith("--")
        shown.append(HIDDEN if follows_flag else argument(token))
        is_flag = token.startswith("--") and "=" not in token
        hide = is_flag and is_secret_argument(token)
    return shown


def variables(env: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ``env`` of a container; references to Secrets stay, they are no secrets."""
    return [
        {
            **item,
            "value": HIDDEN if errors.is_secret(str(item.get("name"))) else _url(item["value"]),
        }
        if "value" in item
        else dict(item)
        for item in env
    ]


def _url(value: Any) -> Any:
    return without_passwords(value) if isinstance(value, str) else value


def problem(found: Problem, node: YamlNode) -> Problem:
    """A problem whose message does not quote what stands under a secret's name."""
    name = re.split(r"[.\[\]]", found.field)[-1]
    hidden = errors.is_secret(name) or is_secret_argument(name)
    message = without_passwords(found.message)
    for text in sorted(_quoted(node), key=len, reverse=True) if hidden else ():
        if text != name:  # of an item of ``env`` the name is a value too
            message = message.replace(text, HIDDEN)
    if message == found.message:
        return found
    return Problem(reason=found.reason, field=found.field, message=message, severity=found.severity)


def _quoted(node: YamlNode) -> Iterator[str]:
    """How a message may quote a value: whole, shortened, or a part of it."""
    whole = plain(node)
    yield from filter(None, (errors.shown(whole), errors.typed(whole)))
    for leaf in leaves(node):
        if isinstance(leaf.value, str) and leaf.value:
            yield errors.shown(leaf.value)
