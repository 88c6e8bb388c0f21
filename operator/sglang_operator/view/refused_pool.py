"""The engines of a pool whose spec is refused: they run on as they were, so they are still shown.

What the spec no longer tells is taken from their pods and from what the status kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sglang_operator.api.spec import Restart
from sglang_operator.observed import groups, health
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedNode, ObservedPod
from sglang_operator.pool.resolve import Engine


def engines(
    pods: Iterable[ObservedPod], nodes: Mapping[str, ObservedNode] | None, now: float
) -> Iterator[EngineStatus]:
    """An engine for each group of pods that has not ended, in the order of their GPUs.

    The rank of an engine is only its place in that order: the ranks stood in the spec.
    """
    policy = Restart()
    believed = health.Believed(nodes, health.silence(nodes, now))
    alive = [group for group in groups.of(pods) if not group.ended]
    for place, group in enumerate(sorted(alive, key=_by_devices)):
        found = [health.health(pod, believed, policy, now) for pod in group.members]
        engine = Engine(rank=place, name=group.engine, devices=group.devices)
        yield groups.status(engine, group, found)


def gpus(pods: Iterable[ObservedPod], status: Mapping[str, Any]) -> int:
    """GPUs of one engine, as its pods or the last accepted spec have it; 0: nobody knows."""
    named = next((len(group.devices) for group in groups.of(pods) if group.devices), 0)
    return named or int(status.get("resolved", {}).get("numGpusPerWorker", 0))


def _by_devices(group: Group) -> tuple[tuple[int, ...], int, str]:
    digits = group.engine.lstrip("r")
    return group.devices, int(digits) if digits.isdecimal() else -1, group.first.name
