"""What the engines that are not up wait for, in the words of a status.  Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sglang_operator.api import conditions, names, texts
from sglang_operator.api.names import EngineName
from sglang_operator.diagnosis import causes
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import ContainerKind, ObservedPod
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs, topology
from sglang_operator.status import texts as words


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
    alike: Counter[tuple[int, str, tuple[str, ...], str]] = Counter()
    for engine in plan.down:
        if engine.exists:
            # Of an engine of several pods the last one tells how far it is.
            members = engine.members
            pod = members[0] if len(members) == 1 else min(members, key=_phase)
            number = _phase(pod)
            container = pod.companions[0].name if pod.companions else names.ENGINE_CONTAINER
            alike[number, pod.scheduler, pod.scheduling_gates, container] += 1
    found: Counter[str] = Counter()
    for (number, scheduler, gates, container), count in alike.items():
        words = _PHASES[number].words.format(
            scheduler=scheduler, gates=", ".join(gates), container=container
        )
        found[words] += count
    return ", ".join(f"{count} {words}" for words, count in found.items())


def _phase(pod: ObservedPod) -> int:
    for number, phase in enumerate(_PHASES):
        if phase.fits(pod):
            return number
    raise AssertionError("the last of them fits each")


def lost(_pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that wait for their nodes: told to, or because too many nodes are silent at once."""
    gone = [engine.lost_nodes for engine in plan.down if engine.state is EngineState.LOST]
    if gone:
        message = texts.NODE_LOST.format(engines=texts.engines(len(gone)), nodes=_nodes(gone))
        return conditions.NODE_LOST, message
    if plan.silence is None:
        return None
    silent = plan.silence.nodes
    hit = [nodes for engine in plan.engines if (nodes := silent.intersection(engine.nodes))]
    if not hit:
        return None
    return conditions.NODE_LOST, texts.NODES_SILENT.format(
        engines=texts.engines(len(hit)),
        nodes=_nodes(hit),
        count=plan.silence.count,
        total=plan.silence.total,
    )


def _nodes(found: Iterable[Iterable[str]]) -> str:
    return ", ".join(sorted({node for nodes in found for node in nodes})[:5])


def waiting(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Containers that kubelet cannot start, by the cause that most of them have."""
    about = causes.context(pool)
    found: Counter[Diagnosis] = Counter()
    for engine in plan.down:
        if held := causes.of_waiting(engine, about, plan.at):
            found[held[1]] += 1
    if not found:
        return None
    # By reason: the words differ with what a kubelet did last, and would make the count jump.
    reason, count = Counter(told.reason for told in found.elements()).most_common(1)[0]
    told = next(told for told, _ in found.most_common() if told.reason == reason)
    message = texts.WAITING.format(
        engines=texts.engines(count), message=told.message, advice=told.advice
    )
    return told.reason, message


def unallocated(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines for whose claims no node has the devices: what is free, and who has the rest."""
    known = plan.seating.lacking if plan.seating is not None else {}
    told = [each for each in plan.down if each.name in known and each.unschedulable]
    if not told:
        return None
    message = f"{known[told[0].name]}; {told[0].unschedulable}"
    return conditions.DEVICES_PENDING, texts.DEVICES_WANTED.format(
        engines=texts.engines(len(told)), message=message
    )


_MOST_GPUS = 2  # that are named: which pool it is tells the rest


def misplaced(plan: Plan) -> tuple[str, str] | None:
    """What is known of the trainer's GPUs contradicts itself: nobody can be put there."""
    problem = plan.seating.problem if plan.seating is not None else None
    return (problem.reason, str(problem)) if problem is not None and plan.engines else None


def unseated(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that wait for a trainer to say where its GPUs are, or to come back; or for the last
    of another pool to be gone from them."""
    if not plan.unseated and plan.kept_out:
        why = _taken(pool, plan, *next(iter(plan.kept_out.items())))
        message = texts.SEATS_AWAITED.format(engines=texts.engines(len(plan.kept_out)), why=why)
        return conditions.SEATS_AWAITED, message
    if not plan.unseated or plan.seating is None:
        return None
    why = plan.seating.why_waiting(plan.unseated[0])
    message = texts.SEATS_AWAITED.format(engines=texts.engines(len(plan.unseated)), why=why)
    return conditions.SEATS_AWAITED, message


def _taken(pool: Pool, plan: Plan, engine: EngineName, pod: str) -> str:
    """By which pod an engine is kept out; what is of another namespace is not its user's to end."""
    if pod:
        return texts.SEAT_TAKEN.format(pod=pod)
    seats = plan.seating.seats.get(engine, ()) if plan.seating is not None else ()
    return words.SEAT_TAKEN_ELSEWHERE.format(
        pod=texts.ELSEWHERE.format(kind="pod"),
        node=", ".join(dict.fromkeys(seat.node for seat in seats)) or "<none>",
        gpus=_few([gpu for seat in seats for gpu in seat.gpus]),
    )


def turned(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that are not started, for their trainer has the memory of their GPUs."""
    if not plan.turned:
        return None
    message = words.TURN_AWAITED.format(
        engines=texts.engines(len(plan.turned)),
        lease=names.weights_lease_name(pool.owner.name),
        pool=pool.owner.name,
        namespace=pool.owner.namespace,
    )
    return conditions.TURN_AWAITED, message


def rivalled(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that are not started, for those of another pool have the memory of their GPUs."""
    if not plan.rivalled or plan.seating is None:
        return None
    seats = [seat for name in plan.rivalled for seat in plan.seating.seats.get(name, ())]
    gpus = [gpu for seat in seats if not seat.claim for gpu in seat.gpus]
    message = words.RIVAL_AWAITED.format(
        engines=texts.engines(len(plan.rivalled)),
        pools=", ".join(sorted({*plan.rivalled.values()})),
        gpus=f" ({_few(gpus)})" if gpus else "",
    )
    return conditions.RIVAL_AWAITED, message


def _few(gpus: Sequence[str]) -> str:
    more = f" and {len(gpus) - _MOST_GPUS} more" if len(gpus) > _MOST_GPUS else ""
    return ", ".join(gpus[:_MOST_GPUS]) + more


def bound(plan: Plan) -> str:
    """Why engines that run could not come back, though nothing contradicts itself; empty if all
    could, or some wait already."""
    if plan.seating is None or plan.unseated or plan.seating.problem is not None:
        return ""
    found = (plan.seating.why_waiting(engine.name) for engine in plan.engines)
    told = [why for why in found if why]
    return texts.SEATS_UNKNOWN.format(engines=texts.engines(len(told)), why=told[0]) if told else ""


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


def queued(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines that wait until a queue lets them in; those that nobody will let in first."""
    waiting = [pod for engine in plan.down if (pod := engine.queued) is not None]
    if not waiting:
        return None
    unseen = [pod for pod in waiting if not pod.queue_seen]
    told = unseen or waiting
    text = texts.NOT_QUEUED if unseen else texts.WAITING_FOR_QUOTA
    message = text.format(
        engines=texts.engines(len(told)),
        queue=", ".join(sorted({pod.queue.queue for pod in told if pod.queue is not None})),
        gpus=pool.gpus,
        resource=pool.resource,
        namespace=pool.owner.namespace,
    )
    return conditions.NOT_QUEUED if unseen else conditions.WAITING_FOR_QUOTA, message


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
_KEEP_APART = ("affinity", "topologySpreadConstraints")


def pending(pool: Pool, plan: Plan, _: object) -> tuple[str, str] | None:
    """Engines for which the scheduler finds no node: for want of GPUs, or whatever it says."""
    resource = pool.resource
    told = [
        engine
        for engine in plan.down
        if engine.state is EngineState.PENDING and engine.unschedulable
        # Who holds them back is told as a part of their way.
        if not engine.scheduling_gates
    ]
    short = [engine for engine in told if engine.lacks(resource)]
    if short:
        helps = _of_topology(pool, short[0])
        return (
            conditions.DEVICES_PENDING,
            texts.DEVICES_PENDING.format(
                engines=texts.engines(len(short)),
                gpus=pool.gpus_per_pod,
                resource=resource,
                message="; ".join(filter(None, (plan.capacity, short[0].unschedulable, *helps))),
            ),
        )
    if not told:
        return None
    said = told[0].unschedulable
    own = _of_topology(pool, told[0])
    # What the pool asks for itself is not told as podTemplate's, where that asks for nothing.
    besides = not own or not pool.template.spec.keys().isdisjoint(_KEEP_APART)
    found = [helps for words, helps in _UNFIT if words in said]
    advice = dict.fromkeys((*own, *(e for e in found if besides or e is not texts.DO_SPREAD)))
    return (
        conditions.UNSCHEDULABLE,
        texts.UNSCHEDULABLE.format(
            engines=texts.engines(len(told)),
            message=said,
            advice="".join(f"; {each}" for each in advice),
        ),
    )


def _of_topology(pool: Pool, engine: EngineStatus) -> list[str]:
    """What helps against what the pool itself asks for: one domain, or a spread."""
    placed = [pod for pod in engine.members if pod.node]
    first = None
    if placed:
        lacking = engine.engine.pods - len(placed)
        first = topology.First(placed[0].name, placed[0].node, lacking)
    return gangs.advice(pool.spec, engine.unschedulable, first)
