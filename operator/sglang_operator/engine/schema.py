"""What the SGLang version of an image accepts: its own schema, or the nearest that is known.

The schemas are generated (``engine/schemas``); this gives them types and looks names up.
"""

import bisect
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_operator.engine import schemas, versions
from sglang_operator.engine.schemas import history, index


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """One argument of one version; the fields are those of ``schemas.Argument``."""

    key: str
    flags: tuple[str, ...]
    action: str
    field: str  # empty: it sets none
    type: str
    nargs: str
    const: object
    choices: tuple[str | int, ...]
    keys: Mapping[str, tuple[str, ...]]
    json: schemas.Json  # how its text is read later; empty: as text
    undecided: bool  # a flag without which SGLang decides: false cannot be said
    deprecated: bool
    replacement: str

    @property
    def flag(self) -> str:
        """The flag to write: the argument's own name, which all versions have, else the first.

        Up to 0.5.9 the first of ``tp_size`` is --tensor-parallel-size, and --tp-size after that;
        a restart of engines is no price for an upgrade of a name.
        """
        own = "--" + self.key.replace("_", "-")
        return own if own in self.flags else self.flags[0]

    @property
    def negated(self) -> str:
        """The flag for false of an argument that has one: --no-x."""
        return "--no-" + self.flag.removeprefix("--")

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false, and has no value on the command line."""
        return self.action not in ("store", "lora_paths")

    @property
    def is_json(self) -> bool:
        """Whether its value is JSON, lists included."""
        return self.type.startswith("json")

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return self.nargs in ("*", "+") or self.action == "lora_paths"


@dataclass(frozen=True, kw_only=True, eq=False)
class Schema:
    """The arguments of one version by any of their names."""

    version: versions.Version
    arguments: Mapping[str, Argument]
    keys: Mapping[str, str]  # every spelling with underscores -> key of ``arguments``
    defaults: Mapping[str, object]  # of fields, where they are not null or false
    rules: Mapping[str, str]  # of ``combinations``, with their places in SGLang's source
    fields_without_flag: frozenset[str]
    endpoints: frozenset[str]
    health_without_generation: str

    def key(self, name: str) -> str | None:
        """The argument that a name with underscores stands for."""
        return self.keys.get(name)

    @functools.cached_property
    def flags(self) -> Mapping[str, Argument]:
        """The argument of each flag, "--" included."""
        return {flag: each for each in self.arguments.values() for flag in each.flags}

    @functools.cached_property
    def _in_order(self) -> Sequence[str]:
        return sorted(self.flags)

    def begins(self, flag: str) -> bool:
        """Whether SGLang's parser (argparse) may take this for a longer flag, as it begins so."""
        at = bisect.bisect_left(self._in_order, flag)
        return any(longer.startswith(flag) for longer in self._in_order[at : at + 1])

    def argument(self, key: str) -> Argument | None:
        """An argument by its key."""
        return self.arguments.get(key)


KNOWN = tuple(map(versions.parse, index.VERSIONS))


def nearest(version: versions.Version) -> Schema:
    """The version's own schema, else that of the newest known before it, else the oldest known.

    Most of what a version has is in the next one too, so the one before says the least that is
    wrong.
    """
    older = [known for known in KNOWN if known <= version]
    return load(str(max(older, default=KNOWN[0])))


@functools.cache
def load(version: str) -> Schema:
    """The schema of one of ``KNOWN``."""
    raw = index.load(version)
    arguments = {key: _argument(key, found) for key, found in raw["arguments"].items()}
    return Schema(
        version=versions.parse(version),
        arguments=arguments,
        keys=dict(_spellings(arguments)),
        defaults=dict(_defaults(raw)),
        rules=raw["rules"],
        fields_without_flag=frozenset(raw["fields_without_flag"]),
        endpoints=frozenset(raw["endpoints"]),
        health_without_generation=raw["health_without_generation"],
    )


def _defaults(raw: schemas.Schema) -> Iterator[tuple[str, object]]:
    for key, argument in raw["arguments"].items():
        if "default" in argument and (field := argument.get("field", key)):
            yield field, argument["default"]


def _argument(key: str, raw: schemas.Argument) -> Argument:
    return Argument(
        key=key,
        flags=raw.get("flags", ("--" + key.replace("_", "-"),)),
        action=raw["action"],
        field=raw.get("field", key),
        type=raw.get("type", ""),
        nargs=raw.get("nargs", ""),
        const=raw.get("const"),
        choices=raw.get("choices", ()),
        keys=raw.get("keys", {}),
        json=raw.get("json", {}),
        undecided=raw.get("undecided", False),
        deprecated=raw.get("deprecated", False),
        replacement=raw.get("replacement", ""),
    )


def _spellings(arguments: Mapping[str, Argument]) -> Iterator[tuple[str, str]]:
    """Flags first: where one is the name of another's field, the field wins."""
    for key, argument in arguments.items():
        for flag in argument.flags:
            if flag != argument.negated:
                yield flag.removeprefix("--").replace("-", "_"), key
    yield from ((key, key) for key in arguments)


def versions_with(name: str) -> tuple[versions.Version, ...]:
    """The known versions that have a name, oldest first."""
    marks = history.NAMES.get(name, "")
    return tuple(known for known, mark in zip(KNOWN, marks, strict=False) if mark == "x")


def replacement(name: str) -> str:
    """What SGLang has ever said to use instead of an argument, if anything."""
    return history.REPLACEMENTS.get(name, "")
