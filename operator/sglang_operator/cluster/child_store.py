"""What the informers know of the children of pools that are no pods; see ``stores``."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sglang_operator import supervision
from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.children.kind import ChildKind
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster.absence import (
    NO_VERSION,
    Tombstones,
    in_scope,
    there,
    told,
    went_back,
)
from sglang_operator.cluster.stores import PoolKey, Wake
from sglang_operator.kube import decoding, keeping
from sglang_operator.observed import wire
from sglang_operator.observed.model import ObservedChild


class ChildStore:
    """The objects of one kind of children that carry the operator's labels.

    ``known`` says which pools there are: of objects that are no pool's little is kept.
    """

    def __init__(self, kind: ChildKind, wake: Wake, known: keeping.Known) -> None:
        self.kind = kind.kind
        self._urgent = kind.urgent
        self._restless = kind.restless
        self._forgets = kind.forgets
        self._wake = wake
        self._keeper = keeping.Keeper(kind, known)
        self._children: dict[tuple[str, str], tuple[ObservedChild, int, PoolKey]] = {}
        self._since: dict[tuple[str, str], float] = {}  # by the steady clock
        self._former: dict[PoolKey, ObservedChild] = {}
        self._gone = Tombstones()
        self._by_pool: defaultdict[PoolKey, set[tuple[str, str]]] = defaultdict(set)

    def of(self, key: PoolKey, now: float | None = None) -> Iterator[tuple[str, ObservedChild]]:
        """Name and object of each child of this kind that has the pool's name for an owner.

        Since when it is seen in its state is told by the clock that ``now`` was read from, and kept
        by one that nobody sets: a wall clock that is put right must not end a holder's time.
        """
        at = moment()
        now = at.wall if now is None else now
        for child in self._by_pool.get(key, ()):
            age = at.steady - self._since[child]
            yield child[1], dataclasses.replace(self._children[child][0], seen=now - age)

    def former(self, key: PoolKey) -> ObservedChild | None:
        """The last state of a pool's child of which the present one says less; told once.

        It may have stood there for a moment only, between two looks of the pool's passes.
        """
        return self._former.pop(key, None)

    def forget_losses(self, key: PoolKey) -> None:
        """The pool is gone, and nobody is told of it."""
        self._former.pop(key, None)

    def replace(
        self,
        scope: str,
        records: list[wire.Child],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        listed = {(meta.namespace, meta.name) for meta in there(records, unread)}
        for key, (_, known, _pool) in list(self._children.items()):
            missing = in_scope(key[0], scope) and key not in listed and told(unread)
            if missing and known <= version:
                self._gone.add(self._children[key][0].uid, version)
                self._forget(key)
        for record in records:
            self._gone.listed(record.metadata, version)
            key = (record.metadata.namespace, record.metadata.name)
            before = self._children.get(key)
            if before and went_back(record.metadata, before[1], version):
                self._children[key] = (before[0], NO_VERSION, before[2])
        supervision.each(self.kind, self.put, records, decoding.called)

    def restored(self) -> None:
        """The cluster is of an earlier state: no version says any more what is newer."""
        self._gone = Tombstones()
        for key, (child, _, pool) in self._children.items():
            self._children[key] = (child, NO_VERSION, pool)

    def kept(self, record: wire.Child) -> wire.Child:
        """As much of a child as is kept."""
        return self._keeper.kept(record)

    def put(self, record: wire.Child) -> None:
        key = (record.metadata.namespace, record.metadata.name)
        pool = PoolKey(key[0], _pool_of_child(record.metadata))
        known = self._children.get(key)
        if self._gone.cover(record.metadata):
            return
        version = record.metadata.version
        # Of what is known by name alone the same state may bring the rest: now its pool is known.
        is_same = known is not None and known[1] == version and not known[0].whole
        if known and known[1] >= version and not is_same:
            return
        if known and known[2] != pool:
            self._forget(key)
        kept = self.kept(record)
        if is_same and not kept.whole:
            return
        child = wire.observed_child(kept)
        before = known[0] if known and known[2] == pool else None
        if before is not None:
            self._note_former(pool, before, child)
        self._children[key] = (child, version, pool)
        self._since[key] = steady()
        self._by_pool[pool].add(key)
        if before is None or self._matters(before, child):
            self._wake(pool, self._urgent)

    def drop(self, record: wire.Child) -> None:
        key = (record.metadata.namespace, record.metadata.name)
        self._gone.add(record.metadata.uid, record.metadata.version)
        known = self._children.get(key)
        if known and known[0].uid == record.metadata.uid:
            self._forget(key)

    def _note_former(
        self, pool: PoolKey, before: ObservedChild, after: ObservedChild | None
    ) -> None:
        if self._forgets is None or not before.whole:
            return
        same = after is not None and after.uid == before.uid
        known = self._former.get(pool)
        ours = known is not None and known.owner == before.owner
        if known is not None and ours and self._forgets(known.body, before.body):
            return  # what is to be told says more: nobody knew of it who went on since
        if self._forgets(before.body, after.body if after is not None and same else {}):
            self._former[pool] = before

    def _matters(self, before: ObservedChild, after: ObservedChild) -> bool:
        """Whether the step between two states of a child is worth a pass."""
        if not self._restless:
            return True
        return _at_rest(before, self._restless) != _at_rest(after, self._restless)

    def _forget(self, key: tuple[str, str]) -> None:
        child, _, pool = self._children.pop(key)
        self._note_former(pool, child, None)
        del self._since[key]
        self._keeper.forget(*key)
        self._by_pool[pool].discard(key)
        if not self._by_pool[pool]:
            del self._by_pool[pool]
        self._wake(pool, False)


def child_store(kind: str, wake: Wake, known: keeping.Known) -> ChildStore:
    """The store for this kind of child."""
    return ChildStore(kinds.of(kind), wake, known)


def _at_rest(child: ObservedChild, restless: frozenset[str]) -> tuple[names.Uid, object, object]:
    """A child without those fields of its spec whose change is no news."""
    spec = {key: value for key, value in child.body.get("spec", {}).items() if key not in restless}
    return child.uid, child.body["metadata"]["annotations"], spec


def _pool_of_child(meta: wire.Meta) -> str:
    """By its owner; by its label only where it has none, so that it is seen to be in the way."""
    controller = meta.controller
    if controller is not None and controller.kind == names.KIND:
        return controller.name
    return meta.labels.get(names.LABEL_POOL, "")
