"""Pods of which no stream tells, and that may be there: each is asked for by its name.

A stream says the same of a pod that is gone and of one whose label was taken away, by which it
chooses.  Such a pod runs on.  If no scheduler counts its GPUs, another would be put beside it.
What an answer alone has told of, a create's or a read's, nobody would ever tell the end of.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sglang_operator.cluster.gpu_index import GpuIndex
from sglang_operator.observed.model import ObservedPod

# Of one namespace, beside those that are known anyway.  What is beyond is not known one by one:
# no engine is put on GPUs by name there before all pods of the namespace were read.
MOST = 4096


class UnseenPod(NamedTuple):
    """One, as it was when it was last seen."""

    namespace: str
    pool: str  # whose it is; empty: nobody's
    pod: ObservedPod


class Unseen:
    """Those that may be there yet.  ``news`` is set once there is one more, or no room for one."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._pods: dict[str, UnseenPod] = {}
        self._of: dict[str, dict[str, UnseenPod]] = {}  # by namespace
        self._on: GpuIndex[UnseenPod] = GpuIndex()
        self._lost: dict[str, set[str]] = {}  # by namespace; they are known only here
        self._new: dict[str, set[str]] = {}  # by namespace, who was not asked for yet
        self._beyond: dict[str, int] = {}  # how many times there was no room for one

    def __len__(self) -> int:
        return len(self._pods)

    def __contains__(self, uid: str) -> bool:
        return uid in self._pods

    def get(self, uid: str) -> UnseenPod | None:
        return self._pods.get(uid)

    @property
    def namespaces(self) -> Sequence[str]:
        """Where there is something to be asked for."""
        return list(self._of | dict.fromkeys(self._beyond))

    def of(self, namespace: str) -> Sequence[UnseenPod]:
        """Those of a namespace."""
        return list(self._of.get(namespace, {}).values())

    def has_new(self, namespace: str) -> bool:
        """Whether one of them was not asked for yet."""
        return namespace in self._new

    def asked(self, each: UnseenPod) -> None:
        """It is asked for."""
        new = self._new.get(each.namespace, set())
        new.discard(each.pod.uid)
        if not new:
            self._new.pop(each.namespace, None)

    def on(self, gpu: str) -> Iterator[UnseenPod]:
        """Those that were given this GPU by its UUID, and may hold memory of it."""
        return (each for each in self._on.on(gpu) if each.pod.may_hold_memory)

    def lost(self, namespace: str, pool: str, pod: ObservedPod) -> None:
        """Its stream tells of it no more, and nothing else knows of it."""
        lost = self._lost.setdefault(namespace, set())
        if pod.uid not in lost and len(lost) >= MOST:
            self.discard(pod.uid)
            self._beyond[namespace] = self._beyond.get(namespace, 0) + 1
            self.news.set()
            return
        lost.add(pod.uid)
        self.add(namespace, pool, pod)

    def add(self, namespace: str, pool: str, pod: ObservedPod) -> None:
        """An answer told of it, and no stream does."""
        if (known := self._pods.get(pod.uid)) is None:
            self._new.setdefault(namespace, set()).add(pod.uid)
            self.news.set()
        else:
            self._on.remove(known.pod)
        each = UnseenPod(namespace, pool, pod)
        self._pods[pod.uid] = self._of.setdefault(namespace, {})[pod.uid] = each
        self._on.add(pod, each)

    def discard(self, uid: str) -> None:
        """A stream tells of it, or it is over."""
        known = self._pods.pop(uid, None)
        if known is None:
            return
        self._on.remove(known.pod)
        self.asked(known)
        there, lost = self._of[known.namespace], self._lost.get(known.namespace, set())
        del there[uid]
        lost.discard(uid)
        if not there:
            del self._of[known.namespace]
        if not lost:
            self._lost.pop(known.namespace, None)

    # --- what is beyond

    def beyond(self, namespace: str) -> int:
        """How many times there was no room for one, since all pods of it were last read."""
        return self._beyond.get(namespace, 0)

    def recounted(self, namespace: str, before: int) -> None:
        """All pods of a namespace were read, which began when ``beyond`` was so much."""
        if self._beyond.get(namespace) == before:
            del self._beyond[namespace]
