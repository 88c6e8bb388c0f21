"""Which pools of a namespace are kept whole: the oldest that fit together.

Whoever may create pools in one namespace must not take the memory that all pools share.  Who is
over the bound depends on the pools alone, not on the order in which they were heard of; their
engines run on, and their status says so.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from typing import Any, NamedTuple

import msgspec

from sglang_operator.api import shape
from sglang_operator.observed import wire

NAMESPACE_BYTES = shape.MAX_NAMESPACE
# A status is kept whole up to this size; the operator writes none that is nearly as large.
STATUS_BYTES = 2**20
LEFT_OUT_STATUS_BYTES = 64 * 1024  # of a pool that is over the bound
_PER_VALUE = 96  # bytes that a value takes beside what is written
_PER_POOL = 4096  # and a pool with its memory
ENGINE_BYTES = 320  # and each engine of a pool as planned, however few words make so many
_UNIT = 1024  # weights are rounded, so that few changes of a status weigh anything
_MARKS = (b",", b":", b"[", b"{")  # about as many as values


class _Place(NamedTuple):
    created: float
    name: str


def weight(pool: wire.CustomResource) -> int:
    """Bytes of memory that a pool takes, about."""
    if pool.left_out:
        return pool.left_out
    # A comma in a text is none between values, of which a spec that can be read has so many.
    size = _PER_POOL + _written(bytes(pool.written), 2 * shape.MAX_VALUES) + _size(pool.status)
    return -(-size // _UNIT) * _UNIT


def _written(text: bytes, most: int) -> int:
    return len(text) + _PER_VALUE * min(most, sum(text.count(mark) for mark in _MARKS))


def _size(status: dict[str, Any]) -> int:
    text = msgspec.json.encode(status)
    return _written(text, len(text))


def trimmed(pool: wire.CustomResource, most: int = STATUS_BYTES) -> wire.CustomResource:
    """A pool with as much of its status as is kept.

    The gate in it always is: by it a refused pool's engines are judged.
    """
    if _size(pool.status) <= most:
        return pool
    return msgspec.structs.replace(pool, status=_gate(pool.status))


def left_out(pool: wire.CustomResource) -> wire.CustomResource:
    """A pool without its spec: who it is, and what was told of it."""
    if pool.left_out:
        return pool
    return msgspec.structs.replace(
        pool,
        written=msgspec.Raw(b"{}"),
        status=trimmed(pool, LEFT_OUT_STATUS_BYTES).status,
        unreadable=pool.unreadable or shape.CROWDED,
        left_out=weight(pool),
    )


def _gate(status: dict[str, Any]) -> dict[str, Any]:
    resolved = status.get("resolved")
    gate = resolved.get("gate") if isinstance(resolved, dict) else None
    return {"resolved": {"gate": gate}} if isinstance(gate, str) and len(gate) < 64 else {}


class _Namespace:
    """The pools of a namespace in the order of their age; the first ``_count`` of them fit."""

    def __init__(self) -> None:
        self._order: list[_Place] = []
        self._weights: dict[_Place, int] = {}
        self._count = 0
        self._sum = 0  # of those that fit

    def __len__(self) -> int:
        return len(self._order)

    def fits(self, place: _Place) -> bool:
        return self._count == len(self._order) or place < self._order[self._count]

    def put(self, place: _Place, weight: int) -> list[_Place]:
        """Who has room now and had none, or the other way round."""
        before = self._weights.get(place)
        if before == weight:
            return []
        if before is None:
            among = self._count > 0 and place < self._order[self._count - 1]
            insort(self._order, place)
            self._count += among
            before = 0
        else:
            among = self.fits(place)
        self._weights[place] = weight
        self._sum += weight - before if among else 0
        return self._settle()

    def remove(self, place: _Place) -> list[_Place]:
        if self.fits(place):
            self._sum -= self._weights[place]
            self._count -= 1
        del self._order[bisect_left(self._order, place)], self._weights[place]
        return self._settle()

    def _settle(self) -> list[_Place]:
        moved = []
        while self._sum > NAMESPACE_BYTES:
            self._count -= 1
            moved.append(self._order[self._count])
            self._sum -= self._weights[moved[-1]]
        while self._count < len(self._order):
            place = self._order[self._count]
            if self._sum + self._weights[place] > NAMESPACE_BYTES:
                break
            moved.append(place)
            self._sum += self._weights[place]
            self._count += 1
        return moved


class Room:
    """The room that the pools of each namespace have."""

    def __init__(self) -> None:
        self._namespaces: defaultdict[str, _Namespace] = defaultdict(_Namespace)
        self._places: dict[tuple[str, str], _Place] = {}
        # What became of a pool of this generation when it was planned, in bytes.
        self._planned: dict[tuple[str, str], tuple[int, int]] = {}
        # While a list comes in, page by page: what it brought, by namespace and name.
        self._listed: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._sums: defaultdict[str, int] = defaultdict(int)

    def fits(self, namespace: str, name: str) -> bool:
        """Whether this pool is among those that are kept whole."""
        place = self._places.get((namespace, name))
        return place is None or self._namespaces[namespace].fits(place)

    def put(self, pool: wire.CustomResource) -> list[str]:
        """Weigh a pool; the names of those for which this changes whether they fit."""
        meta = pool.metadata
        created = meta.creation_timestamp
        place = _Place(created.timestamp() if created else 0.0, meta.name)
        key = (meta.namespace, meta.name)
        moved = self.remove(*key) if self._places.get(key, place) != place else []
        self._places[key] = place
        generation, planned = self._planned.get(key, (0, 0))
        size = weight(pool) + (planned if generation == meta.generation else 0)
        moved += [each.name for each in self._namespaces[meta.namespace].put(place, size)]
        return moved

    def plan(self, pool: wire.CustomResource, engines: int) -> list[str]:
        """A pool was planned, with so many engines; as ``put``."""
        meta = pool.metadata
        planned = (meta.generation, engines * ENGINE_BYTES)
        if self._planned.get((meta.namespace, meta.name), (meta.generation, 0)) == planned:
            return []
        self._planned[meta.namespace, meta.name] = planned
        return self.put(pool)

    def remove(self, namespace: str, name: str) -> list[str]:
        """The pool is gone; who has room now."""
        self._planned.pop((namespace, name), None)
        place = self._places.pop((namespace, name), None)
        if place is None:
            return []
        there = self._namespaces[namespace]
        moved = there.remove(place)
        if not there:
            del self._namespaces[namespace]
        return [each.name for each in moved]

    def listed(self, pool: wire.CustomResource) -> wire.CustomResource:
        """As much of a pool as is kept of a list that is still coming in: no more than fits.

        A list goes by names, not by age: who turns out to have room is read once more.
        """
        namespace, name = pool.metadata.namespace, pool.metadata.name
        there = self._listed[namespace]
        self._sums[namespace] -= there.pop(name, 0)
        size = weight(pool)
        if self._sums[namespace] + size > NAMESPACE_BYTES:
            return left_out(pool)
        there[name] = size
        self._sums[namespace] += size
        return pool

    def list_ended(self) -> None:
        """All that it brought is in its place."""
        self._listed.clear()
        self._sums.clear()
