"""Kueue: an engine's pods are let in together once a queue has quota for all of them.

They are a group of Kueue's pod integration, mostly a group of one.  How they say so is what
survived on Kueue 0.19.2 (tests/kueue, docs/decisions.md):

- A group is one *try* at the engine, its name has the attempt in it.  Of a group that all tries
  share Kueue takes the new pods for some too many while the old ones end, and deletes them.
- ``pod-suspending-parent`` says that whoever made the pods looks after them, as of Kueue's own
  StatefulSets.  It leaves out Kueue's finalizer (since 0.16), by which the pods of a group, once
  deleted, stay and keep their quota until each of them has ended: on a lost node that is never.
- ``retriable-in-group: "false"``: nobody comes in place of a pod that has ended, so a group whose
  pods have all ended gives its quota to the next try, though they are kept until it is there.
- A pod that is no group gives its quota away when its deletion is asked for, while it still has its
  GPUs.  A group does once it is gone.

A Workload of our own for each engine, which all tries would share, is no way: Kueue compares it
with the pod as admission left it, calls it out of sync, and has it go with the pod.

Every pod has the gate from the start, so that none gets past the quota where Kueue is not there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import errors, names, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling import texts, topology
from sglang_operator.scheduling.base import Member, Waiting

_FIELD = "spec.scheduling"


class Kueue:
    """See :class:`sglang_operator.scheduling.base.Gang`."""

    grouped = None  # Kueue makes its Workload itself, of what pods say

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        chosen = parsed.scheduling
        if not chosen.queue_name:
            yield syntax.missing(f"{_FIELD}.queueName", texts.A_LOCAL_QUEUE)
        for field, value in (
            ("queueName", chosen.queue_name),
            ("workloadPriorityClassName", chosen.workload_priority_class_name),
        ):
            # The name of an object, which is written as a label's value.
            if value and not (syntax.is_subdomain(value) and syntax.is_label_value(value)):
                yield syntax.wrong(f"{_FIELD}.{field}", value, texts.NAME_IN_LABEL)
        if (least := chosen.min_engines) is not None:
            expected, helps = texts.NOT_OF_KUEUE, texts.DO_LEAVE_OUT
            yield syntax.wrong(f"{_FIELD}.minEngines", least, expected, helps)
        yield from topology.keys(parsed)
        yield from _written_twice(parsed)

    def pod_spec(self, parsed: PoolSpec) -> Mapping[str, Any]:
        return {"schedulingGates": [{"name": names.KUEUE_GATE}]}

    def member_spec(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {}

    def labels(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        chosen = parsed.scheduling
        written = {
            names.LABEL_QUEUE: chosen.queue_name or "",
            names.LABEL_QUEUE_MANAGED: "true",
            names.QUEUE_GROUP: member.group,
            names.LABEL_QUEUE_INDEX: str(member.node_rank),
        }
        if chosen.workload_priority_class_name:
            written[names.LABEL_QUEUE_PRIORITY] = chosen.workload_priority_class_name
        return written

    def annotations(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        chosen = parsed.scheduling
        written = {
            names.ANNOTATION_QUEUE_PARENT: names.MANAGED_BY,
            names.QUEUE_GROUP: member.group,
            names.ANNOTATION_QUEUE_COUNT: str(member.pods),
            names.ANNOTATION_QUEUE_RETRIES: "false",
        }
        if chosen.required_topology:
            written[names.ANNOTATION_TOPOLOGY_REQUIRED] = chosen.required_topology
        if chosen.preferred_topology:
            written[names.ANNOTATION_TOPOLOGY_PREFERRED] = chosen.preferred_topology
        return written

    def queue(self, parsed: PoolSpec) -> Waiting | None:
        chosen = parsed.scheduling
        return Waiting(chosen.queue_name or "", chosen.workload_priority_class_name or "")

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {}


def _written_twice(parsed: PoolSpec) -> Iterator[Problem]:
    """Kueue's keys in podTemplate: two that say of one pod how it waits."""
    metadata = parsed.pod_template.get("metadata")
    for kind in ("labels", "annotations"):
        written = metadata.get(kind) if isinstance(metadata, dict) else None
        for key in sorted(map(str, written)) if isinstance(written, dict) else ():
            if key.startswith(names.KUEUE_PREFIX):
                yield errors.POD_TEMPLATE(
                    f"spec.podTemplate.metadata.{kind}.{key}",
                    found=key,
                    expected=texts.NO_KUEUE_KEYS.format(kind=kind),
                    advice=texts.DO_SCHEDULING,
                )
