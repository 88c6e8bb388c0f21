"""What the operator says about every name of an argument, by its own code, for one version."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import aliases, arguments, habits, ownership, schema, versions
from sglang_operator.engine.schemas import history

_VALUE = True  # names are judged before values, so any will do


@dataclass(frozen=True, kw_only=True)
class Names:
    """All names that may stand in ``strategy_config`` with something to be said about them."""

    version: str
    similar: tuple[str, ...]  # the version's own names, which are offered instead of others
    accepted: tuple[str, ...]  # names besides these about which the operator says nothing
    owned: Mapping[str, str]  # name -> advice
    secret: tuple[str, ...]  # of the owned: values are not repeated
    # What follows the user's spelling in the message -> the names it is said of.
    elsewhere: Mapping[str, tuple[str, ...]]


@functools.cache
def names(version: str) -> Names:
    """Everything the operator knows about names in one of ``schema.KNOWN``."""
    known = schema.load(version)
    said = {name: _said(name, version) for name in _candidates(known)}
    owned = [name for name, row in said.items() if row and row[0] is errors.ARGUMENT_OWNED]
    return Names(
        version=version,
        similar=tuple(known.keys),
        accepted=tuple(name for name in said if not said[name] and name not in known.keys),
        owned={name: ownership.OWNED[aliases.canonical(name, known)] for name in owned},
        secret=tuple(name for name in owned if _is_secret(name, known)),
        elsewhere=_grouped(said),
    )


def _candidates(known: schema.Schema) -> list[str]:
    """Every name that any version, alias, rule or other backend has."""
    return sorted(
        name
        for name in {
            *known.keys,
            *history.NAMES,
            *aliases.ALIASES,
            *habits.NAMES,
            *ownership.OWNED,
            *known.fields_without_flag,
            "grpc_mode",
        }
        if not name.startswith("_")  # said of the name itself: it is not a possible one
    )


# A row, and words that no other has.
_ROWS = (
    (errors.ARGUMENT_OWNED, ", but the operator sets it"),
    (errors.ARGUMENT_REMOVED, "is the last version known"),
    (errors.ARGUMENT_LATER, "is the first version known"),
    (errors.ARGUMENT_PYTHON_ONLY, "can be set in Python only"),
    (errors.ARGUMENT_UNKNOWN, "is not an argument of SGLang"),
)
_Said = Mapping[str, tuple[errors.Row, str] | None]


def _said(name: str, version: str) -> tuple[errors.Row, str] | None:
    """The row about the name, and its message."""
    for problem in arguments.render(_request(name, version)).problems:
        if problem.field == f"{aliases.FIELD}.{name}":
            for row, mark in _ROWS:
                if mark in problem.message:
                    return row, problem.message
    return None


def _request(name: str, version: str) -> arguments.EngineRequest:
    return arguments.EngineRequest(
        model="m",
        dtype="bf16",
        strategy_config={name: _VALUE},
        gpus=1,
        seed=0,
        router_replay_mode="disable",
        sampling=None,
        extra_args=(),
        port=30000,
        version=versions.parse(version),
        has_api_key=False,
        has_admin_api_key=False,
    )


def _is_secret(name: str, known: schema.Schema) -> bool:
    return aliases.shown(aliases.canonical(name, known), "0") == "a value"


def _grouped(said: _Said) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name, found in said.items():
        if found is not None and found[0] is not errors.ARGUMENT_OWNED:
            groups.setdefault(found[1].removeprefix(name), []).append(name)
    return {tail: tuple(group) for tail, group in sorted(groups.items())}
