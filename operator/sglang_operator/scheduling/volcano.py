"""Volcano: its scheduler starts as many pods of a PodGroup as its minimum says, or none.

A pod names its group by an annotation, and Volcano makes none of its own for such a pod.  Without
the object such a pod is not looked at.  It says what a pod waits for in the pod's own condition.
"""

from collections.abc import Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Member
from sglang_operator.scheduling.pod_groups import PodGroups, grouped, min_resources


class Volcano(PodGroups):
    """See :class:`sglang_operator.scheduling.pod_groups.PodGroups`."""

    grouped = grouped("Volcano", names.VOLCANO_API_VERSION, "install Volcano")
    scheduler = names.VOLCANO_SCHEDULER
    reads = frozenset({"queueName"})
    annotation = names.ANNOTATION_VOLCANO_GROUP

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        chosen = parsed.scheduling
        spec: dict[str, Any] = {
            "minMember": member.least,
            "minResources": min_resources(parsed, member),
        }
        if chosen.queue_name:
            spec["queue"] = chosen.queue_name
        if chosen.priority_class_name:
            spec["priorityClassName"] = chosen.priority_class_name
        return spec
