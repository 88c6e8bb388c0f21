"""Which pools' specs have a word in them, as far as that says whom some news concerns.

Most pools have nothing to do with a trainer's pods, or with claims to devices.  A word may stand
elsewhere in a spec too: then a pool is woken for nothing.
"""

from collections.abc import Callable, Collection, Iterator

from sglang_operator.cluster.stores import PoolKey, PoolStore
from sglang_operator.observed.wire import CustomResource
from sglang_operator.placement.base import PlacementStrategy
from sglang_operator.placement.modes import MODES


def _of_modes(has: Callable[[PlacementStrategy], bool]) -> tuple[bytes, ...]:
    """The placement modes as specs have them."""
    return tuple(f'"{mode.value}"'.encode() for mode, each in MODES.items() if has(each))


# Of engines beside a trainer: whose pods say which GPUs it has, or who have these by claims.
JOINS = _of_modes(lambda each: each.joins and each.published)
CLAIMS = _of_modes(lambda each: each.joins and not each.published)
_WORDS = (*JOINS, *CLAIMS)


class Words:
    """Reads each state of a spec once."""

    def __init__(self, pools: PoolStore) -> None:
        self._pools = pools
        self._known: dict[PoolKey, tuple[CustomResource, frozenset[bytes]]] = {}

    def with_any(self, words: Collection[bytes]) -> Iterator[PoolKey]:
        """The pools that have one of these words."""
        there = list(self._pools.known())
        if len(self._known) > len(there):
            self._known = {key: self._known[key] for key in there if key in self._known}
        yield from (key for key in there if not self._of(key).isdisjoint(words))

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
