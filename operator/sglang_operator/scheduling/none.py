"""No gang: each pod is scheduled by itself, by the cluster's scheduler or the one that is named."""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec

_PRIORITY = "spec.scheduling.priorityClassName"
# Kubernetes keeps these names for itself: a pod of such a class makes way for none, is not evicted
# when its node has nothing left, and drives out DNS, the network and the operator.
_OF_THE_CLUSTER = "system-"


class NoGang:
    """See :class:`sglang_operator.scheduling.base.Gang`."""

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        priority = parsed.scheduling.priority_class_name
        if priority and not syntax.is_subdomain(priority):
            yield syntax.wrong(_PRIORITY, priority, syntax.SUBDOMAIN)
        elif priority and priority.startswith(_OF_THE_CLUSTER):
            yield syntax.wrong(_PRIORITY, priority, texts.PRIORITY, texts.DO_PRIORITY)

    def pod_spec(self, parsed: PoolSpec) -> Mapping[str, Any]:
        chosen = {
            "schedulerName": parsed.scheduling.scheduler_name,
            "priorityClassName": parsed.scheduling.priority_class_name,
        }
        return {key: value for key, value in chosen.items() if value}

    def annotations(self, parsed: PoolSpec, engine: EngineName) -> Mapping[str, str]:
        return {}
