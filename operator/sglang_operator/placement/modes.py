"""The modes that there are.  A new one is a file beside ``count`` and a line here."""

from collections.abc import Iterator, Mapping

from sglang_operator.api import errors
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PlacementMode, PoolSpec
from sglang_operator.placement.base import PlacementStrategy, PodParts
from sglang_operator.placement.count import Count
from sglang_operator.placement.seats import Devices
from sglang_operator.placement.shared import Shared

MODES: Mapping[PlacementMode, PlacementStrategy] = {
    PlacementMode.COUNT: Count(),
    PlacementMode.SHARED: Shared(),
}


def of(parsed: PoolSpec) -> PlacementStrategy:
    """The placement of a pool that has no ``problems``."""
    return MODES[parsed.placement.mode]


def resource(parsed: PoolSpec) -> str:
    """The resource that GPUs are counted by, of a pool that may have ``problems``.

    In a mode that is no strategy yet it is the one that the pool names.
    """
    strategy = MODES.get(parsed.placement.mode)
    return parsed.placement.resource_name if strategy is None else strategy.resource(parsed)


def parts(parsed: PoolSpec, namespace: str) -> PodParts:
    """What pods have for the sake of their placement, of a pool that may have ``problems``."""
    strategy = MODES.get(parsed.placement.mode)
    return PodParts() if strategy is None else strategy.parts(parsed, namespace)


def problems(
    parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
) -> Iterator[Problem]:
    """Why a pool of these engines cannot be placed as it asks for."""
    mode = parsed.placement.mode
    if mode in MODES:
        yield from MODES[mode].problems(parsed, namespace, engines)
        return
    known = ", ".join(mode.value for mode in MODES)
    advice = f"use {known}, or leave placement out"
    yield errors.NOT_YET_SUPPORTED("spec.placement.mode", found=mode.value, advice=advice)
