"""Coscheduling, of Kubernetes' scheduler-plugins: pods of a PodGroup wait for its minimum.

A pod names its group by a label.  Where the object is not there its scheduler lets the pod through
its first check and refuses it at the last (``Permit``), with the node's room taken meanwhile: so it
is made before the pods.  Priority is that of the pods; there are no queues.
"""

from collections.abc import Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Member
from sglang_operator.scheduling.pod_groups import PodGroups, grouped, min_resources


class Coscheduling(PodGroups):
    """See :class:`sglang_operator.scheduling.pod_groups.PodGroups`."""

    grouped = grouped(
        "Coscheduling", names.COSCHEDULING_API_VERSION, "install Kubernetes' scheduler-plugins"
    )
    scheduler = names.COSCHEDULING_SCHEDULER
    label = names.LABEL_COSCHEDULING_GROUP

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {"minMember": member.least, "minResources": min_resources(parsed, member)}
