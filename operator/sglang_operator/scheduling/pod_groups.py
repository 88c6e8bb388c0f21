"""What the gangs have in common whose scheduler reads a PodGroup: all its pods start, or none.

The group is one *try* at an engine, its name has the attempt in it: pods of an earlier try that are
on their way out have nodes yet, and would be counted towards the minimum of the new ones.  The
first engines of a pool with ``minEngines`` are one group, and each that comes later is its own
again (``plan.starting``).  A group is made before its pods (``controller.acting``) and goes after
the last of them (``children.gang_groups``).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from sglang_operator.api import errors, syntax
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling import texts
from sglang_operator.scheduling.base import Grouped, Member, Waiting

FIELD = "spec.scheduling"
KIND = "PodGroup"
PLURAL = "podgroups"
# What only gangs read, by the name of the field.
_OF_GANGS = {
    "queueName": "queue_name",
    "workloadPriorityClassName": "workload_priority_class_name",
    "requiredTopology": "required_topology",
    "preferredTopology": "preferred_topology",
}


def grouped(name: str, api_version: str, install: str) -> Grouped:
    """The PodGroup of this API."""
    kind = f"{KIND}.{api_version.rpartition('/')[0]}"
    return Grouped(name, kind, api_version, PLURAL, install)


class PodGroups:
    """See :class:`sglang_operator.scheduling.base.Gang`; an adapter says what is its own."""

    grouped: ClassVar[Grouped]
    scheduler: ClassVar[str] = ""  # that pods ask for; empty: the cluster's own
    reads: ClassVar[frozenset[str]] = frozenset()  # of the fields that only gangs read
    label: ClassVar[str] = ""  # by which a pod names its group
    annotation: ClassVar[str] = ""  # the same, where it is an annotation

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        chosen = parsed.scheduling
        for field, name in _OF_GANGS.items():
            value = getattr(chosen, name)
            if value and field not in self.reads:
                expected = texts.NOT_OF_GANG.format(gang=self.grouped.name)
                yield syntax.wrong(f"{FIELD}.{field}", value, expected, texts.DO_LEAVE_OUT)
        queue = chosen.queue_name if "queueName" in self.reads else None
        if queue and not syntax.is_subdomain(queue):
            yield syntax.wrong(f"{FIELD}.queueName", queue, syntax.SUBDOMAIN)
        yield from self._written_twice(parsed)

    def _written_twice(self, parsed: PoolSpec) -> Iterator[Problem]:
        """What podTemplate has under a key that the gang writes: what it says there would win.

        The group is each engine's own; the rest is what ``scheduling`` says.
        """
        metadata = parsed.pod_template.get("metadata")
        any_member = Member("", EngineName(""), 0)
        own: dict[str, Mapping[str, str]] = {
            "labels": self.labels(parsed, any_member),
            "annotations": self.annotations(parsed, any_member),
        }
        for kind, keys in own.items():
            written = metadata.get(kind) if isinstance(metadata, dict) else None
            for key in set(keys).intersection(written if isinstance(written, dict) else ()):
                is_group = key in (self.label, self.annotation)
                expected = texts.OWN_GROUP if is_group else texts.OWN_KEY
                yield errors.POD_TEMPLATE(
                    f"spec.podTemplate.metadata.{kind}.{key}",
                    found=key,
                    expected=expected.format(gang=self.grouped.name),
                    advice=texts.DO_LEAVE_OUT if is_group else texts.DO_SAY_IN_SCHEDULING,
                )

    def pod_spec(self, parsed: PoolSpec) -> Mapping[str, Any]:
        return {"schedulerName": self.scheduler} if self.scheduler else {}

    def member_spec(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {}

    def labels(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        return {self.label: member.group} if self.label else {}

    def annotations(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        return {self.annotation: member.group} if self.annotation else {}

    def queue(self, parsed: PoolSpec) -> Waiting | None:
        """A queue stands in the group, and is put right there: pods have none to be moved from."""
        return None

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        raise NotImplementedError


def min_resources(parsed: PoolSpec, member: Member) -> dict[str, str]:
    """The GPUs of the pods that start at once: none is looked at while there are not as many."""
    gpus = parsed.num_gpus_per_worker * member.least // member.pods
    return {parsed.placement.resource_name: str(gpus)}
