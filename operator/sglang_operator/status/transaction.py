"""What the status says of weights: the transaction of its Lease, and the commits before."""

from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.api import redaction
from sglang_operator.gates.decide import GatePlan
from sglang_operator.status import failures
from sglang_operator.weights.lease_state import Phase, Transaction

MAX_HISTORY = 10
_COMMIT = ("version", "committed")  # an entry of the history is known by these


def told(weights: GatePlan, previous: Mapping[str, Any]) -> dict[str, Any]:
    """``status.weights``; ``previous`` is what it was.  What is empty is left out."""
    current = weights.transaction
    found: dict[str, Any] = {
        "epoch": weights.epoch,
        "phase": weights.told.phase.value,
        "version": current.version,
        "synced": weights.synced,
        "holding": weights.holding,
        "skew": weights.skew,
        "message": redaction.in_words(current.message) if current.phase is Phase.ABORTED else "",
        "history": _history(current, previous.get("history", [])),
    }
    return {key: value for key, value in found.items() if value not in ("", [])}


def _history(
    current: Transaction, previous: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The last commits, the latest first.

    A commit is known by its time: resets, and those who take the weights on or wake engines, leave
    it committed under another identity.
    """
    if current.phase is not Phase.COMMITTED or not current.committed:
        return list(previous)
    entry = {
        "version": current.version,
        "engines": len(current.instances),
        "seconds": round(max(0.0, current.committed - current.begun), 3),
        "committed": failures.rfc3339(current.committed),
        "transaction": current.id,
    }
    if any(all(one.get(key) == entry[key] for key in _COMMIT) for one in previous):
        return list(previous)
    return [entry, *previous][:MAX_HISTORY]
