"""Which pools' specs have a word in them, as far as that says whom some news concerns.

Most pools have nothing to do with a trainer's pods, or with claims to devices.  A word may stand
elsewhere in a spec too: then a pool is woken for nothing.
"""

from collections.abc import Iterator

from sglang_operator.api.spec import PlacementMode
from sglang_operator.cluster.stores import PoolKey, PoolStore
from sglang_operator.observed.wire import CustomResource

JOINS = f'"{PlacementMode.SHARED.value}"'.encode()
CLAIMS = f'"{PlacementMode.SLOT.value}"'.encode()
_WORDS = (JOINS, CLAIMS)


class Words:
    """Reads each state of a spec once."""

    def __init__(self, pools: PoolStore) -> None:
        self._pools = pools
        self._known: dict[PoolKey, tuple[CustomResource, frozenset[bytes]]] = {}

    def with_word(self, word: bytes) -> Iterator[PoolKey]:
        """The pools that have this word."""
        there = list(self._pools.known())
        if len(self._known) > len(there):
            self._known = {key: self._known[key] for key in there if key in self._known}
        yield from (key for key in there if word in self._of(key))

    def _of(self, key: PoolKey) -> frozenset[bytes]:
        record = self._pools.get(key)
        if record is None:
            return frozenset()
        known = self._known.get(key)
        if known is None or known[0] is not record:
            written = bytes(record.written)
            known = record, frozenset(word for word in _WORDS if word in written)
            self._known[key] = known
        return known[1]
