"""The failures a pool remembers: merged by cause, bounded, and never counted twice.  Pure.

An entry is one cause.  It keeps when it was first and last seen, on which engines, and the pod
that showed it first: so the first cause of a crash loop is still there when its pod is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sglang_operator.api import conditions, names, texts
from sglang_operator.diagnosis import causes
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.observed.model import ObservedPod, Termination
from sglang_operator.plan.plan import HungPod, LostPod, Plan
from sglang_operator.pool.resolve import Pool

MAX_ENTRIES = 10
MAX_ENGINES = 64
_TEXTS = ("message", "advice", "exitCode")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One end of one engine pod."""

    pod: str
    engine: names.EngineName
    reason: str
    message: str
    advice: str
    exit_code: int | None
    time: float


def seen(pool: Pool, plan: Plan) -> list[Failure]:
    """The failures that the present pods show, oldest first."""
    about = causes.context(pool)
    found = [
        _failure(pod, causes.of_end(pod, about), pod.ended_at, _code(pod.end)) for pod in plan.ended
    ]
    found += [
        _failure(pod, causes.of_disruption(pod, about), pod.deletion_asked or pod.created)
        for pod in plan.disrupted
    ]
    found += [_lost(lost) for lost in plan.lost]
    found += [_hung(pool, hung) for hung in plan.hung]
    for pod, ended in plan.restarts:
        told = causes.of_termination(pod, ended, about)
        found.append(_failure(pod, told, ended.finished or pod.created, _code(ended)))
    for engine in plan.down:
        if held := causes.of_waiting(engine, about, plan.at):
            pod, told = held
            found.append(_failure(pod, told, pod.created))
    return sorted(found, key=lambda failure: (failure.time, failure.pod))


def _failure(
    pod: ObservedPod, told: Diagnosis, time: float, exit_code: int | None = None
) -> Failure:
    return Failure(
        pod=pod.name,
        engine=pod.engine,
        reason=told.reason,
        message=told.message,
        advice=told.advice,
        exit_code=exit_code,
        time=time,
    )


def _code(ended: Termination | None) -> int | None:
    return ended.exit_code if ended is not None and ended.exit_code >= 0 else None


def _lost(lost: LostPod) -> Failure:
    message = texts.POD_LOST.format(pod=lost.pod.name, node=lost.pod.node)
    told = Diagnosis(reason=conditions.NODE_LOST, message=message, advice=texts.STARTED_AGAIN)
    return _failure(lost.pod, told, lost.since)


def _hung(pool: Pool, hung: HungPod) -> Failure:
    told = Diagnosis(
        reason=conditions.ENGINE_HUNG,
        message=texts.ENGINE_HUNG.format(seconds=pool.spec.restart.hang_seconds),
        advice=texts.ENGINE_HUNG_ADVICE,
    )
    return _failure(hung.pod, told, hung.since)


def merge(previous: Sequence[Mapping[str, Any]], found: Iterable[Failure]) -> list[dict[str, Any]]:
    """The remembered failures with these added; the same failure seen again changes nothing."""
    entries = {entry["reason"]: dict(entry) for entry in previous}
    for failure in found:
        time = rfc3339(failure.time)
        entry = entries.get(failure.reason)
        if entry is None:
            entries[failure.reason] = _entry(failure, time)
            continue
        engines = sorted({*entry.get("engines", []), failure.engine})[:MAX_ENGINES]
        entry["engines"] = engines
        if time >= entry["lastTime"]:
            # The numbers in it may have changed since; which pod was first has not.
            entry |= {k: v for k, v in _entry(failure, time).items() if k in _TEXTS}
        entry["firstTime"] = min(entry["firstTime"], time)
        entry["lastTime"] = max(entry["lastTime"], time)
    return _bounded(sorted(entries.values(), key=lambda entry: str(entry["firstTime"])))


def _bounded(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The very first cause, which the rest often follow from, and the most recent others."""
    if len(entries) <= MAX_ENTRIES:
        return entries
    recent = sorted(entries[1:], key=lambda entry: str(entry["lastTime"]))[-(MAX_ENTRIES - 1) :]
    return [entries[0], *sorted(recent, key=lambda entry: str(entry["firstTime"]))]


def _entry(failure: Failure, time: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "reason": failure.reason,
        "message": failure.message[:1024],
        "advice": failure.advice[:512],
        "engines": [failure.engine],
        "pod": failure.pod,
        "firstTime": time,
        "lastTime": time,
    }
    if failure.exit_code is not None:
        entry["exitCode"] = failure.exit_code
    return entry


def rfc3339(time: float) -> str:
    """Seconds since the epoch as Kubernetes writes times."""
    return datetime.fromtimestamp(int(time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
