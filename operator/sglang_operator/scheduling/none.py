"""No gang: each pod is scheduled by itself, by the cluster's scheduler or the one that is named."""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Member, Waiting


class NoGang:
    """See :class:`sglang_operator.scheduling.base.Gang`."""

    grouped = None

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        return iter(())

    def pod_spec(self, parsed: PoolSpec) -> Mapping[str, Any]:
        return {}

    def member_spec(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {}

    def labels(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        return {}

    def annotations(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        return {}

    def queue(self, parsed: PoolSpec) -> Waiting | None:
        return None

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        return {}
