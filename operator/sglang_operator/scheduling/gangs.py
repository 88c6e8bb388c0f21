"""The schedulers that there are, and what pods say of their scheduling whichever it is.

A new one is a file beside ``none`` and a line here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Gang
from sglang_operator.scheduling.none import NoGang

NONE: Gang = NoGang()
GANGS: Mapping[str, Gang] = {}  # by what spec.scheduling.schedulerName calls them; else NONE

_PRIORITY = "spec.scheduling.priorityClassName"
# Kubernetes keeps these names for itself: a pod of such a class makes way for none, is not evicted
# when its node has nothing left, and drives out DNS, the network and the operator.
_OF_THE_CLUSTER = "system-"


def _of(parsed: PoolSpec) -> Gang:
    """How the scheduler that a pool names starts the pods of an engine."""
    return GANGS.get(parsed.scheduling.scheduler_name or "", NONE)


def problems(parsed: PoolSpec) -> Iterator[Problem]:
    """Why a pool cannot be scheduled as it asks for."""
    priority = parsed.scheduling.priority_class_name
    if priority and not syntax.is_subdomain(priority):
        yield syntax.wrong(_PRIORITY, priority, syntax.SUBDOMAIN)
    elif priority and priority.startswith(_OF_THE_CLUSTER):
        yield syntax.wrong(_PRIORITY, priority, texts.PRIORITY, texts.DO_PRIORITY)
    yield from _of(parsed).problems(parsed)


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


def annotations(parsed: PoolSpec, pool: str, engine: EngineName) -> Mapping[str, str]:
    """What each pod of this engine of the pool of this name says of its scheduling."""
    return _of(parsed).annotations(parsed, pool, engine)
