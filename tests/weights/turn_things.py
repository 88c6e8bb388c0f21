"""What the models of turns are made of."""

from dataclasses import dataclass, field

from sglang_operator.api import names
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.pool.resolve import Engine
from sglang_operator.weights.lease_state import Transaction


@dataclass
class Process:
    """An engine in its pod: it holds memory once kubelet has started it, until it ends."""

    pod: ObservedPod
    released: bool = False
    ended: bool = False

    @property
    def holds(self) -> bool:
        return self.pod.engine_runs and not (self.ended or self.released)


@dataclass
class Operator:
    """What it saw last, and what it has sent that has not arrived."""

    seen: Observed | None = None
    said: Transaction | None = None
    creates: list[Engine] = field(default_factory=list)
    deletes: list[names.Uid] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """An engine in the registry."""

    devices: tuple[int, ...]
    instance: str | None
    up: bool
    waits: bool
