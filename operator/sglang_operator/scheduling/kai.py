"""KAI: NVIDIA's scheduler starts as many pods of a PodGroup as its minimum says, or none.

A pod names its group by an annotation and its queue by a label.  But as it is installed, KAI's pod
grouper makes groups itself, by the owner of pods: of a pool, or of a pod where it may not read the
pool, with a minimum of one either way.  It moves pods that have an owner into these, whatever group
they name (KAI 0.13), and those of an engine start one by one then.  Its ``namespaceLabelSelector``
keeps it from namespaces; where it does not, pools of engines of several pods say so
(``status.gangs``).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import names, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling import texts
from sglang_operator.scheduling.base import Member
from sglang_operator.scheduling.pod_groups import FIELD, PodGroups, grouped


class Kai(PodGroups):
    """See :class:`sglang_operator.scheduling.pod_groups.PodGroups`."""

    grouped = grouped("KAI", names.KAI_API_VERSION, "install KAI")
    scheduler = names.KAI_SCHEDULER
    reads = frozenset({"queueName"})
    annotation = names.ANNOTATION_KAI_GROUP

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        yield from super().problems(parsed)
        if not parsed.scheduling.queue_name:
            yield syntax.missing(f"{FIELD}.queueName", texts.A_KAI_QUEUE)

    def labels(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        return {
            **super().labels(parsed, member),
            names.LABEL_KAI_QUEUE: parsed.scheduling.queue_name or "",
        }

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        chosen = parsed.scheduling
        spec: dict[str, Any] = {"minMember": member.least, "queue": chosen.queue_name or ""}
        if chosen.priority_class_name:
            spec["priorityClassName"] = chosen.priority_class_name
        return spec
