"""The schedulers that there are, and what pods say of their scheduling whichever it is.

A new one is a file beside ``none`` and a line here: in ``CHOSEN`` where a pool has to name it, for
it reads fields or objects of its own; in ``GANGS`` where the scheduler's name says all.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import spec, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling import texts, topology
from sglang_operator.scheduling.base import Gang, Grouped, Member, Waiting
from sglang_operator.scheduling.coscheduling import Coscheduling
from sglang_operator.scheduling.in_tree import InTree
from sglang_operator.scheduling.kai import Kai
from sglang_operator.scheduling.kueue import Kueue
from sglang_operator.scheduling.none import NoGang
from sglang_operator.scheduling.volcano import Volcano

NONE: Gang = NoGang()
CHOSEN: Mapping[spec.Gang, Gang] = {  # by spec.scheduling.gang
    spec.Gang.KUEUE: Kueue(),
    spec.Gang.POD_GROUP: InTree(),
    spec.Gang.VOLCANO: Volcano(),
    spec.Gang.KAI: Kai(),
    spec.Gang.COSCHEDULING: Coscheduling(),
}
GANGS: Mapping[str, Gang] = {}  # by what spec.scheduling.schedulerName calls them; else NONE

_PRIORITY = "spec.scheduling.priorityClassName"
# Kubernetes keeps these names for itself: a pod of such a class makes way for none, is not evicted
# when its node has nothing left, and drives out DNS, the network and the operator.
_OF_THE_CLUSTER = "system-"


def _of(parsed: PoolSpec) -> Gang:
    """How what a pool chooses starts the pods of an engine."""
    chosen = CHOSEN.get(parsed.scheduling.gang)
    return chosen or GANGS.get(parsed.scheduling.scheduler_name or "", NONE)


def problems(parsed: PoolSpec) -> Iterator[Problem]:
    """Why a pool cannot be scheduled as it asks for."""
    priority = parsed.scheduling.priority_class_name
    if priority and not syntax.is_subdomain(priority):
        yield syntax.wrong(_PRIORITY, priority, syntax.SUBDOMAIN)
    elif priority and priority.startswith(_OF_THE_CLUSTER):
        yield syntax.wrong(_PRIORITY, priority, texts.PRIORITY, texts.DO_PRIORITY)
    if parsed.scheduling.gang is spec.Gang.NONE:
        yield from _unasked(parsed)
        yield from topology.problems(parsed)
    elif (spread := parsed.scheduling.spread) is not None:
        found = spread.topology_key
        yield syntax.wrong("spec.scheduling.spread", found, texts.NO_SPREAD, texts.DO_NO_SPREAD)
    yield from _of(parsed).problems(parsed)


# Fields that only a gang reads.
_OF_GANGS = {
    "queueName": "queue_name",
    "workloadPriorityClassName": "workload_priority_class_name",
    "minEngines": "min_engines",
}


def _unasked(parsed: PoolSpec) -> Iterator[Problem]:
    """What is said to nobody: a pool that names a queue, and waits in none."""
    for field, name in _OF_GANGS.items():
        if (value := getattr(parsed.scheduling, name)) not in (None, ""):
            such = spec.Gang.POD_GROUP if field == "minEngines" else spec.Gang.KUEUE
            helps = texts.DO_GANG.format(gang=such.value)
            yield syntax.wrong(f"spec.scheduling.{field}", value, texts.NO_GANG, helps)


def pod_spec(parsed: PoolSpec) -> Mapping[str, Any]:
    """What the spec of each engine pod says of its scheduling."""
    chosen = {
        "schedulerName": parsed.scheduling.scheduler_name,
        "priorityClassName": parsed.scheduling.priority_class_name,
    }
    return {
        **_of(parsed).pod_spec(parsed),
        **{key: value for key, value in chosen.items() if value},
    }


def member_spec(parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
    """What the spec of this pod says of it that no other's does."""
    return _of(parsed).member_spec(parsed, member)


def labels(parsed: PoolSpec, member: Member) -> Mapping[str, str]:
    """The labels by which this pod says how it is scheduled."""
    own = topology.labels(parsed, member) if parsed.scheduling.gang is spec.Gang.NONE else {}
    return {**own, **_of(parsed).labels(parsed, member)}


def constraints(parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
    """What this pod has of ``affinity`` and ``topologySpreadConstraints`` beside the user's.

    A gang chooses domains by itself, by what it is told on the pods.
    """
    if parsed.scheduling.gang is not spec.Gang.NONE:
        return {}
    return topology.constraints(parsed, member)


def is_drawn(parsed: PoolSpec, said: str) -> bool:
    """Whether by what the scheduler says nodes would do, were the engine's first pod there."""
    return topology.is_drawn(parsed, said)


def advice(parsed: PoolSpec, said: str, first: topology.First | None) -> list[str]:
    """What helps where the scheduler says this of nodes, by what the pool itself asks for."""
    return list(topology.advice(parsed, said, first))


def annotations(parsed: PoolSpec, member: Member) -> Mapping[str, str]:
    """What this pod says of its scheduling besides."""
    return _of(parsed).annotations(parsed, member)


def queue(parsed: PoolSpec) -> Waiting | None:
    """The queue in which a pod that is made now waits; None: it waits in none."""
    return _of(parsed).queue(parsed)


# What pools have beside pods for their gangs: which of it there is says who starts the operator.
FLAG = "--gang"
GROUPED: tuple[Grouped, ...] = tuple(
    each.grouped for each in CHOSEN.values() if each.grouped is not None
)


def grouped(parsed: PoolSpec) -> Grouped | None:
    """The kind of object that there is to be of each try at an engine before its pods."""
    return _of(parsed).grouped


def group(parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
    """The spec of that object, for the try that this pod is of."""
    return _of(parsed).group(parsed, member)


def kind(parsed: PoolSpec) -> str:
    """That kind as ``children.kinds`` has it; empty where there is none."""
    found = grouped(parsed)
    return found.kind if found is not None else ""
