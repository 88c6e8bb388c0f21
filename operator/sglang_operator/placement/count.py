"""``Count``: the device plugin hands out as many GPUs as an engine needs, and chooses which.

The ids in ``device_mapping`` are a number here, not places.
"""

from collections.abc import Iterator, Mapping, Sequence

from sglang_operator.api import conditions, pod_container, syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.placement import colocated
from sglang_operator.placement.base import Achieved, Placed, PodParts
from sglang_operator.placement.seats import Devices, Seating, Seen


class Count:
    """See :class:`sglang_operator.placement.base.PlacementStrategy`."""

    by_id = False
    seats = False
    joins = False
    published = False

    def problems(
        self, parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
    ) -> Iterator[Problem]:
        yield from colocated.unused(parsed)
        resource = self.resource(parsed)
        if not pod_container.is_counted(resource):
            yield syntax.wrong(
                "spec.placement.resourceName",
                resource,
                "a resource that counts devices, such as nvidia.com/gpu or amd.com/gpu",
                "write what nodes have in status.allocatable",
            )

    def resource(self, parsed: PoolSpec) -> str:
        return parsed.placement.resource_name

    def device_classes(self, parsed: PoolSpec) -> Sequence[tuple[str, str]]:
        return ()

    def requests(self, parsed: PoolSpec, gpus: int) -> Mapping[str, str]:
        return {self.resource(parsed): str(gpus)}

    def parts(self, parsed: PoolSpec, namespace: str) -> PodParts:
        return PodParts()

    def seating(
        self, parsed: PoolSpec, name: str, engines: Mapping[EngineName, Devices], seen: Seen
    ) -> Seating | None:
        return None

    def achieved(self, placed: Placed) -> Achieved:
        complete = placed.engines == placed.of
        text = texts.DEVICES_COUNTED if complete else texts.ENGINES_UNPLACED
        message = text.format(
            gpus=placed.engines * placed.gpus, nodes=placed.nodes, wanted=placed.of * placed.gpus
        )
        reason = conditions.COUNTED if complete else conditions.ENGINES_UNPLACED
        return Achieved(complete=complete, reason=reason, message=message)
