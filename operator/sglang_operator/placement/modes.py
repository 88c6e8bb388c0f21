"""The modes that there are.  A new one is a file beside ``count`` and a line here."""

from collections.abc import Iterator, Mapping

from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PlacementMode, PoolSpec
from sglang_operator.placement.base import PlacementStrategy, PodParts
from sglang_operator.placement.count import Count
from sglang_operator.placement.seats import Devices
from sglang_operator.placement.shared import Shared
from sglang_operator.placement.slot import Slot

MODES: Mapping[PlacementMode, PlacementStrategy] = {
    PlacementMode.COUNT: Count(),
    PlacementMode.SHARED: Shared(),
    PlacementMode.SLOT: Slot(),
}


def of(parsed: PoolSpec) -> PlacementStrategy:
    """The placement of a pool, also of one that has ``problems``."""
    return MODES[parsed.placement.mode]


def resource(parsed: PoolSpec) -> str:
    """The resource that GPUs are counted by."""
    return of(parsed).resource(parsed)


def joins(parsed: PoolSpec) -> bool:
    """Whether its engines are on GPUs of a trainer, which holds their memory in turns with them."""
    return of(parsed).joins


def parts(parsed: PoolSpec, namespace: str) -> PodParts:
    """What pods have for the sake of their placement."""
    return of(parsed).parts(parsed, namespace)


def problems(
    parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
) -> Iterator[Problem]:
    """Why a pool of these engines cannot be placed as it asks for."""
    yield from of(parsed).problems(parsed, namespace, engines)
