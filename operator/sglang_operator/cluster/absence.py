"""Who is gone: by what a list says, and for how long that is remembered.

A list is a quorum read: of all that happened up to its own version it is the last word, an
object's earlier state included.  That shows one only if the cluster was restored from a backup.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

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
        self._read: set[str] = set()  # those whose end no version tells

    def add(self, uid: str, version: int) -> None:
        self._versions[uid] = max(version, self._versions.get(uid, 0))
        self._read.discard(uid)
        if len(self._versions) > TOMBSTONES:
            self._read.discard(self._versions.popitem(last=False)[0])

    def add_unfound(self, uid: str, version: int) -> None:
        """A read did not find it any more, of which this version was seen."""
        self.add(uid, version)
        self._read.add(uid)

    def listed(self, meta: wire.Meta, version: int) -> None:
        """A list of this version shows the object: if it had gone by then, it is back.

        A list that was under way when a read did not find the object may be older than that.
        """
        if meta.uid in self._read:
            self._read.discard(meta.uid)  # the next list is not
        elif meta.uid in self._versions and self._versions[meta.uid] <= version:
            del self._versions[meta.uid]

    def cover(self, meta: wire.Meta) -> bool:
        """Whether this state of the object is from before it went."""
        return meta.version <= self._versions.get(meta.uid, -1)


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
