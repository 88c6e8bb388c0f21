"""``restart.autoTune``: another mem_fraction_static after failures for memory.  Pure.

Off unless the user gives bounds.  After KVCacheTooSmall the share is raised, after CUDAOutOfMemory
lowered, a step at a time and at most ``tries`` times, always in one direction.  One engine tries a
new value before the others follow, and engines that run are left as they are: they take it with
their next pod.  The status remembers it, so that it is never silent and outlives pods; a changed
spec begins anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.api.names import EngineName
from sglang_operator.api.spec import TuneRange
from sglang_operator.engine import signatures
from sglang_operator.engine.diagnosis import Diagnosis

DIRECTIONS: Mapping[str, int] = {
    signatures.KV_CACHE_TOO_SMALL: 1,
    signatures.CUDA_OUT_OF_MEMORY: -1,
}
_DIGITS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The change in force."""

    base: str  # revision of the spec as it is written
    start: float  # what the spec says
    value: float
    changes: int
    reason: str  # of the last change, and which engine failed for it
    engine: EngineName

    @property
    def direction(self) -> int:
        return 1 if self.value > self.start else -1


def values(tuning: Tuning | None, bounds: TuneRange) -> tuple[float, ...]:
    """Every value that was in force so far, the present one last; without the spec's own."""
    if tuning is None:
        return ()
    steps = range(1, tuning.changes + 1)
    return tuple(_moved(tuning.start, tuning.direction * step, bounds) for step in steps)


def next_change(
    base: str,
    start: float,
    tuning: Tuning | None,
    bounds: TuneRange,
    failed: Iterable[tuple[EngineName, Diagnosis]],
) -> Tuning | None:
    """The next change, after these failures at the value in force; None if there is none to make.

    Of failures that ask for opposite changes the first counts; against the direction so far
    nothing is changed any more: a step too far is a human's to judge.
    """
    changes = tuning.changes if tuning else 0
    if changes >= bounds.tries:
        return None
    for engine, told in failed:
        direction = DIRECTIONS.get(told.reason)
        if direction is None or (tuning is not None and direction != tuning.direction):
            continue
        value = _moved(start, direction * (changes + 1), bounds)
        if value == (tuning.value if tuning else start):
            return None  # at its bound
        return Tuning(
            base=base,
            start=start,
            value=value,
            changes=changes + 1,
            reason=told.reason,
            engine=engine,
        )
    return None


def _moved(start: float, steps: int, bounds: TuneRange) -> float:
    return round(min(bounds.max, max(bounds.min, start + steps * bounds.step)), _DIGITS)


# --- in the status


def written(tuned: Tuning, bounds: TuneRange) -> dict[str, Any]:
    """``status.tuning``."""
    return {
        "memFractionStatic": tuned.value,
        "from": tuned.start,
        "changes": tuned.changes,
        "limit": bounds.tries,
        "reason": tuned.reason,
        "engine": tuned.engine,
        "baseRevision": tuned.base,
    }


def read(status: Mapping[str, Any]) -> Tuning | None:
    """From the status; None if there is none, or somebody wrote something else there."""
    found = status.get("tuning")
    try:
        return (
            None
            if found is None
            else Tuning(
                base=str(found["baseRevision"]),
                start=float(found["from"]),
                value=float(found["memFractionStatic"]),
                changes=int(found["changes"]),
                reason=str(found["reason"]),
                engine=EngineName(str(found["engine"])),
            )
        )
    except (KeyError, TypeError, ValueError):
        return None
