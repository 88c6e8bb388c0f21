"""The failures a pool remembers: merged by cause, bounded, and never counted twice.  Pure.

An entry is one cause.  It keeps when it was first and last seen, on which engines, and the pod
that showed it first: so the first cause of a crash loop is still there when its pod is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sglang_operator.api import conditions, names, texts
from sglang_operator.engine import diagnosis
from sglang_operator.planner.observed import ObservedPod, Termination
from sglang_operator.planner.plan import LostPod, Plan

MAX_ENTRIES = 10
MAX_ENGINES = 64
_TEXTS = ("message", "advice", "exitCode")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One end of one engine pod."""

    pod: str
    group: names.GroupName
    reason: str
    message: str
    advice: str
    exit_code: int | None
    time: float


def seen(plan: Plan) -> list[Failure]:
    """The failures that the present pods show, oldest first."""
    found = [_ended(pod) for pod in plan.ended]
    found += [_lost(lost) for lost in plan.lost]
    for view in plan.engines:
        pod = view.pod
        if pod is not None and pod.last_termination is not None:
            ended = pod.last_termination
            found.append(_terminated(pod, ended, ended.finished or pod.created))
    return sorted(found, key=lambda failure: (failure.time, failure.pod))


def _lost(lost: LostPod) -> Failure:
    return Failure(
        pod=lost.pod.name,
        group=lost.pod.group,
        reason=conditions.NODE_LOST,
        message=texts.POD_LOST.format(pod=lost.pod.name, node=lost.pod.node),
        advice=texts.STARTED_AGAIN,
        exit_code=None,
        time=lost.since,
    )


def _ended(pod: ObservedPod) -> Failure:
    if pod.disruption or (pod.reason and pod.termination is None):
        return Failure(
            pod=pod.name,
            group=pod.group,
            reason=_disruption_reason(pod),
            message=pod.message
            or texts.POD_TAKEN.format(pod=pod.name, reason=pod.disruption or pod.reason),
            advice=texts.STARTED_AGAIN,
            exit_code=pod.termination.exit_code if pod.termination else None,
            time=pod.ended_at,
        )
    ended = pod.termination or Termination(
        exit_code=-1, reason="", message=pod.message, finished=pod.ended_at
    )
    return _terminated(pod, ended, pod.ended_at)


def _disruption_reason(pod: ObservedPod) -> str:
    if pod.disruption in ("DeletionByPodGC", "DeletionByTaintManager"):
        return conditions.NODE_LOST
    return pod.reason or pod.disruption


def _terminated(pod: ObservedPod, ended: Termination, time: float) -> Failure:
    code = ended.exit_code if ended.exit_code >= 0 else None
    told = diagnosis.diagnose(ended.message, code, ended.reason)
    return Failure(
        pod=pod.name,
        group=pod.group,
        reason=told.reason,
        message=told.message,
        advice=told.advice,
        exit_code=code,
        time=time,
    )


def merge(previous: Sequence[Mapping[str, Any]], found: Iterable[Failure]) -> list[dict[str, Any]]:
    """The remembered failures with these added; the same failure seen again changes nothing."""
    entries = {entry["reason"]: dict(entry) for entry in previous}
    for failure in found:
        time = rfc3339(failure.time)
        entry = entries.get(failure.reason)
        if entry is None:
            entries[failure.reason] = _entry(failure, time)
            continue
        engines = sorted({*entry.get("engines", []), failure.group})[:MAX_ENGINES]
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
        "engines": [failure.group],
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
