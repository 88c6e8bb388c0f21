"""Whether a rollout gets on: what ``rollout.progressDeadlineSeconds`` goes by.  Pure.

As a Deployment does it: a revision is on its way until all engines that are to run it were up at
once, and gets on whenever one more of them is up than ever before, or one fewer is missing: of a
pool that became smaller in the middle fewer are up.  One that is resumed has the whole time again.
While it waits for the trainer's turn to end no time passes, and what had passed before counts on
after it: a trainer's next turn comes sooner than any deadline.  What happens to engines once all
were up is no rollout's any more, nor is a pool that grows then, as who scales a Deployment rolls
nothing out.  But a lower partition is a rollout again: it lets the revision into engines that were
held back from it.

The status is the memory: the revision, the partition down to which it went, how many of its
engines were up, and the stamp of the last time.  Between two passes of one operator that time is
kept by the clock that nobody sets; one that begins believes the stamp, and only this once.  In a
trainer's turn there is no stamp: it does not know what had passed, and gives the whole time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sglang_operator.api import texts
from sglang_operator.observed.moment import Moment
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import failures
from sglang_operator.weights import times

# What ends without the operator, by the trainer.
_TRAINERS_TURN = frozenset({Waits.FOR_SYNC, Waits.FOR_WAKE, Waits.FOR_WINDOW, Waits.FOR_WEIGHTS})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the rollout of one revision came."""

    revision: str  # of the spec as it is written: what autoTune tries is no rollout of its own
    up: int = 0  # the most of its engines that were up at once
    missing: int | None = None  # the fewest that were not; None: not known yet, by this operator
    since: Moment | None = None  # when it last got on; None: no time passes
    spent: float = 0.0  # seconds that had passed when time ceased to pass, until it does again
    complete: bool = False
    partition: int = 0  # the rank from which on it was let in
    of: int = 0  # engines that are to run it
    overdue: bool = False  # it took longer than the spec allows

    def written(self) -> dict[str, Any]:
        """As it stands in the status."""
        told: dict[str, Any] = {"revision": self.revision, "up": self.up}
        if self.complete:
            told["complete"] = True
        if self.partition:
            told["partition"] = self.partition
        if self.since is not None:
            told["progressed"] = failures.rfc3339(self.since.wall)
        return told


def advance(
    pool: Pool, plan: Plan, stored: Mapping[str, Any], known: Progress | None, at: Moment
) -> Progress | None:
    """How far it is now; None where nobody wants to know.

    ``stored`` is what the status says, ``known`` what this operator made of it last.
    """
    rollout = pool.spec.rollout
    limit = rollout.progress_deadline_seconds
    if limit is None or pool.spec.suspend:
        return None
    revision, partition = pool.base_revision, rollout.partition
    before = _before(revision, partition, stored, known, at)
    coming = [e for e in plan.engines if e.current or e.rank >= partition]
    up = sum(engine.current and engine.up for engine in coming)
    if before.complete and not _covers(before, partition):
        # Counted anew: of those that were up some may have gone with a smaller pool.
        before = Progress(revision=revision, up=up)
    missing = len(coming) - up
    fewest = missing if before.missing is None else min(missing, before.missing)
    gets_on = up > before.up or (before.missing is not None and fewest < before.missing)
    now = Progress(
        revision=revision,
        up=max(up, before.up),
        missing=fewest,
        partition=partition,
        of=len(coming),
    )
    replaces = any(engine.outdated for engine in coming)  # ranks may shift: over the partition too
    if not missing or (before.complete and not replaces):
        reached = before.partition if before.complete else partition
        return replace(now, complete=True, partition=reached)
    if rollout.paused:
        return now
    spent = 0.0 if gets_on else _spent(before, at)
    overdue = spent >= limit
    if plan.waiting is not None and plan.waiting.what in _TRAINERS_TURN:
        return replace(now, spent=spent, overdue=overdue)
    since = before.since
    if since is None or gets_on:
        since = Moment(wall=at.wall - spent, steady=at.steady - spent)
    return replace(now, since=since, overdue=overdue)


def _spent(before: Progress, at: Moment) -> float:
    """Seconds for which it has not got on, without those in which no time passed."""
    return before.spent if before.since is None else at.steady - before.since.steady


def due(pool: Pool, progress: Progress | None) -> float | None:
    """When it will have taken too long, by the steady clock; None: it has already, or never."""
    limit = pool.spec.rollout.progress_deadline_seconds
    if limit is None or progress is None or progress.since is None or progress.overdue:
        return None
    return progress.since.steady + limit


def message(pool: Pool, progress: Progress, reason: str, told: str) -> str:
    """What is told of one that took too long, and what it is at by this reason and these words."""
    owner = pool.owner
    return texts.PROGRESS_DEADLINE.format(
        revision=pool.revision,
        seconds=pool.spec.rollout.progress_deadline_seconds,
        up=min(progress.up, progress.of - (progress.missing or 0)),
        desired=progress.of,
        reason=reason,
        message=told,
        command=texts.DO_PAUSE.format(name=owner.name, namespace=owner.namespace),
    )


def _covers(progress: Progress, partition: int) -> bool:
    """Whether it completed with all engines from this rank on, if with any."""
    return progress.complete and progress.up > 0 and progress.partition <= partition


def _before(
    revision: str,
    partition: int,
    stored: Mapping[str, Any],
    known: Progress | None,
    at: Moment,
) -> Progress:
    """What was known before: by the status, if that is ahead, as another operator's may be.

    One that was told of another partition is of an earlier rollout of this revision, and behind.
    """

    def order(progress: Progress) -> tuple[bool, bool, int]:
        same = progress.partition == partition
        return _covers(progress, partition), same, progress.up

    found = _read(stored, at)
    if known is not None and known.revision == revision:
        return found if found.revision == revision and order(found) > order(known) else known
    return found if found.revision == revision else Progress(revision=revision)


def _read(stored: Mapping[str, Any], at: Moment) -> Progress:
    stamp = stored.get("progressed")
    up, partition = (stored.get(name) for name in ("up", "partition"))
    since = None
    if wall := times.seconds(stamp):
        since = Moment(wall=wall, steady=at.steady - max(0.0, at.wall - wall))
    return Progress(
        revision=str(stored.get("revision", "")),
        up=up if isinstance(up, int) else 0,
        since=since,
        complete=stored.get("complete") is True,
        partition=partition if isinstance(partition, int) else 0,
    )
