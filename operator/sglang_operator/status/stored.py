"""What of a stored status can be used: it may be of another version of the operator.  Pure.

The definition requires little, and another version may write less of an entry, or words that this
one does not know.  Whoever reads a stored status reads what is left here, and raises nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sglang_operator.api.spec import WeightsGate
from sglang_operator.placement import devices
from sglang_operator.placement.devices import Pin
from sglang_operator.weights.lease_state import Transaction, of_phase

_TIMES = ("firstTime", "lastTime")


def understood(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status without what is not of the shape that this version reads."""
    found = {}
    for field, value in status.items():
        read = _READERS.get(field)
        if read is None:
            found[field] = value
        elif (known := read(value)) is not None:
            found[field] = known
    return found


def gate_of(status: Mapping[str, Any]) -> WeightsGate:
    """The gate that a stored status says was resolved; Off if none ever was.

    Under a gate of which this version knows nothing, engines serve what a trainer has committed.
    """
    word = understood(status).get("resolved", {}).get("gate")
    resolved = {gate.value: gate for gate in WeightsGate if gate is not WeightsGate.AUTO}
    if not isinstance(word, str) or not word:
        return WeightsGate.OFF
    return resolved.get(word, WeightsGate.COMMITTED)


def came_up(status: Mapping[str, Any]) -> str:
    """The revision of which engines were up when the status was told, or had been; "": of none."""
    known = understood(status)
    up = known.get("engines", {}).get("up", 0) > 0 or known.get("reported")
    return known.get("revision", "") if up else ""


def said_of(status: Mapping[str, Any]) -> Transaction | None:
    """What the weights Lease said when the status was told; None if nothing was told of it."""
    return of_phase(understood(status).get("weights", {}).get("phase"))


def pins_of(status: Mapping[str, Any]) -> dict[int, Pin]:
    """Which devices claims had when the status was told, by node rank."""
    return devices.pins(understood(status).get("slots", ()))


def _slots(value: Any) -> list[dict[str, Any]]:
    return _entries(value, "claim")


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _counts(value: Any) -> dict[str, Any] | None:
    known = _object(value) or {}
    return {k: v for k, v in known.items() if isinstance(v, int) and not isinstance(v, bool)}


def _weights(value: Any) -> dict[str, Any] | None:
    known = _object(value)
    if known is None or "history" not in known:
        return known
    return known | {"history": _entries(known["history"])}


def _memory(value: Any) -> dict[str, Any] | None:
    """Numbers where numbers are meant."""
    known = _object(value)
    if known is None:
        return None
    columns = {k: _numbers(known[k]) for k in ("planned", "reported") if k in known}
    texts = {k: known[k] for k in ("card", "worstEngine") if isinstance(known.get(k), str)}
    return {k: v for k, v in columns.items() if v} | texts | _numbers(known)


def _numbers(value: Any) -> dict[str, float]:
    known = _object(value) or {}
    return {
        k: v for k, v in known.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }


def _entries(value: Any, *needed: str) -> list[dict[str, Any]]:
    """The entries of a list that have these texts."""
    return list(_each(value, needed))


def _each(value: Any, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in needed):
            yield entry


def _conditions(value: Any) -> list[dict[str, Any]]:
    texts = ("reason", "message", "lastTransitionTime")
    found = _entries(value, "type", "status")
    return [c | {k: c[k] if isinstance(c.get(k), str) else "" for k in texts} for c in found]


def _failures(value: Any) -> list[dict[str, Any]]:
    """Each has both its times, and engines; one without any time tells of no failure."""
    found = []
    for entry in _entries(value, "reason", "message"):
        times = [entry[key] for key in _TIMES if isinstance(entry.get(key), str) and entry[key]]
        if not times:
            continue
        engines = entry.get("engines")
        named = [e for e in engines if isinstance(e, str)] if isinstance(engines, list) else []
        optional = {k: entry[k] for k in ("advice", "pod") if isinstance(entry.get(k), str)}
        code = {"exitCode": c} if isinstance(c := entry.get("exitCode"), int) else {}
        bounds = {"firstTime": min(times), "lastTime": max(times), "engines": named}
        texts = {key: entry[key] for key in ("reason", "message")}
        found.append(texts | optional | code | bounds)
    return found


def _warnings(value: Any) -> list[dict[str, Any]]:
    return _entries(value, "reason", "field", "message")


def _nodes(value: Any) -> list[dict[str, Any]]:
    return _entries(value, "name", "pods")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "conditions": _conditions,
    "lastFailures": _failures,
    "warnings": _warnings,
    "engines": _counts,
    "weights": _weights,
    "resolved": _object,
    "reported": _object,
    "memory": _memory,
    "nodes": _nodes,
    "tuning": _object,
    "rollout": _object,
    "slots": _slots,
    "revision": _text,
    "placement": _text,
    "readySummary": _text,
    "syncedSummary": _text,
}
