"""What is still known of a pool whose spec is refused: its name, what is found of it, its registry.

The registry says how the spec was last understood.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.children import trainer_registry
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.model import Observed
from sglang_operator.pool.resolve import Owner


def told_port(told: Mapping[str, Any]) -> int:
    """The port that a registry tells.  Raises ValueError for what is none, KeyError, TypeError."""
    found = told["port"]
    if type(found) is not int or not 0 < found <= trainer_registry.LAST_PORT:
        raise ValueError
    return found


@dataclass(frozen=True, kw_only=True)
class LastKnown:
    """A pool without its spec."""

    owner: Owner
    weights: GatePlan
    observed: Observed
    now: float  # by the steady clock

    @cached_property
    def registry(self) -> Any:
        """What the pool's registry says, whoever wrote it; an empty map where that is nothing."""
        found = self.observed.children.get(("ConfigMap", names.registry_name(self.owner.name)))
        if found is None or found.owner != self.owner.uid or not found.whole:
            return {}
        try:
            return orjson.loads(dict(found.body.get("data") or {})[trainer_registry.ENGINES_KEY])
        except (KeyError, TypeError, ValueError, RecursionError):
            return {}

    @property
    def port(self) -> int | None:
        """Where engines listened; None where that is not told."""
        try:
            return told_port(self.registry)
        except (KeyError, TypeError, ValueError):
            return None

    def spec_of(self, kind: str, name: str) -> dict[str, Any] | None:
        """The spec of the pool's object of this name; None if there is none."""
        child = self.observed.children.get((kind, name))
        if child is None or child.owner != self.owner.uid:
            return None
        return dict(child.body.get("spec") or {})
