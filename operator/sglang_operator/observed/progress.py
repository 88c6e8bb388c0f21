"""Whether an engine gets its work done: what ``restart.hangSeconds`` goes by.  Pure.

An engine hangs if it has requests and nothing moves.  Sleep, pause, a sync and a long prefill must
never be taken for that, so everything that may be one of them counts as movement:

- the scheduler answers (it does between any two steps, while it is paused or asleep too);
- the load it tells has changed since the last time;
- the engine says that it is paused (``/ready``, from 0.5.20; before, see the first);
- its HTTP server does not answer at all: that is for the kubelet's liveness probe.

A sync or a sleep that a trainer has announced in the Lease is not even asked about.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What an engine told of its work at one time."""

    busy: bool | None = None  # it has requests; None: it did not say
    mark: int | None = None  # a number that changes as work is done
    moves: bool = False  # the scheduler answered, or the engine is paused


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What is known of an engine's work so far; times are by the steady clock."""

    since: float  # the last time at which it was idle, or something moved
    busy: bool = False
    mark: int | None = None


def advance(before: Progress | None, seen: Load, now: float) -> Progress:
    """What is known after one more look."""
    if before is None:
        return Progress(since=now, busy=bool(seen.busy), mark=seen.mark)
    busy = before.busy if seen.busy is None else seen.busy
    changed = seen.mark is not None and seen.mark != before.mark
    moved = seen.moves or changed or not busy
    mark = before.mark if seen.mark is None else seen.mark
    return Progress(since=now if moved else before.since, busy=busy, mark=mark)


def stuck_since(progress: Progress, now: float) -> float | None:
    """Since when nothing moves; None if something did at the last look."""
    return progress.since if progress.since < now else None
