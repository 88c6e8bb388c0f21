"""Why an engine ended, or does not start: from everything that Kubernetes tells of its pod.  Pure.

What the engine itself said is read by ``engine.diagnosis``; this adds what only the pod shows:
whether the engine was ever up, and what kubelet and scheduler did to it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sglang_operator.api import conditions, texts
from sglang_operator.diagnosis import pod_signatures
from sglang_operator.engine import diagnosis, endings, signatures
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.observed import health
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import (
    Companion,
    ContainerKind,
    ObservedPod,
    PodEvent,
    Termination,
)
from sglang_operator.pool.resolve import Pool


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the texts of causes need to know of a pool: image, start budget, memory settings."""

    image: str = ""
    startup_seconds: float = 1800.0
    numbers: diagnosis.Numbers | None = None


def context(pool: Pool) -> Context:
    """What the texts of causes need to know of this pool."""
    fraction = pool.arguments.mem_fraction_static
    limits = pool.template.container.get("resources", {}).get("limits", {})
    return Context(
        image=pool.image,
        startup_seconds=pool.startup_seconds,
        numbers=diagnosis.Numbers(
            mem_fraction_static="" if fraction is None else f"{fraction:g}",
            memory_limit=str(limits.get("memory", "")),
        ),
    )


# What a kubelet puts before the cause while it waits for its next try.
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*": ErrImagePull: ')
STARTUP_TIMEOUT = "StartupTimeout"
LIVENESS_FAILED = "EngineUnresponsive"
INIT_CONTAINER_FAILED = "InitContainerFailed"
INIT_CONTAINER_HANGS = "InitContainerHangs"
SIDECAR_ENDED = "SidecarEnded"
# Nothing in the text says why: what Kubernetes did to the container may.
UNEXPLAINED = (diagnosis.KILLED, diagnosis.TERMINATED, diagnosis.EXITED, diagnosis.FAILED)
# These are ends before the first answer, whatever the clocks say.
_STARTUP_REASONS = frozenset(
    {
        signatures.KV_CACHE_TOO_SMALL,
        signatures.GRAPH_CAPTURE_FAILED,
        signatures.GPU_SHARED,
        signatures.MODEL_NOT_FOUND,
        signatures.MODEL_ACCESS_DENIED,
        signatures.MODEL_HUB_UNREACHABLE,
        signatures.ARGUMENT_UNKNOWN,
        signatures.ARGUMENT_INVALID,
        signatures.PORT_IN_USE,
        signatures.WARM_UP_FAILED,
        pod_signatures.START_FAILED,
        pod_signatures.PYTHON_MISSING,
        pod_signatures.GPU_RUNTIME_FAILED,
        *endings.AT_STARTUP,
        STARTUP_TIMEOUT,
        INIT_CONTAINER_FAILED,
    }
)
# So ends, too, who only waited for another process, or was left by it.
_OF_OTHERS = frozenset(
    {
        endings.NCCL_FAILED,
        endings.NCCL_TIMEOUT,
        endings.SCHEDULER_HUNG,
        STARTUP_TIMEOUT,
        *UNEXPLAINED,
    }
)
_POD_GC = ("DeletionByPodGC", "DeletionByTaintManager")
# Why a container waits while everything is in order.
_ON_THE_WAY = ("", "ContainerCreating", "PodInitializing")


def of_end(pod: ObservedPod, about: Context) -> Diagnosis:
    """Why this pod ended; it has."""
    if pod.disruption or (pod.reason and pod.end is None):
        return of_disruption(pod, about)
    broken = pod.broken
    if broken is not None and broken.termination is not None and pod.end is broken.termination:
        return _of_companion(broken, broken.termination)
    ended = pod.termination or Termination(
        exit_code=-1, reason="", message=pod.message, finished=pod.ended_at
    )
    return of_termination(pod, ended, about)


def may_be_of_others(told: Diagnosis) -> bool:
    """Whether who ended so may have died of what became of another member of its engine."""
    return told.reason in _OF_OTHERS


def most_telling(pods: Sequence[ObservedPod], about: Context) -> ObservedPod:
    """Of the members of an engine that ended the one of which the others may have died.

    Kubelets tell of ends when they do: which was seen first says little.
    """
    if len(pods) == 1:
        return pods[0]

    def order(pod: ObservedPod) -> tuple[bool, float, int]:
        return may_be_of_others(of_end(pod, about)), pod.seen.ended, pod.node_rank

    return min(pods, key=order)


def _of_companion(broken: Companion, ended: Termination) -> Diagnosis:
    """The end of a container beside the engine, without which the pod cannot be Ready."""
    init = broken.kind is ContainerKind.INIT
    text = texts.INIT_CONTAINER_FAILED if init else texts.SIDECAR_ENDED
    told = ended.reading.last_words or (ended.reason if ended.reason != "Error" else "")
    return Diagnosis(
        reason=INIT_CONTAINER_FAILED if init else SIDECAR_ENDED,
        message=diagnosis.line(
            text.format(
                container=broken.name, code=ended.exit_code, said=f": {told}" if told else ""
            )
        ),
        advice=texts.COMPANION_ADVICE.format(container=broken.name),
    )


def of_termination(pod: ObservedPod, ended: Termination, about: Context) -> Diagnosis:
    """Why the engine's container ended like this."""
    if ended.reason in pod_signatures.CREATE_REASONS:
        return _by_kubernetes(ended.reason, ended.message, about) or _unknown(pod, ended.reason)
    told = ended.told(_numbers(pod, about))
    if told.reason not in UNEXPLAINED:
        return told
    return _killed_by_kubelet(pod, ended, about.startup_seconds) or told


def _numbers(pod: ObservedPod, about: Context) -> diagnosis.Numbers:
    """The pool's numbers; a memory limit that podTemplate does not give is a LimitRange's."""
    numbers = about.numbers or diagnosis.Numbers()
    if numbers.memory_limit or not pod.memory_limit:
        return numbers
    given = texts.LIMIT_OF_NAMESPACE.format(limit=pod.memory_limit)
    return replace(numbers, memory_limit=given)


def _killed_by_kubelet(
    pod: ObservedPod, ended: Termination, startup_seconds: float
) -> Diagnosis | None:
    """Kubelet ends a container whose probes fail, and says so in an event only.

    Without it, an engine that was never up, and ran as long as it may, is one of these.
    """
    said = next((e.message for e in pod.events if e.reason == "Killing"), "")
    ran = health.ran(pod) if ended is pod.end else _told(ended)
    overdue = never_up(pod, ended) and ran >= 0.9 * startup_seconds
    if "failed startup probe" in said or overdue:
        return Diagnosis(
            reason=STARTUP_TIMEOUT,
            message=texts.STARTUP_TIMEOUT.format(ran=round(ran), budget=round(startup_seconds)),
            advice=texts.STARTUP_TIMEOUT_ADVICE,
        )
    if "failed liveness probe" in said:
        return Diagnosis(
            reason=LIVENESS_FAILED,
            message=texts.LIVENESS_FAILED,
            advice=texts.LIVENESS_FAILED_ADVICE,
        )
    return None


def _told(ended: Termination) -> float:
    return ended.finished - ended.started if ended.started else 0.0


def never_up(pod: ObservedPod, ended: Termination) -> bool:
    """Whether the container ended without having been ready: both times are the kubelet's."""
    if ended is pod.termination and pod.answered:
        return False  # a container beside the engine may have been what was not ready
    return 0.0 < pod.containers_ready_changed < ended.finished


def at_startup(pod: ObservedPod, ended: Termination, told: Diagnosis) -> bool:
    """Whether this end came before the engine's first answer."""
    return told.reason in _STARTUP_REASONS or never_up(pod, ended)


def of_disruption(pod: ObservedPod, about: Context) -> Diagnosis:
    """Why a pod was taken away, or is being so, by somebody: it has a disruption, or a reason."""
    reason = pod.reason or pod.disruption
    if pod.disruption in _POD_GC:
        return Diagnosis(
            reason=conditions.NODE_LOST,
            message=diagnosis.line(pod.message)
            or texts.POD_LOST.format(pod=pod.name, node=pod.node),
            advice=texts.STARTED_AGAIN,
        )
    known = _by_kubernetes(reason, pod.message, about)
    if known is None and pod.disruption:
        known = _by_kubernetes(pod.disruption, pod.message, about)
    return known or Diagnosis(
        reason=reason,
        message=diagnosis.line(pod.message) or texts.POD_TAKEN.format(pod=pod.name, reason=reason),
        advice=texts.STARTED_AGAIN,
    )


def of_waiting(
    engine: EngineStatus, about: Context, now: float = 0.0
) -> tuple[ObservedPod, Diagnosis] | None:
    """The first member whose container cannot be started by now, and why; None if none is so."""
    for pod in engine.unready:
        told = of_wait(pod, about, now)
        if told is not None:
            return pod, told
    return None


def of_wait(pod: ObservedPod, about: Context, now: float = 0.0) -> Diagnosis | None:
    """Why the engine's container cannot be started by now; None if all is in order."""
    if pod.unschedulable and not pod.node:
        return _by_kubernetes("Unschedulable", pod.unschedulable, about)
    if told := _companion_holds_up(pod, about, now):
        return told
    reason = pod.waiting_reason
    if reason == "CrashLoopBackOff":
        return None  # its last end says why
    if reason in _ON_THE_WAY:
        return _by_events(pod.events, about)
    return _by_kubernetes(reason, pod.waiting_message, about) or Diagnosis(
        reason=reason,
        message=diagnosis.line(pod.waiting_message or reason),
        advice=texts.WAITING_ADVICE,
    )


def _companion_holds_up(pod: ObservedPod, about: Context, now: float) -> Diagnosis | None:
    """A container beside the engine that does not start, or does not let it start."""
    for one in pod.companions:
        ended = one.last_termination or one.termination
        if one.waiting_reason == "CrashLoopBackOff" and ended is not None:
            return _of_companion(one, ended)
        if _keeps_back(pod, one) and one.seen < now - about.startup_seconds:
            message = texts.COMPANION_HANGS.format(
                kind=one.kind.value,
                container=one.name,
                done="ready" if one.kind is ContainerKind.NATIVE_SIDECAR else "done",
                budget=round(about.startup_seconds),
            )
            advice = texts.COMPANION_ADVICE.format(container=one.name)
            return Diagnosis(reason=INIT_CONTAINER_HANGS, message=message, advice=advice)
        if one.waiting_reason not in _ON_THE_WAY:
            told = _by_kubernetes(one.waiting_reason, one.waiting_message, about)
            said = one.waiting_message or one.waiting_reason
            return Diagnosis(
                reason=told.reason if told else one.waiting_reason,
                message=diagnosis.line(f"{one.kind.value} {one.name}: {said}"),
                advice=texts.COMPANION_ADVICE.format(container=one.name),
            )
    return None


def _keeps_back(pod: ObservedPod, one: Companion) -> bool:
    """Whether it runs, and the engine is not started before it is done, or ready."""
    first = one.kind is not ContainerKind.SIDECAR
    return first and one.runs and one.since > 0.0 and pod.waiting_reason == "PodInitializing"


def _by_events(events: Iterable[PodEvent], about: Context) -> Diagnosis | None:
    for event in events:
        if event.reason in pod_signatures.BEFORE_CONTAINERS:
            return _by_kubernetes(event.reason, event.message, about)
    return None


def _by_kubernetes(reason: str, said: str, about: Context) -> Diagnosis | None:
    found = pod_signatures.find(reason, said)
    if found is None:
        return None
    row, match = found
    values = {
        **match.groupdict(),
        "image": about.image,
        "said": _BACK_OFF.sub("", said.strip().splitlines()[-1]) if said.strip() else reason,
    }
    return Diagnosis(
        reason=row.reason,
        message=diagnosis.line(row.message.format(**values)),
        advice=diagnosis.line(row.advice.format(**values)),
    )


def _unknown(pod: ObservedPod, reason: str) -> Diagnosis:
    return Diagnosis(
        reason=reason,
        message=texts.POD_TAKEN.format(pod=pod.name, reason=reason),
        advice=texts.STARTED_AGAIN,
    )
