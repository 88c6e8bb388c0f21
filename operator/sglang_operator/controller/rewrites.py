"""Writes that do not last, because somebody puts back what was written.

An admission webhook, a policy or another operator may change each of our writes.  The first
repetitions go out at once: people edit things, and what is seen may be behind.  After that each
waits longer than the one before, and it is told; else two programs write against each other as fast
as the API server can.
"""

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import orjson

from sglang_operator import actions
from sglang_operator.backoff import Backoff
from sglang_operator.children import kinds
from sglang_operator.controller.requeue import Reason, Requeue

LASTING_SECONDS = 60.0  # what stood for so long was not put back
FREE = 3  # repetitions without a wait
BACKOFF = Backoff(0.5, 30.0)  # between two repetitions
# What must be kept from clients is closed again this soon.
URGENT_SECONDS = 1.0
TOLD = 5  # repetitions that are worth a word


Action = TypeVar("Action", bound=actions.GateAction | actions.ChildAction)


class Target(NamedTuple):
    """What is written."""

    kind: str
    name: str


@dataclass(slots=True)
class _Written:
    value: Hashable
    at: float  # monotonic
    times: int = 0  # that the same was written again


class Rewrites:
    """What was written lately for one pool, and how often it had to be written again."""

    def __init__(self) -> None:
        self._written: dict[Target, _Written] = {}
        self._pruned_at = float("-inf")

    def due(self, batch: Iterable[Action], requeue: Requeue) -> list[Action]:
        """The actions for now; the others wait."""
        now = []
        for action in batch:
            wait = self._wait(action)
            if wait <= 0:
                now.append(action)
            else:
                requeue.after(Reason.PUT_BACK, wait)
        return now

    def wrote(self, batch: Iterable[actions.GateAction | actions.ChildAction]) -> None:
        """All this was written, and taken."""
        now = time.monotonic()
        for action in batch:
            target, value = _content(action)
            known = self._written.get(target)
            if known is None or known.value != value or known.at < now - LASTING_SECONDS:
                self._written[target] = _Written(value, now)
            else:
                known.at, known.times = now, known.times + 1
        if self._pruned_at < now - LASTING_SECONDS:
            self._pruned_at = now
            lasting = ((t, w) for t, w in self._written.items() if w.at > now - LASTING_SECONDS)
            self._written = dict(lasting)

    def worst(self, *, spare: bool = False) -> tuple[Target, int] | None:
        """What had to be written again most often, if that is worth a word.

        ``spare``: among what pools do without, else among the rest.
        """
        oldest = time.monotonic() - LASTING_SECONDS
        told = [
            (known.times, target)
            for target, known in self._written.items()
            if known.times >= TOLD and known.at > oldest and kinds.is_spare(target.kind) is spare
        ]
        return (max(told)[1], max(told)[0]) if told else None

    def _wait(self, action: actions.GateAction | actions.ChildAction) -> float:
        target, value = _content(action)
        known = self._written.get(target)
        if known is None or known.value != value or known.times < FREE:
            return 0.0
        delay = BACKOFF.pause(known.times - FREE)
        if isinstance(action, actions.SetGate) and not action.is_open:
            delay = min(delay, URGENT_SECONDS)
        return max(0.0, known.at + delay - time.monotonic())


def _content(action: actions.GateAction | actions.ChildAction) -> tuple[Target, Hashable]:
    """What an action writes, and what it makes of it."""
    match action:
        case actions.SetGate():
            # The message of an open gate is the version: the next commit is no repetition.
            content = (action.uid, action.is_open, action.reason, action.message)
            return Target("Pod", action.name), content
        case actions.WriteLease():  # bound to one state of the Lease: never the same again
            return Target(kinds.LEASE.kind, action.name), action.patch["metadata"][
                "resourceVersion"
            ]
        case actions.CreateChild() | actions.UpdateChild():
            return Target(action.kind, action.name), hash(orjson.dumps(action.body))
        case actions.DeleteChild():
            return Target(action.kind, action.name), action.uid
