"""The engines of a pool whose spec is refused: they run on as they were, so they are still shown.

What the spec no longer tells is taken from their pods and from what the status kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sglang_operator.api.spec import Restart
from sglang_operator.observed import health
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import ObservedNode, ObservedPod
from sglang_operator.pool.resolve import Engine


def engines(
    pods: Iterable[ObservedPod], nodes: Mapping[str, ObservedNode] | None, now: float
) -> Iterator[EngineStatus]:
    """An engine for each pod that has not ended, in the order of their GPUs.

    The rank of an engine is only its place in that order: the ranks stood in the spec.
    """
    policy = Restart()
    believed = health.Believed(nodes, health.silence(nodes, now))
    alive = [pod for pod in pods if not pod.ended]
    for place, pod in enumerate(sorted(alive, key=_by_devices)):
        found = health.health(pod, believed, policy, now)
        engine = Engine(rank=place, name=pod.engine, devices=pod.devices)
        yield EngineStatus.of(engine, (pod,), (found,))


def gpus(pods: Iterable[ObservedPod], status: Mapping[str, Any]) -> int:
    """GPUs of one engine, as its pods or the last accepted spec have it; 0: nobody knows."""
    named = next((len(pod.devices) for pod in pods if pod.devices), 0)
    return named or int(status.get("resolved", {}).get("numGpusPerWorker", 0))


def _by_devices(pod: ObservedPod) -> tuple[tuple[int, ...], int, str]:
    digits = pod.engine.lstrip("r")
    return pod.devices, int(digits) if digits.isdecimal() else -1, pod.name
