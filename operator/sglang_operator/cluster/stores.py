"""What the informers know of pools and pods, indexed the way a pass asks for it.

Children and nodes have stores of their own (``child_store``, ``node_store``).  A store also takes
what our own writes returned (``put`` of the answer's object), so that the next pass does not wait
for the watch: an older version of an object never overwrites a newer one, but for what a list says
of all that was before it (``cluster.absence``).
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from sglang_operator import supervision
from sglang_operator.api import names
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster import crowding, pod_entry
from sglang_operator.cluster.absence import (
    NO_VERSION,
    Called,
    Tombstones,
    in_scope,
    there,
    told,
    went_back,
)
from sglang_operator.cluster.gpu_index import GpuIndex
from sglang_operator.cluster.pod_entry import PodEntry
from sglang_operator.cluster.pool_key import PoolKey
from sglang_operator.cluster.unseen import Unseen
from sglang_operator.kube import decoding
from sglang_operator.observed import edits, sightings, wire
from sglang_operator.observed.model import ObservedPod
from sglang_operator.weights.lease_state import Phase

__all__ = ["PodEntry", "PodStore", "PoolKey", "PoolStore"]

VANISHED_SECONDS = 3600.0
MOST_VANISHED = 16_384


Wake = Callable[[PoolKey, bool], None]  # the pool, and whether it is urgent


class PoolStore:
    """The pools, by namespace and name; of a namespace as many whole as fit together."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._pools: dict[PoolKey, wire.CustomResource] = {}
        self._gone = Tombstones()
        self._room = crowding.Room()

    def get(self, key: PoolKey) -> wire.CustomResource | None:
        return self._pools.get(key)

    def known(self) -> list[PoolKey]:
        """The keys of all pools."""
        return list(self._pools)

    def has(self, namespace: str, name: str, uid: str) -> bool:
        """Whether there is this very pool."""
        pool = self._pools.get(PoolKey(namespace, name))
        return pool is not None and pool.metadata.uid == uid

    def replace(
        self,
        scope: str,
        records: list[wire.CustomResource],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        listed = {_key(meta) for meta in there(records, unread)}
        for key, known in list(self._pools.items()):
            missing = in_scope(key.namespace, scope) and key not in listed and told(unread)
            if missing and known.metadata.version <= version:
                self._forget(known, version)
        for record in records:
            self._gone.listed(record.metadata, version)
            before = self._pools.get(_key(record.metadata))
            if before and went_back(record.metadata, before.metadata.version, version):
                self._unversion(_key(record.metadata), before)
        supervision.each("pools", self.put, records, decoding.called)
        self._room.list_ended()

    def kept(self, record: wire.CustomResource) -> wire.CustomResource:
        """As much of a pool as is kept while a list comes in."""
        return self._room.listed(crowding.trimmed(record))

    def to_be_read(self, key: PoolKey) -> bool:
        """Whether the pool is to be read again: it has room, and was left out."""
        known = self._pools.get(key)
        return known is not None and bool(known.left_out) and self._room.fits(*key)

    def planned(self, record: wire.CustomResource, engines: int) -> bool:
        """Weigh a pool as it is planned, with so many engines; whether it has room even so."""
        key = _key(record.metadata)
        if self._pools.get(key) is record:
            self._crowd(key.namespace, self._room.plan(record, engines))
        return self._room.fits(*key)

    def restored(self) -> None:
        """The cluster is of an earlier state: no version says any more what is newer."""
        self._gone = Tombstones()
        for key, pool in self._pools.items():
            self._unversion(key, pool)

    def _unversion(self, key: PoolKey, pool: wire.CustomResource) -> None:
        """The next word on this pool counts, whatever its version."""
        meta = msgspec.structs.replace(pool.metadata, resource_version=str(NO_VERSION))
        self._pools[key] = msgspec.structs.replace(pool, metadata=meta)

    def put(self, record: wire.CustomResource) -> None:
        key = _key(record.metadata)
        known = self._pools.get(key)
        if self._gone.cover(record.metadata):
            return
        # Of one that was left out the same state brings the rest.
        is_rest = known is not None and bool(known.left_out) and not record.left_out
        if known and known.metadata.version >= record.metadata.version + is_rest:
            return
        record = crowding.trimmed(record)
        moved = self._room.put(record)
        if not self._room.fits(*key):
            record = crowding.left_out(record)
        if record.unreadable and not record.status and known:
            # What was told of it stands; without it nobody knew of the gate, or of the engines.
            record = msgspec.structs.replace(record, status=known.status)
        self._pools[key] = record
        is_known = (
            known is not None
            and edits.same_spec(known, record)
            and known.metadata.deletion_timestamp == record.metadata.deletion_timestamp
        )
        self._wake(key, not is_known)
        self._crowd(key.namespace, moved)

    def _crowd(self, namespace: str, moved: list[str]) -> None:
        """Leave out who has no room any more; who has some is read by its next pass."""
        for key in (PoolKey(namespace, name) for name in moved):
            known = self._pools.get(key)
            if known is None:
                continue
            if not self._room.fits(*key):
                self._pools[key] = crowding.left_out(known)
            if known.left_out or self._pools[key].left_out:
                self._wake(key, False)

    def drop(self, record: wire.CustomResource) -> None:
        self._forget(record, record.metadata.version)

    def gone(self, key: PoolKey, uid: str) -> None:
        """A quorum read did not find this pool any more."""
        known = self._pools.get(key)
        if known and known.metadata.uid == uid:
            self._forget(known, known.metadata.version)
            self._gone.add_unfound(uid, key.namespace, known.metadata.version)

    def list_begins(self, scope: str) -> None:
        """What the next list of this scope names is there, whatever a read did not find before."""
        self._gone.list_begins(scope)

    def _forget(self, record: wire.CustomResource, version: int) -> None:
        self._gone.add(record.metadata.uid, version)
        key = _key(record.metadata)
        known = self._pools.get(key)
        if known and known.metadata.uid == record.metadata.uid:
            del self._pools[key]
            self._wake(key, True)
            self._crowd(key.namespace, self._room.remove(*key))


class PodStore:
    """Pods that are controlled by some pool, by pool; and those that have what engines had."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._entries: dict[str, PodEntry] = {}
        self._by_pool: defaultdict[PoolKey, dict[str, PodEntry]] = defaultdict(dict)
        self._by_node: defaultdict[str, dict[str, PodEntry]] = defaultdict(dict)
        self._uncounted: GpuIndex[PodEntry] = GpuIndex()
        self.unseen = Unseen()
        self._gone = Tombstones()
        self._called = Called()
        self._lost_at: dict[PoolKey, float] = {}
        self._vanished: dict[PoolKey, deque[float]] = {}
        # Attempts at engines of which a pod vanished, and others are still there.
        self._torn: dict[PoolKey, set[tuple[names.EngineName, int]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def lost_at(self, key: PoolKey) -> float:
        """When a pod of the pool was last seen to be deleted, by the steady clock; -inf: never.

        It may be because the pool is deleted, or has changed: what confirms it is older than this.
        """
        return self._lost_at.get(key, float("-inf"))

    def vanished(self, key: PoolKey) -> int:
        """How many of its engines lost pods within an hour that neither ended nor were asked to.

        Pods that are one engine, and vanish together or one after another, count once.
        """
        times = self._vanished.get(key, deque())
        while times and times[0] < steady() - VANISHED_SECONDS:
            times.popleft()
        return len(times)

    def forget_losses(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._lost_at.pop(key, None)
        self._vanished.pop(key, None)
        self._torn.pop(key, None)
        self._called.forget(key)

    def of(self, key: PoolKey) -> Iterator[PodEntry]:
        """All pods of pools of this name, whichever UID the pool had."""
        return iter(self._by_pool.get(key, {}).values())

    def on(self, node: str) -> Iterator[PodEntry]:
        """The pods of all pools on this node."""
        return iter(self._by_node.get(node, {}).values())

    def uncounted(self) -> Iterator[PodEntry]:
        """The pods of all pools that were given GPUs by name: no scheduler counts those."""
        return iter(self._uncounted)

    def on_gpu(self, gpu: str) -> Iterator[PodEntry]:
        """Those of them that were given this one, by its UUID."""
        return self._uncounted.on(gpu)

    def looked(self, uid: str, found: wire.Pod | None) -> None:
        """This is under the name of one of the unseen, as the API server has answered."""
        known = self.unseen.get(uid)
        if known is None:
            return  # its stream has told of it meanwhile
        there = found if found is not None and found.metadata.uid == uid else None
        if there is not None and uid in self._entries:
            self.answered(there)
            return
        pod = wire.observed_pod(there, moment(), known.pod) if there is not None else None
        if pod is not None and pod.may_hold_memory:
            self.unseen.lost(known.namespace, known.pool, pod)
            return
        self.unseen.discard(uid)
        self._forget(uid)
        if known.pool:  # who else waits for it looks again by itself
            self._wake(PoolKey(known.namespace, known.pool), True)

    def recount(self, namespace: str, found: Sequence[wire.Pod], beyond: int) -> None:
        """These are all pods of a namespace, of which more were lost than there was room for.

        ``beyond``: how many, when it was begun to read them.
        """
        self.unseen.recounted(namespace, beyond)
        for record in found:
            if record.metadata.uid in self._entries or not pod_entry.is_outside(record.metadata):
                continue
            pod = wire.observed_pod(record, moment())
            if pod.gpus_seen and pod.may_hold_memory:
                self.unseen.lost(namespace, record.metadata.labels.get(names.LABEL_POOL, ""), pod)

    def pools_on(self, node: str) -> set[PoolKey]:
        """The pools that have a pod on this node."""
        return {entry.pool for entry in self.on(node) if entry.pool.name}

    def replace(
        self,
        scope: str,
        records: list[wire.Pod],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        self._called.listed(scope, version)
        # Of who was never in the stream its list says nothing.
        within = [e for e in self._entries.values() if in_scope(e.pool.namespace, scope)]
        known = [entry for entry in within if entry.pod.uid not in self.unseen]
        self._listed(known, records, version, unread)

    def replace_of(
        self,
        key: PoolKey,
        records: list[wire.Pod],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        """The same of the pods of one pool, by the labels of its Services, past the stream."""
        self._called.forget(key)
        self._listed([e for e in self.of(key) if not e.aside], records, version, unread)
        self._called.add(key, version, unread)

    def _listed(
        self,
        known: list[PodEntry],
        records: list[wire.Pod],
        version: int,
        unread: Sequence[wire.Meta],
    ) -> None:
        """A list of this version told of these pods, among which those known would be."""
        listed = {meta.uid for meta in there(records, unread)}
        for entry in known:
            missing = entry.pod.uid not in listed
            if missing and told(unread) and entry.pod.resource_version <= version:
                self._gone.add(entry.pod.uid, version)
                self._lose(entry.pod.uid)
        for record in records:
            self._gone.listed(record.metadata, version)
            before = self._entries.get(record.metadata.uid)
            if before and went_back(record.metadata, before.pod.resource_version, version):
                self._unversion(before)
        supervision.each("pods", self.put, records, decoding.called)

    def restored(self) -> None:
        """The cluster is of an earlier state: no version says any more what is newer."""
        self._gone, self._called = Tombstones(), Called()
        for entry in list(self._entries.values()):
            self._unversion(entry)

    def _unversion(self, entry: PodEntry) -> None:
        """The next word on this pod counts, whatever its version."""
        pod = dataclasses.replace(entry.pod, resource_version=NO_VERSION)
        self._index(dataclasses.replace(entry, pod=pod))

    def put(self, record: wire.Pod) -> None:
        """The stream tells of this pod, which may be of the past."""
        if record.metadata.uid in self._entries or not self._called.cover(record.metadata):
            self.answered(record)

    def answered(self, record: wire.Pod) -> None:
        """The API server has answered with this pod when it was asked for it."""
        uid = record.metadata.uid
        if self._gone.cover(record.metadata):
            return
        known = self._entries.get(uid)
        if known and not pod_entry.is_news(record, known.pod):
            return
        entry = pod_entry.of_record(record, known)
        if known and (entry is None or entry.pool != known.pool):
            self._forget(uid)  # its owner let go of it
        if entry is None or not pod_entry.is_outside(record.metadata):
            self.unseen.discard(uid)
        if entry is None:
            return
        self._index(entry)
        if pod_entry.is_outside(record.metadata):
            self.unseen.add(*entry.pool, entry.pod)
        if not entry.pool.name:
            return  # who waits for it looks again by itself
        if entry.pod.deleting and not (known and known.pod.deleting):
            self._lost_at[entry.pool] = steady()
        if known is None or known.pod.node != entry.pod.node:
            self._wake_neighbours(entry)
        if entry != known:  # else nothing that a decision depends on
            self._wake(entry.pool, known is not None and pod_entry.worsened(known.pod, entry.pod))

    def drop(self, record: wire.Pod) -> None:
        self._gone.add(record.metadata.uid, record.metadata.version)
        self._lose(record.metadata.uid)

    def has(self, uid: str, owner: str) -> bool:
        """Whether this pod is known as one of this pool's engines."""
        entry = self._entries.get(uid)
        return entry is not None and entry.owner == owner and not entry.aside

    def _index(self, entry: PodEntry) -> None:
        """Put a pod where it belongs, and nowhere else."""
        uid = entry.pod.uid
        self._unindex(uid)
        self._entries[uid] = entry
        self._by_pool[entry.pool][uid] = entry
        self._by_node[entry.pod.node][uid] = entry
        self._uncounted.add(entry.pod, entry)

    def _unindex(self, uid: str) -> PodEntry | None:
        """Take a pod out of where it was."""
        entry = self._entries.pop(uid, None)
        if entry is None:
            return None
        self._uncounted.remove(entry.pod)
        for index, place in ((self._by_pool, entry.pool), (self._by_node, entry.pod.node)):
            del index[place][uid]  # type: ignore[index]
            if not index[place]:  # type: ignore[index]
                del index[place]  # type: ignore[arg-type]
        return entry

    def _lose(self, uid: str) -> None:
        """Its stream tells of it no more."""
        entry = self._entries.get(uid)
        if entry is not None and _runs_on_unseen(entry.pod):
            self.unseen.lost(*entry.pool, entry.pod)
        else:
            self.unseen.discard(uid)
        self._forget(uid)

    def _forget(self, uid: str) -> None:
        entry = self._unindex(uid)
        if entry is None or not entry.pool.name:
            return
        self._lost_at[entry.pool] = steady()
        self._wake_neighbours(entry)
        if not (entry.pod.deleting or entry.pod.ended or entry.aside):
            self._note_vanished(entry)
        if entry.pod.nodes > 1:
            self._bereave(entry)
        self._wake(entry.pool, True)

    def _wake_neighbours(self, entry: PodEntry) -> None:
        """It came or went where others may be on the same GPUs: they tell of each other."""
        if entry.pod.gpus_seen and entry.pod.node:
            for pool in self.pools_on(entry.pod.node) - {entry.pool}:
                self._wake(pool, False)

    def tell(self, pools: Iterable[PoolKey]) -> None:
        """Something became of GPUs that these pools have engines on, or wait for."""
        for pool in pools:
            self._wake(pool, False)

    def _note_vanished(self, gone: PodEntry) -> None:
        torn = self._torn.setdefault(gone.pool, set())
        if gone.attempt in torn:
            return
        self._vanished.setdefault(gone.pool, deque(maxlen=MOST_VANISHED)).append(steady())
        if gone.pod.nodes > 1:
            torn.add(gone.attempt)

    def _bereave(self, gone: PodEntry) -> None:
        """Those that are left of its engine remember that it was deleted: they may die of it.

        Where nothing is left of the attempt, the next may have its number.
        """
        left, now = [e for e in self.of(gone.pool) if e.attempt == gone.attempt], steady()
        for entry in left:
            pod = sightings.bereft(entry.pod, gone.pod, now)
            self._index(dataclasses.replace(entry, pod=pod))
        if not left:
            self._torn.get(gone.pool, set()).discard(gone.attempt)


def _runs_on_unseen(pod: ObservedPod) -> bool:
    """Whether it matters that it may run on, though its stream tells of it no more.

    Another engine would be put on its GPUs where no scheduler counts them; and one that sleeps
    would be taken for ended by who wakes it.  Of one without a gate no pod says whether it does.
    """
    if not pod.may_hold_memory:
        return False
    may_sleep = not pod.gated or (pod.gate is not None and pod.gate.reason == Phase.SLEEPING.value)
    return bool(pod.gpus_seen) or (may_sleep and not pod.deleting)


def _key(meta: wire.Meta) -> PoolKey:
    return PoolKey(meta.namespace, meta.name)
