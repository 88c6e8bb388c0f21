"""Plan × observed × outcome → status, by kstatus' rules.  Pure.

``compute`` gives the whole status; what is worth an Event between two of them says
``status.transitions``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sglang_operator.api import conditions, errors, names, spec, texts
from sglang_operator.api.conditions import Condition
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import groups, health
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import EngineReport, Observed
from sglang_operator.placement.base import Placed
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool import shared_memory, tuning
from sglang_operator.pool.resolve import Owner, Pool, Refused
from sglang_operator.status import (
    failures,
    gangs,
    history,
    holdups,
    memory,
    reported,
    rollout_progress,
    rollout_waits,
    stored,
    synced,
    transaction,
)
from sglang_operator.status import nodes as nodes_of
from sglang_operator.status.history import Hindrance
from sglang_operator.status.rollout_progress import Progress

MAX_WARNINGS = 32
MAX_MESSAGE = 2048
# What a refused spec says nothing about stays as it was.
KEPT: tuple[str, ...] = ("revision", "resolved", "reported", "memory", "nodes")
KEPT += ("placement", "slots", "weights", "tuning")
MAX_SLOTS = 256


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What kept the executor from carrying out a plan, in condition form."""

    reason: str
    message: str
    stalled: bool = False  # only a human can help


@dataclass(frozen=True, kw_only=True)
class EngineCounts:
    """The engines of a pool, counted by where they stand."""

    desired: int
    up: int
    in_service: int
    created: int
    updated: int

    @classmethod
    def of(cls, plan: Plan) -> "EngineCounts":
        engines = plan.engines
        return cls(
            desired=len(engines),
            up=len(engines) - plan.coming,
            in_service=sum(engine.in_service for engine in engines),
            created=sum(engine.created for engine in engines),
            updated=sum(engine.updated for engine in engines),
        )


def compute(
    pool: Pool,
    plan: Plan,
    weights: GatePlan,
    *,
    ignored: Sequence[str],
    troubles: Sequence[Trouble],
    previous: Mapping[str, Any],
    now: float,
    reports: Mapping[str, EngineReport] | None = None,
    nodes: memory.Nodes = None,
    progress: Progress | None = None,
    window: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    unstored: Hindrance | None = None,
) -> dict[str, Any]:
    """The status of a pool that can be run.

    ``progress`` of its rollout, where it is watched; ``window``: since when, and until when, it
    goes by a trainer's steps; ``without`` these kinds of children it does;
    ``unstored``: what keeps revisions from being stored.
    """
    previous = stored.understood(previous)
    tally = EngineCounts.of(plan)
    said = reported.reported(pool, plan.engines, reports or {}, previous)
    seen = failures.seen(pool, plan)
    remembered = failures.merge(previous.get("lastFailures", []), seen)
    told = _negative(pool, plan, tally, troubles, seen, remembered, progress)
    wanted = _conditions(pool, plan, weights, tally, told)
    status: dict[str, Any] = {
        **_judged(pool.owner, wanted, previous, now),
        "replicas": tally.created,
        "selector": names.selector_text(pool.owner.name),
        "readySummary": f"{tally.up}/{tally.desired}",
        "syncedSummary": synced.summary(pool, weights, tally.desired, tally.in_service),
        "weights": transaction.told(weights, previous.get("weights", {})),
        "engines": {
            "desired": tally.desired,
            "created": tally.created,
            "up": tally.up,
            "inService": tally.in_service,
            "gpus": tally.desired * pool.gpus,
        },
        "revision": pool.revision,
        "placement": pool.spec.placement.mode.value,
        "resolved": {
            "image": pool.image,
            "engineVersion": str(pool.version),
            "numGpusPerWorker": pool.gpus,
            "tensorParallelSize": pool.arguments.tp_size,
            "gate": pool.gate.value,
            "loadFormat": pool.arguments.load_format,
        },
    }
    if slots := plan.seating.slots if plan.seating is not None else ():
        per_node = pool.spec.num_gpus_per_node
        status["slots"] = [slot.written(per_node) for slot in slots[:MAX_SLOTS]]
    if said:
        status["reported"] = said
    if places := nodes_of.told(pool, plan, previous):
        status["nodes"] = places
    if held := memory.memory(pool, plan.engines, reports or {}, nodes, previous):
        status["memory"] = held
    if told_of := (progress.written() if progress else {}) | ({"window": window} if window else {}):
        status["rollout"] = told_of
    if plan.tuning is not None and pool.bounds is not None:
        status["tuning"] = tuning.written(plan.tuning, pool.bounds)
    warnings = [
        *pool.warnings,
        *(plan.seating.warnings if plan.seating is not None else ()),
        *reported.warnings(pool, said, plan.engines),
        *history.warnings(pool, without, unstored),
        *memory.warnings(pool, plan.engines, held, nodes, previous),
        *_memory_limits(pool, plan),
    ]
    return status | _lists(ignored, warnings, remembered)


def _memory_limits(pool: Pool, plan: Plan) -> Iterator[errors.Problem]:
    """Limits below what is the pod's own in /dev/shm."""
    if pool.parts.shm is None:
        limits = (pod.memory_limit for pod in plan.pods)
        yield from shared_memory.of_limits(pool.template, pool.gpus_per_pod, limits)


def compute_refused(
    refused: Refused,
    observed: Observed,
    *,
    ignored: Sequence[str],
    previous: Mapping[str, Any],
    now: float,
    steady: float,
) -> dict[str, Any]:
    """The status of a pool whose spec is wrong: its pods stay as they are, and it says why.

    ``now`` is by the wall clock; ``steady`` by the one that nodes are seen by.
    """
    previous = stored.understood(previous)
    found = refused.errors
    message = _bounded("; ".join(str(problem) for problem in found))
    reason = found[0].reason
    abnormal = conditions.STALLED
    if observed.leaving:
        abnormal, reason = conditions.RECONCILING, conditions.TERMINATING
        message = _bounded(observed.leaving)
    wanted = [
        Condition(type=conditions.READY, status=conditions.FALSE, reason=reason, message=message),
        conditions.abnormal(abnormal, reason, message),
    ]
    nodes, policy = health.believed(observed, steady), spec.Restart()
    healths = {pod.uid: health.health(pod, nodes, policy, steady) for pod in observed.pods}
    there = groups.of(observed.pods)
    alive = [
        group
        for group in there
        if not (group.ended or group.dying)
        and groups.health(group, healths) is not health.Health.LOST
    ]
    up = sum(group.containers_ready for group in alive)
    in_service = sum(group.ready for group in alive)
    synced = sum(group.reachable for group in alive)
    engines = previous.get("engines", {})
    desired = engines.get("desired", 0)
    kept = {key: previous[key] for key in KEPT if key in previous}
    status: dict[str, Any] = {
        **_judged(refused.owner, wanted, previous, now),
        "replicas": len(there),
        "selector": names.selector_text(refused.owner.name),
        "readySummary": f"{up}/{desired}",
        "syncedSummary": f"{synced}/{desired}",
        "engines": {
            "desired": desired,
            "created": len(there),
            "up": up,
            "inService": in_service,
            "gpus": engines.get("gpus", 0),
        },
        **kept,
    }
    warnings = [p for p in refused.problems if p.severity is errors.Severity.WARNING]
    return status | _lists(ignored, warnings, previous.get("lastFailures", []))


def _lists(
    ignored: Sequence[str],
    warnings: Sequence[errors.Problem],
    remembered: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The lists of the status; an empty one is left out."""
    lists = {
        "ignoredFields": list(ignored),
        "warnings": [
            {"reason": p.reason, "field": p.field, "message": _bounded(p.message)}
            for p in warnings[:MAX_WARNINGS]
        ],
        "lastFailures": list(remembered),
    }
    return {key: value for key, value in lists.items() if value}


def _bounded(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


# --- conditions, in the order in which kstatus walks them


def _conditions(
    pool: Pool,
    plan: Plan,
    weights: GatePlan,
    tally: EngineCounts,
    negative: Sequence[Condition],
) -> list[Condition]:
    return [
        _ready(pool, tally, negative),
        *negative,
        _engines_ready(tally, negative),
        _devices_assigned(pool, plan),
        _weights_synced(pool, weights, tally),
    ]


def _negative(
    pool: Pool,
    plan: Plan,
    tally: EngineCounts,
    troubles: Sequence[Trouble],
    seen: Sequence[failures.Failure],
    remembered: Sequence[Mapping[str, Any]],
    rollout: Progress | None,
) -> list[Condition]:
    """The abnormal conditions: at most one of Stalled and Reconciling, and Suspended."""
    found: list[Condition] = []
    stalled = next((trouble for trouble in troubles if trouble.stalled), None) or _stalled(
        pool, plan
    )
    progress = None if stalled else _progress(pool, plan, tally, troubles, seen, remembered)
    if progress and rollout is not None and rollout.overdue:
        text = rollout_progress.message(pool, rollout, *progress)
        stalled = Trouble(reason=conditions.PROGRESS_DEADLINE, message=text, stalled=True)
    if stalled:
        found.append(
            conditions.abnormal(conditions.STALLED, stalled.reason, _bounded(stalled.message))
        )
    elif progress:
        found.append(conditions.abnormal(conditions.RECONCILING, *progress))
    if pool.spec.suspend:
        found.append(
            conditions.abnormal(conditions.SUSPENDED, conditions.SUSPENDED_REASON, texts.SUSPENDED)
        )
    return found


def _stalled(pool: Pool, plan: Plan) -> Trouble | None:
    """Engines that are given up; of several causes the one with most engines is told."""
    worst = max(plan.stalls, key=lambda stall: len(stall.engines), default=None)
    if worst is None and (wrong := holdups.misplaced(plan)) is not None:
        return Trouble(reason=wrong[0], message=wrong[1], stalled=True)
    if worst is None:
        waiting = plan.waiting
        if waiting is None or waiting.what is not Waits.FOR_ROOM:
            return None
        text = rollout_waits.message(pool, waiting)
        if told := holdups.lingering(pool, plan):
            text = f"{told[1]}; {text}"
        return Trouble(reason=conditions.NO_ROOM, message=text, stalled=True)
    cause = worst.cause
    message = texts.STALLED.format(
        engines=texts.engines(len(worst.engines)),
        restarts=worst.restarts,
        reason=cause.reason,
        message=cause.message,
        advice=cause.advice,
    )
    return Trouble(reason=cause.reason, message=message, stalled=True)


def _progress(
    pool: Pool,
    plan: Plan,
    tally: EngineCounts,
    troubles: Sequence[Trouble],
    seen: Sequence[failures.Failure],
    remembered: Sequence[Mapping[str, Any]],
) -> tuple[str, str] | None:
    """Reason and message of what is still to happen, the most telling first."""
    if troubles:
        return troubles[0].reason, _bounded(troubles[0].message)
    first = (holdups.unallocated, holdups.waiting)
    turns = (holdups.turned, holdups.rivalled)
    waits = (*first, holdups.unseated, *turns, holdups.lingering)
    rooms = (rollout_waits.cramped, gangs.waiting, holdups.pending, holdups.queued)
    for check in (holdups.lost, _failing, *waits, *rooms):
        if told := check(pool, plan.with_beside, seen):
            return told[0], _bounded(told[1])
    if told := _retrying(plan.with_beside, tally, remembered):
        return told
    if plan.waiting is not None:
        return conditions.ROLLOUT_WAITING, rollout_waits.message(pool, plan.waiting)
    if tally.updated < tally.created and not pool.spec.rollout.paused and _moving(pool, plan):
        return rollout_waits.rolling(pool, plan, tally.updated)
    if tally.created < tally.desired:
        message = texts.CREATING.format(up=tally.up, desired=tally.desired, created=tally.created)
        return conditions.CREATING, message
    if tally.up < tally.desired:
        return conditions.ENGINES_STARTING, texts.STARTING.format(
            up=tally.up, desired=tally.desired, phases=holdups.phases(plan)
        )
    if plan.obsolete:
        return conditions.SCALING, texts.SCALING.format(obsolete=plan.obsolete)
    return None


def _moving(pool: Pool, plan: Plan) -> bool:
    """Whether an outdated engine is going to be replaced: those below the partition are not."""
    partition = pool.spec.rollout.partition
    return any(not engine.current and engine.rank >= partition for engine in plan.engines)


def _failing(pool: Pool, plan: Plan, seen: Sequence[failures.Failure]) -> tuple[str, str] | None:
    """Engines that wait after a failure, or are started again in place, and what they died of."""
    waiting = {
        engine.name
        for engine in plan.down
        if engine.state is EngineState.BACKOFF or engine.restarting
    }
    if not waiting:
        return None
    engines = texts.engines(len(waiting))
    cause = next((f for f in reversed(seen) if f.engine in waiting), None)
    if cause is None:
        return conditions.ENGINES_FAILING, texts.FAILING_UNKNOWN.format(engines=engines)
    message = texts.FAILING.format(
        engines=engines, reason=cause.reason, message=cause.message, advice=cause.advice
    )
    return conditions.ENGINES_FAILING, _bounded(message)


def _retrying(
    plan: Plan, tally: EngineCounts, remembered: Sequence[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Engines that start after a failure: its cause stays in sight until they are up."""
    ended = {pod.engine for pod in plan.ended}  # some of them have no other pod yet
    again = {
        engine.name
        for engine in plan.down
        if (engine.failures if engine.exists else engine.name in ended)
    }
    found = [entry for entry in remembered if not again.isdisjoint(entry.get("engines", ()))]
    if not found:
        return None
    last = max(found, key=lambda entry: str(entry["lastTime"]))
    told = {"reason": last["reason"], "message": last["message"], "advice": last.get("advice", "")}
    counts = {"up": tally.up, "desired": tally.desired, "engines": texts.engines(len(again))}
    return conditions.ENGINES_FAILING, _bounded(texts.RETRYING.format(**counts, **told))


def _ready(pool: Pool, tally: EngineCounts, negative: Sequence[Condition]) -> Condition:
    if negative:
        first = negative[0]
        return Condition(
            type=conditions.READY,
            status=conditions.FALSE,
            reason=first.reason,
            message=first.message,
        )
    text = texts.READY if tally.desired else texts.READY_EMPTY
    if tally.updated < tally.created:
        text = texts.READY_PAUSED
    return Condition(
        type=conditions.READY,
        status=conditions.TRUE,
        reason=conditions.POOL_READY,
        message=text.format(
            up=tally.up,
            desired=tally.desired,
            gpus=pool.gpus,
            updated=tally.updated,
            revision=pool.revision,
        ),
    )


def _judged(
    owner: Owner, wanted: Sequence[Condition], previous: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """The conditions, and of which generation they are."""
    return {
        "observedGeneration": owner.generation,
        "conditions": conditions.merge(
            previous.get("conditions", []),
            wanted,
            generation=owner.generation,
            now=failures.rfc3339(now),
        ),
    }


def _engines_ready(tally: EngineCounts, negative: Sequence[Condition]) -> Condition:
    complete = tally.up == tally.desired
    reason = conditions.ALL_ENGINES_UP
    if not complete:
        reason = negative[0].reason if negative else conditions.ENGINES_STARTING
    return Condition(
        type=conditions.ENGINES_READY,
        status=conditions.TRUE if complete else conditions.FALSE,
        reason=reason,
        message=texts.ENGINES_UP.format(up=tally.up, desired=tally.desired),
    )


def _devices_assigned(pool: Pool, plan: Plan) -> Condition:
    placed = [engine.nodes for engine in plan.engines if engine.placed]
    achieved = pool.placement.achieved(
        Placed(
            engines=len(placed),
            of=len(plan.engines),
            nodes=len({node for nodes in placed for node in nodes}),
            gpus=pool.gpus,
            neighbours=plan.neighbours,
        )
    )
    # What runs has its GPUs, and serves on; that it could not come back is told beforehand.
    bound = holdups.bound(plan) if achieved.complete else ""
    return Condition(
        type=conditions.DEVICES_ASSIGNED,
        status=conditions.TRUE if achieved.complete else conditions.FALSE,
        reason=conditions.SEATS_AWAITED if bound else achieved.reason,
        message=achieved.message + bound,
    )


def _weights_synced(pool: Pool, weights: GatePlan, tally: EngineCounts) -> Condition:
    told = synced.condition(pool, weights, tally.desired, tally.in_service)
    return replace(told, message=_bounded(told.message))
