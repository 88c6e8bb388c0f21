"""What is wrong with a pool and what to do next, in the order in which it matters.  Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sglang_operator.api import conditions
from sglang_operator.api import texts as operator_texts
from sglang_operator.api.spec import WeightsGate
from sglang_operator.cli import texts
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.pool.resolve import Pool, Refused
from sglang_operator.view import ages
from sglang_operator.view import texts as view_texts
from sglang_operator.view.cluster_view import PoolView

# A pool that nobody looked at for so long has no operator.
UNSEEN_SECONDS = 15.0


class Level(Enum):
    """How bad it is."""

    BROKEN = "broken"  # a human has to do something
    WORKING = "working"  # it gets better by itself, or should
    NOTE = "note"  # good to know


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One thing to say about a pool."""

    level: Level
    reason: str
    what: str
    do: str = ""

    def record(self) -> dict[str, str]:
        return {
            "level": self.level.value,
            "reason": self.reason,
            "what": self.what,
            "do": self.do,
        }


def verdicts(pool: PoolView, now: float) -> list[Verdict]:
    """Everything there is to say, the worst first."""
    found = list(_found(pool, now))
    order = list(Level)
    return sorted(found, key=lambda verdict: order.index(verdict.level))


def _found(pool: PoolView, now: float) -> Iterator[Verdict]:
    if pool.record.metadata.deletion_timestamp is not None:
        what = texts.DELETING.format(held=operator_texts.held(pool.record.metadata.finalizers))
        yield Verdict(level=Level.WORKING, reason="Deleting", what=what)
        return
    if isinstance(pool.resolved, Refused):
        for problem in pool.resolved.errors:
            yield Verdict(
                level=Level.BROKEN,
                reason=problem.reason,
                what=str(problem),
                do=texts.DO_EDIT.format(name=pool.name, namespace=pool.namespace),
            )
        yield from _of_refused_pool(pool)
    unseen = _unseen(pool, now)
    if unseen:
        yield unseen
    elif isinstance(pool.resolved, Pool):
        yield from _condition(pool, now)
        yield from _weights(pool, pool.resolved)
        yield from _outdated(pool, pool.resolved)
    yield from _failures(pool, now)
    yield from _warnings(pool)


def _of_refused_pool(pool: PoolView) -> Iterator[Verdict]:
    """What a refused spec leaves as it is."""
    count = len(pool.plan.engines)
    if count:
        what = texts.ENGINES_GO_ON.format(count=count, gpus=count * pool.gpus)
        yield Verdict(level=Level.NOTE, reason="SpecNotInForce", what=what)


def _unseen(pool: PoolView, now: float) -> Verdict | None:
    """The operator has not looked at the spec as it is now."""
    if pool.observed:
        return None
    created = pool.record.metadata.creation_timestamp
    young = created is not None and now - created.timestamp() < UNSEEN_SECONDS
    generation = pool.record.metadata.generation
    return Verdict(
        level=Level.WORKING if young else Level.BROKEN,
        reason=view_texts.NOT_SEEN_YET,
        what=texts.UNSEEN.format(generation=generation),
        do="" if young else texts.DO_DOCTOR,
    )


def _condition(pool: PoolView, now: float) -> Iterator[Verdict]:
    """What the operator says: at most one of Stalled and Reconciling, and Suspended."""
    stalled = pool.condition(conditions.STALLED)
    working = pool.condition(conditions.RECONCILING)
    suspended = pool.condition(conditions.SUSPENDED)
    cause = "".join(_engines_and_age(entry, texts.FAILED_LAST, now) for entry in _told_of(pool)[:1])
    if stalled:
        yield _told(pool, stalled, Level.BROKEN, cause)
    elif working:
        bad = working["reason"] not in _PROGRESS
        yield _told(pool, working, Level.BROKEN if bad else Level.WORKING, cause)
    if suspended:
        yield _told(pool, suspended, Level.NOTE)


# Reasons for which there is nothing to do but wait.
_PROGRESS = frozenset(
    {
        conditions.CREATING,
        conditions.SCALING,
        conditions.ROLLING_UPDATE,
        conditions.ENGINES_STARTING,
        conditions.WAITING_FOR_QUOTA,
        conditions.WAITING_FOR_GANG,
        conditions.TERMINATING,
    }
)

_NEXT = {
    conditions.DEVICES_PENDING: texts.DO_MAP,
    conditions.QUOTA_EXCEEDED: texts.DO_QUOTA,
    conditions.WAITING_FOR_QUOTA: texts.DO_QUEUE,
    conditions.NOT_QUEUED: texts.DO_KUEUE,
    conditions.WAITING_FOR_GANG: texts.DO_GROUPS,
    conditions.GANG_NOT_SERVED: texts.DO_GANG,
    conditions.NODE_LOST: texts.DO_NODES,
    conditions.ENGINES_FAILING: texts.DO_LOGS,
    conditions.POD_REJECTED: texts.DO_EDIT,
    conditions.SUSPENDED_REASON: texts.DO_UNSUSPEND,
    conditions.ENGINES_STARTING: texts.DO_LOGS,
    conditions.ROLLING_UPDATE: texts.DO_ROLLOUT,
    conditions.ENGINES_WITHOUT_GATE: texts.DO_ROLLOUT,
    conditions.PART_ASLEEP: texts.DO_WAKE,
    "ImagePullBackOff": texts.DO_IMAGE,
    "ErrImagePull": texts.DO_IMAGE,
    "InvalidImageName": texts.DO_IMAGE,
}


def _told(pool: PoolView, condition: Any, level: Level, cause: str = "") -> Verdict:
    template = _NEXT.get(condition["reason"], "")
    return Verdict(
        level=level,
        reason=condition["reason"],
        what=condition["message"] + cause,
        do=template.format(name=pool.name, namespace=pool.namespace),
    )


def _weights(pool: PoolView, resolved: Pool) -> Iterator[Verdict]:
    """Engines that are up and kept from requests."""
    closed = pool.count(EngineState.UP)
    told = pool.condition(conditions.WEIGHTS_SYNCED)
    reason = told.get("reason", conditions.WAITING_FOR_TRAINER)
    gated = resolved.gate is not WeightsGate.OFF
    if reason in (conditions.ENGINES_WITHOUT_GATE, conditions.PART_ASLEEP):
        yield _told(pool, told, Level.NOTE)
    elif reason == conditions.ASLEEP:
        desired = len(pool.plan.engines)
        asleep = texts.GATES_ASLEEP.format(closed=closed, desired=desired)
        yield Verdict(
            level=Level.NOTE,
            reason=reason,
            what=asleep if gated else told["message"],
            do=texts.DO_WAKE.format(name=pool.name, namespace=pool.namespace),
        )
    elif closed and gated:
        yield Verdict(
            level=Level.NOTE,
            reason=reason,
            what=texts.GATES_CLOSED.format(
                closed=closed, desired=len(pool.plan.engines), gate=resolved.gate.value
            ),
            do=texts.DO_COMMIT.format(name=pool.name, namespace=pool.namespace),
        )


def _outdated(pool: PoolView, resolved: Pool) -> Iterator[Verdict]:
    old = sum(engine.outdated for engine in pool.plan.engines)
    if old and resolved.spec.rollout.paused:
        yield Verdict(
            level=Level.NOTE,
            reason="RolloutPaused",
            what=texts.ROLLOUT_HELD.format(old=old, desired=len(pool.plan.engines)),
            do=texts.DO_RESUME.format(name=pool.name, namespace=pool.namespace),
        )


_TELLING = (conditions.STALLED, conditions.RECONCILING)


def remembered(pool: PoolView) -> list[Any]:
    """The causes that the operator remembers, the latest first."""
    found: Sequence[Any] = pool.record.status.get("lastFailures", [])
    return sorted(found, key=lambda entry: str(entry["lastTime"]), reverse=True)


def _told_of(pool: PoolView) -> list[Any]:
    """Those of them that a condition tells, with their advice."""
    said = [pool.condition(type_) for type_ in _TELLING if pool.condition(type_)]
    return [entry for entry in remembered(pool) if any(_tells(each, entry) for each in said)]


def _tells(condition: Mapping[str, str], entry: Any) -> bool:
    """Whether this is the cause that a condition names, in whichever words of several engines."""
    reason, message = entry["reason"], condition["message"]
    named = f"after {reason}: ", f"with {reason}, "
    return (
        condition["reason"] == reason
        or entry["message"] in message
        or any(each in message for each in named)
    )


def _failures(pool: PoolView, now: float) -> Iterator[Verdict]:
    """The causes that no condition tells of."""
    troubled = pool.count(EngineState.BACKOFF, EngineState.LOST) > 0
    told = _told_of(pool)
    for entry in remembered(pool):
        if entry in told:
            continue
        text = texts.FAILED_BEFORE if "exitCode" in entry else texts.FAILED_TO_RUN
        yield Verdict(
            level=Level.BROKEN if troubled else Level.NOTE,
            reason=entry["reason"],
            what=_engines_and_age(entry, text, now),
            do=entry.get("advice", ""),
        )


def _engines_and_age(entry: Any, text: str, now: float) -> str:
    engines = entry.get("engines", [])
    more = f" and {len(engines) - 3} more" if len(engines) > 3 else ""
    told = ", ".join(engines[:3]) + more
    age = ages.since(str(entry["lastTime"]), now)
    return text.format(engines=told, age=age, message=entry["message"])


def _warnings(pool: PoolView) -> Iterator[Verdict]:
    """What is odd about the spec, and what the operator saw of its engines beside."""
    told = set()
    if isinstance(pool.resolved, Pool):
        for problem in pool.resolved.warnings:
            told.add((problem.reason, problem.field))
            yield Verdict(level=Level.NOTE, reason=problem.reason, what=str(problem))
    for entry in pool.record.status.get("warnings", []) if pool.observed else ():
        if (entry["reason"], entry["field"]) not in told:
            what = ": ".join(filter(None, (entry["field"], entry["message"])))
            yield Verdict(level=Level.NOTE, reason=entry["reason"], what=what)
