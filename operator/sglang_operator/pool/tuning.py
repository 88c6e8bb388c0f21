"""``restart.autoTune``: another mem_fraction_static after failures for memory.  Pure.

Off unless the user gives bounds.  After KVCacheTooSmall the share is raised, after CUDAOutOfMemory
lowered: first to what the plan of the engine's memory says, where that is known and farther than a
step, then a step at a time, at most ``tries`` times, always in one direction.  One engine tries a
new value before the others follow, and engines that run are left as they are: they take it with
their next pod.  The status remembers it, so that it is never silent and outlives pods; a changed
spec begins anew.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from sglang_operator.api.names import EngineName
from sglang_operator.api.spec import TuneRange
from sglang_operator.engine import signatures

if TYPE_CHECKING:
    from sglang_operator.engine.diagnosis import Diagnosis

DIRECTIONS: Mapping[str, int] = {
    signatures.KV_CACHE_TOO_SMALL: 1,
    signatures.CUDA_OUT_OF_MEMORY: -1,
}
# The most that ``tries`` may be.  Each change is one more command line that is rendered whenever
# the pool is judged, in the loop that serves all pools.
MOST_TRIES = 10
_DIGITS = 4
# The share that is planned for an engine, up (1) or down (-1); None: nothing is known of it.
Planned = Callable[[EngineName, int], float | None]


def _not_known(_: EngineName, __: int) -> float | None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The change in force."""

    base: str  # revision of the spec as it is written
    start: float  # what the spec says
    value: float
    changes: int
    reason: str  # of the last change, and which engine failed for it
    engine: EngineName
    planned: float | None = None  # the value that it began with, within no bounds; None: a step

    @property
    def direction(self) -> int:
        return 1 if self.value > self.start else -1


def values(tuning: Tuning | None, bounds: TuneRange) -> tuple[float, ...]:
    """Every value that was in force so far, the present one last; without the spec's own.

    More than ``tries`` where fewer are allowed now than were: engines run with what is in force.
    """
    if tuning is None:
        return ()
    begun, changes = (tuning.start, tuning.planned, tuning.direction), tuning.changes
    return tuple(_moved(*begun, step, bounds) for step in range(1, min(changes, MOST_TRIES) + 1))


def next_change(
    base: str,
    start: float,
    tuning: Tuning | None,
    bounds: TuneRange,
    failed: Iterable[tuple[EngineName, "Diagnosis"]],
    planned: Planned = _not_known,
) -> Tuning | None:
    """The next change, after these failures at the value in force; None if there is none to make.

    ``planned`` is asked once, before the first change: afterwards the engines know better.

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
        goal = tuning.planned if tuning else planned(engine, direction)
        if goal is not None and (goal - start) * direction <= bounds.step:
            goal = None
        value = _moved(start, goal, direction, changes + 1, bounds)
        if value == (tuning.value if tuning else start):
            return None  # at its bound
        return Tuning(
            base=base,
            start=start,
            value=value,
            changes=changes + 1,
            reason=told.reason,
            engine=engine,
            planned=goal,
        )
    return None


def _moved(
    start: float, planned: float | None, direction: int, changes: int, bounds: TuneRange
) -> float:
    """The value after so many changes: of a plan, the first is the plan itself."""
    steps = direction * (changes if planned is None else changes - 1)
    value = (start if planned is None else planned) + steps * bounds.step
    return round(min(bounds.max, max(bounds.min, value)), _DIGITS)


# --- in the status


def written(tuned: Tuning, bounds: TuneRange) -> dict[str, Any]:
    """``status.tuning``."""
    begun = {} if tuned.planned is None else {"planned": tuned.planned}
    return begun | {
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
    found: Any = status.get("tuning")
    match found:
        case {
            "baseRevision": str(base),
            "from": int() | float() as start,
            "memFractionStatic": int() | float() as value,
            "changes": int(changes),
            "reason": str(reason),
            "engine": str(engine),
        }:
            planned = found.get("planned")
        case _:
            return None
    if not 0 < changes <= MOST_TRIES or not isinstance(planned, (int, float, NoneType)):
        return None
    if not all(math.isfinite(number) for number in (start, value, planned or 0)):
        return None
    return Tuning(
        base=base,
        start=float(start),
        value=float(value),
        changes=changes,
        reason=reason,
        engine=EngineName(engine),
        planned=None if planned is None else float(planned),
    )
