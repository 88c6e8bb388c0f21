"""What the engines that are not up wait for, in the words of a status.  Pure."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sglang_operator.api import conditions, names, texts
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.planner import causes
from sglang_operator.planner.observed import ContainerKind, ObservedPod
from sglang_operator.planner.plan import EngineState, Plan
from sglang_operator.planner.pool import Pool

UP = (EngineState.IN_SERVICE, EngineState.UP)


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """A part of an engine's way up; the first that fits is the one it is in."""

    words: str
    fits: Callable[[ObservedPod], bool]


_PHASES = (
    _Phase(words=texts.PHASE_GATED, fits=lambda pod: bool(pod.scheduling_gates and not pod.node)),
    _Phase(
        words=texts.PHASE_NO_SCHEDULER,
        fits=lambda pod: not pod.node and not pod.scheduling and bool(pod.scheduler),
    ),
    _Phase(words=texts.PHASE_NODE, fits=lambda pod: not pod.node),
    _Phase(
        words=texts.PHASE_KUBELET,
        fits=lambda pod: (
            not (pod.engine_runs or pod.waiting_reason or pod.termination or pod.container_id)
            and not pod.companions
        ),
    ),
    _Phase(
        words=texts.PHASE_INIT,
        fits=lambda pod: (
            pod.waiting_reason == "PodInitializing"
            and any(c.kind is not ContainerKind.SIDECAR for c in pod.companions)
        ),
    ),
    _Phase(
        words=texts.PHASE_SANDBOX,
        fits=lambda pod: pod.waiting_reason == "ContainerCreating" and not pod.has_sandbox,
    ),
    _Phase(
        words=texts.PHASE_IMAGE,
        fits=lambda pod: pod.waiting_reason in ("ContainerCreating", "PodInitializing"),
    ),
    _Phase(
        words=texts.PHASE_AGAIN,
        fits=lambda pod: pod.termination is not None or pod.waiting_reason == "CrashLoopBackOff",
    ),
    _Phase(words=texts.PHASE_COMPANION, fits=lambda pod: pod.engine_ready),
    _Phase(words=texts.PHASE_LOADING, fits=lambda pod: True),
)


def phases(plan: Plan) -> str:
    """How many of the engines that are not up are in which part of their way."""
    found: Counter[str] = Counter()
    for view in plan.engines:
        pod = view.pod
        if pod is not None and view.state not in UP:
            words = next(phase.words for phase in _PHASES if phase.fits(pod))
            container = pod.companions[0].name if pod.companions else names.ENGINE_CONTAINER
            gates = ", ".join(pod.scheduling_gates)
            told = words.format(scheduler=pod.scheduler, gates=gates, container=container)
            found[told] += 1
    return ", ".join(f"{count} {words}" for words, count in found.items())


def lost(_pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that wait for their nodes: told to, or because too many nodes are silent at once."""
    pods = [view.pod for view in plan.engines if view.state is EngineState.LOST and view.pod]
    if pods:
        message = texts.NODE_LOST.format(engines=texts.engines(len(pods)), nodes=_nodes(pods))
        return conditions.NODE_LOST, message
    if plan.silence is None:
        return None
    pods = [v.pod for v in plan.engines if v.pod and v.pod.node in plan.silence.nodes]
    if not pods:
        return None
    return conditions.NODE_LOST, texts.NODES_SILENT.format(
        engines=texts.engines(len(pods)),
        nodes=_nodes(pods),
        count=plan.silence.count,
        total=plan.silence.total,
    )


def _nodes(pods: Iterable[ObservedPod]) -> str:
    return ", ".join(sorted({pod.node for pod in pods})[:5])


def waiting(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Containers that kubelet cannot start, by the cause that most of them have."""
    about = causes.context(pool)
    found: Counter[Diagnosis] = Counter()
    for view in plan.engines:
        if view.pod and view.state not in UP and (told := causes.of_wait(view.pod, about, plan.at)):
            found[told] += 1
    if not found:
        return None
    # By reason: the words differ with what a kubelet did last, and would make the count jump.
    reason, count = Counter(told.reason for told in found.elements()).most_common(1)[0]
    told = next(told for told, _ in found.most_common() if told.reason == reason)
    message = texts.WAITING.format(
        engines=texts.engines(count), message=told.message, advice=told.advice
    )
    return told.reason, message


def lingering(pool: Pool, plan: Plan, _: object = None) -> tuple[str, str] | None:
    """A pod that was to be gone long ago, where engines may wait for what it holds."""
    if not plan.lingering or not (plan.coming or plan.obsolete):
        return None
    pod = min(plan.lingering, key=lambda each: (each.deletion_due, each.name))
    count = len(plan.lingering) - 1
    message = texts.LINGERING.format(
        engines=texts.engines(plan.coming),
        pod=pod.name,
        node=pod.node or "<none>",
        namespace=pool.owner.namespace,
        more=texts.LINGERING_MORE.format(count=count) if count else "",
    )
    return conditions.POD_LINGERS, message


# What the scheduler says of nodes that have the GPUs, and what helps.
_UNFIT: tuple[tuple[str, str], ...] = (
    ("untolerated taint", texts.DO_TOLERATE),
    ("node affinity/selector", texts.DO_SELECT),
    ("topology spread", texts.DO_SPREAD),
    ("anti-affinity rules", texts.DO_SPREAD),
    ("affinity rules", texts.DO_SPREAD),
    ("Too many pods", texts.DO_ADD_NODES),
    ("Insufficient ", texts.DO_ASK_LESS),
)


def pending(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines for which the scheduler finds no node: for want of GPUs, or whatever it says."""
    resource = pool.spec.placement.resource_name
    told = [
        view.pod
        for view in plan.engines
        if view.state is EngineState.PENDING and view.pod and view.pod.unschedulable
        # Who holds them back is told as a part of their way.
        if not view.pod.scheduling_gates
    ]
    short = [pod for pod in told if pod.lacks(resource)]
    if short:
        return (
            conditions.DEVICES_PENDING,
            texts.DEVICES_PENDING.format(
                engines=texts.engines(len(short)),
                gpus=pool.gpus,
                resource=resource,
                message="; ".join(filter(None, (plan.capacity, short[0].unschedulable))),
            ),
        )
    if not told:
        return None
    said = told[0].unschedulable
    advice = dict.fromkeys(advice for words, advice in _UNFIT if words in said)
    return (
        conditions.UNSCHEDULABLE,
        texts.UNSCHEDULABLE.format(
            engines=texts.engines(len(told)),
            message=said,
            advice="".join(f"; {each}" for each in advice),
        ),
    )
