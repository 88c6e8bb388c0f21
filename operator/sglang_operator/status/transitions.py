"""What is worth an Event between the stored status and the new one.  Pure.

Only transitions are told: a status that stays as it was is silent, however often it is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.api import conditions, texts
from sglang_operator.status import stored

NORMAL = "Normal"
WARNING = "Warning"


@dataclass(frozen=True, kw_only=True)
class Event:
    type: str
    reason: str
    message: str


def events(previous: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Event]:
    """The Events that the step from ``previous`` to ``new`` is worth, the causes first."""
    previous = stored.understood(previous)
    yield from _new_entries(previous, new, "warnings", ("reason", "field"))
    yield from _new_entries(previous, new, "lastFailures", ("reason",))
    tuned = new.get("tuning")
    if tuned and tuned != previous.get("tuning"):
        message = texts.TUNED.format(
            before=previous.get("tuning", {}).get("memFractionStatic", tuned["from"]),
            after=tuned["memFractionStatic"],
            **{key: tuned[key] for key in ("reason", "engine", "changes", "limit")},
        )
        yield Event(type=WARNING, reason=conditions.TUNED, message=message)
    for type_, level in (
        (conditions.STALLED, WARNING),
        (conditions.RECONCILING, NORMAL),
        (conditions.SUSPENDED, NORMAL),
    ):
        condition = conditions.find(new.get("conditions", []), type_)
        before = conditions.find(previous.get("conditions", []), type_)
        if condition and (before is None or before["reason"] != condition["reason"]):
            yield Event(type=level, reason=condition["reason"], message=condition["message"])
    ready = conditions.find(new.get("conditions", []), conditions.READY)
    was = conditions.find(previous.get("conditions", []), conditions.READY)
    became_ready = _is_true(ready) and not _is_true(was)
    if ready and became_ready:
        yield Event(type=NORMAL, reason=ready["reason"], message=ready["message"])


def _is_true(condition: Mapping[str, Any] | None) -> bool:
    return condition is not None and condition["status"] == conditions.TRUE


def _new_entries(
    previous: Mapping[str, Any], new: Mapping[str, Any], field: str, key: tuple[str, ...]
) -> Iterator[Event]:
    told = {tuple(entry.get(k) for k in key) for entry in previous.get(field, [])}
    for entry in new.get(field, []):
        if tuple(entry.get(k) for k in key) not in told:
            advice = f"; {entry['advice']}" if entry.get("advice") else ""
            yield Event(type=WARNING, reason=entry["reason"], message=entry["message"] + advice)
