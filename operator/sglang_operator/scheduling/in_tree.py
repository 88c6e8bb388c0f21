"""Kubernetes' own PodGroups, of its default scheduler: off by default in 1.37 (GenericWorkload).

A pod names its group in its spec.  Where the gate is off the API server drops that field and says
nothing, also where it is asked to be strict: so it is read back of each pod that is made
(``cluster.identity``), and one without it is taken back, with words.  A pod whose group is not
there waits without a condition or an Event: the group is made before it, and anew if somebody
deletes it.
"""

from collections.abc import Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Member
from sglang_operator.scheduling.pod_groups import PodGroups, grouped


class InTree(PodGroups):
    """See :class:`sglang_operator.scheduling.pod_groups.PodGroups`."""

    grouped = grouped(
        "PodGroup",
        names.POD_GROUP_API_VERSION,
        "turn on the feature gate GenericWorkload of API server, controller manager and scheduler, "
        f"and the API server's runtime-config {names.POD_GROUP_API_VERSION}",
    )

    def member_spec(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {"schedulingGroup": {"podGroupName": member.group}}

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        spec: dict[str, Any] = {
            "schedulingPolicy": {
                "gang": {"minCount": member.together}
            },  # for good: it is immutable
            # Without one of its pods the others are no engine; of a start they are other engines.
            "disruptionMode": {"single": {}} if member.start else {"all": {}},
        }
        if parsed.scheduling.priority_class_name:
            spec["priorityClassName"] = parsed.scheduling.priority_class_name
        return spec
