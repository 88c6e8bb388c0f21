"""Who is gone: by what a list says, and for how long that is remembered."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from sglang_operator.kube import decoding
from sglang_operator.observed import wire

# Objects seen to be gone, so that a late answer of our own write does not bring them back.
TOMBSTONES = 10_000


class Tombstones:
    """Up to which version an object is known to be gone.

    A newer version is not: an object leaves the selector's sight with its label, and comes back.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()

    def add(self, uid: str, version: int) -> None:
        self._versions[uid] = max(version, self._versions.get(uid, 0))
        if len(self._versions) > TOMBSTONES:
            self._versions.popitem(last=False)

    def cover(self, meta: wire.Meta) -> bool:
        """Whether this state of the object is from before it went."""
        return meta.version <= self._versions.get(meta.uid, -1)


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
