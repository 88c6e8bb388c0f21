"""Who is gone: by what a list says, and for how long that is remembered.

A list is a quorum read: of all that happened up to its own version it is the last word, an
object's earlier state included.  That shows one only if the cluster was restored from a backup.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sglang_operator.api import names
from sglang_operator.kube import decoding
from sglang_operator.observed import wire

# Objects seen to be gone, so that a late answer of our own write does not bring them back.
TOMBSTONES = 10_000
NO_VERSION = -1  # older than anything


class Tombstones:
    """Up to which version an object is known to be gone.

    A newer version is not: an object leaves the selector's sight with its label, and comes back.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._read: dict[str, str] = {}  # whose end no version tells, and their namespaces

    def add(self, uid: str, version: int) -> None:
        self._versions[uid] = max(version, self._versions.get(uid, 0))
        self._read.pop(uid, None)
        if len(self._versions) > TOMBSTONES:
            self._read.pop(self._versions.popitem(last=False)[0], None)

    def add_unfound(self, uid: str, namespace: str, version: int) -> None:
        """A read did not find it any more, of which this version was seen."""
        self.add(uid, version)
        self._read[uid] = namespace

    def list_begins(self, scope: str) -> None:
        """The next list of this scope is newer than all reads that did not find an object."""
        for uid, namespace in list(self._read.items()):
            if in_scope(namespace, scope):
                del self._read[uid]

    def listed(self, meta: wire.Meta, version: int) -> None:
        """A list of this version shows the object: if it had gone by then, it is back.

        A list that was under way when a read did not find the object may be older than that.
        """
        if meta.uid in self._read:
            del self._read[meta.uid]  # the next list is not
        elif meta.uid in self._versions and self._versions[meta.uid] <= version:
            del self._versions[meta.uid]

    def cover(self, meta: wire.Meta) -> bool:
        """Whether this state of the object is from before it went."""
        return meta.version <= self._versions.get(meta.uid, -1)


@dataclass(slots=True)
class _Call:
    version: int
    unread: frozenset[str]  # who was there, and could not be read
    lists: int = 0  # of the stream, which were older


class Called:
    """Up to which version a pool's pods were read past their stream.

    The stream goes on with what was before that.  What it tells of who was not there by then is of
    the past, also of those who were never known.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], _Call] = {}

    def add(self, pool: tuple[str, str], version: int, unread: Sequence[wire.Meta]) -> None:
        """All of the pool's pods were read as of this version, but for what these are."""
        if told(unread):
            self._calls[pool] = _Call(version, frozenset(meta.uid for meta in unread))

    def forget(self, pool: tuple[str, str]) -> None:
        self._calls.pop(pool, None)

    def listed(self, scope: str, version: int) -> None:
        """The stream has begun anew with a list of this version: it goes on from there.

        One list may have been under way when the pods were read, and be older.  A second that is
        older yet is of a cluster that was restored from a backup.
        """
        for pool, call in list(self._calls.items()):
            if in_scope(pool[0], scope):
                call.lists += 1
                if call.version <= version or call.lists > 1:
                    del self._calls[pool]

    def cover(self, meta: wire.Meta) -> bool:
        """Whether the pod, which is not known, was gone by then; told by its labels, as pods were
        read by them."""
        pool = meta.labels.get(names.LABEL_POOL, "")
        call = self._calls.get((meta.namespace, pool))
        if call is None or meta.version > call.version or meta.uid in call.unread:
            return False
        return names.serving_selector(pool).items() <= meta.labels.items()


def went_back(meta: wire.Meta, known: int, version: int) -> bool:
    """Whether a list of this version shows an earlier state of an object than the known one.

    What is known at a higher version than the list's own is newer than the list.
    """
    return meta.version < known <= version


def there(records: Sequence[decoding.Record], unread: Sequence[wire.Meta]) -> Iterator[wire.Meta]:
    """Who is listed, whether or not it could be read."""
    yield from (record.metadata for record in records)
    yield from unread


def told(unread: Sequence[wire.Meta]) -> bool:
    """Whether who is not listed is gone: one that cannot even be named may be anybody."""
    return all(map(decoding.is_named, unread))


def in_scope(namespace: str, scope: str) -> bool:
    """Whether a list of this scope says anything about this namespace."""
    return not scope or namespace == scope
