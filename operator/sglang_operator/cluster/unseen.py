"""Pods with GPUs that no scheduler counts, and of which their stream tells no more.

They are gone, or somebody took the label away by which the stream chooses: it says the same of
both.  Such a pod runs on, and has its GPUs.  So its name is asked for, until there is an answer.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sglang_operator.clocks import moment
from sglang_operator.observed import wire
from sglang_operator.observed.model import ObservedPod

MOST = 256  # who is not elected asks for none; the oldest are gone for sure


class UnseenPod(NamedTuple):
    """One, as it was when it was last seen."""

    namespace: str
    pod: ObservedPod


class Unseen:
    """Those that may be there yet."""

    def __init__(self) -> None:
        self._pods: dict[str, UnseenPod] = {}

    def __iter__(self) -> Iterator[UnseenPod]:
        return iter(list(self._pods.values()))

    def __len__(self) -> int:
        return len(self._pods)

    def add(self, namespace: str, pod: ObservedPod) -> None:
        """Its stream tells of it no more, or never did."""
        if pod.gpus_seen and pod.may_hold_memory:
            self._pods[pod.uid] = UnseenPod(namespace, pod)
            if len(self._pods) > MOST:
                del self._pods[next(iter(self._pods))]

    def discard(self, uid: str) -> None:
        """Its stream tells of it."""
        self._pods.pop(uid, None)

    def is_over(self, uid: str, found: wire.Pod | None) -> bool:
        """Whether its engine is over: this is under its name, as the API server has answered."""
        known = self._pods.pop(uid, None)
        if known is None or found is None or found.metadata.uid != uid:
            return True
        self.add(known.namespace, wire.observed_pod(found, moment(), known.pod))
        return uid not in self._pods
