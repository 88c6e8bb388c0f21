"""Pods by the GPUs that they were given by name: no scheduler counts those."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from sglang_operator.observed.model import ObservedPod

T = TypeVar("T")


class GpuIndex(Generic[T]):
    """What is known of each such pod, by its UID and by the UUIDs of its GPUs."""

    def __init__(self) -> None:
        self._all: dict[str, T] = {}
        self._on: dict[str, dict[str, T]] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._all.values())

    def add(self, pod: ObservedPod, each: T) -> None:
        """In the place of what was known of it, which was under the same GPUs."""
        for gpu in pod.gpus_seen:
            self._on.setdefault(gpu, {})[pod.uid] = each
            self._all[pod.uid] = each

    def remove(self, pod: ObservedPod) -> None:
        """As it was added."""
        self._all.pop(pod.uid, None)
        for gpu in pod.gpus_seen:
            others = self._on.get(gpu, {})
            others.pop(pod.uid, None)
            if not others:
                self._on.pop(gpu, None)

    def on(self, gpu: str) -> Iterator[T]:
        """Those that were given this one."""
        return iter(self._on.get(gpu, {}).values())
