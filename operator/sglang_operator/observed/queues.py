"""What a pod tells of the queue that it waits in, or that takes it back.  Pure."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from sglang_operator.api import names
from sglang_operator.scheduling.base import Waiting

LABELS = frozenset({names.LABEL_QUEUE, names.LABEL_QUEUE_PRIORITY})


class Condition(Protocol):
    """A condition of a pod."""

    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...


def of(labels: Mapping[str, str]) -> Waiting | None:
    """The queue that a pod names; None if it names none."""
    queue = labels.get(names.LABEL_QUEUE)
    return None if queue is None else _shared(queue, labels.get(names.LABEL_QUEUE_PRIORITY, ""))


@lru_cache(maxsize=256)
def _shared(queue: str, priority: str) -> Waiting:
    """One for all pods of a pool."""
    return Waiting(queue, priority)


def disruption(labels: Mapping[str, str], conditions: Mapping[str, Condition]) -> tuple[str, str]:
    """Why somebody takes the pod away, and a queue's own words for it; empty while nobody does.

    A queue that takes back what it had let in says so by a condition of its own.
    """
    found = conditions.get("DisruptionTarget")
    if found is not None and found.status == "True":
        return found.reason, ""
    if names.LABEL_QUEUE not in labels:
        return "", ""
    stopped = conditions.get(names.CONDITION_QUEUE_STOPPED)
    if stopped is None or stopped.status != "True":
        return "", ""
    return stopped.reason, stopped.message
