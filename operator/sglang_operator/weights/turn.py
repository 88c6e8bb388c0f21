"""Whose turn it is on GPUs that engines and a trainer have in common.

The Lease says which of them the trainer has, by their ids: what sleeps is not enough, for an engine
that has ended asleep would be started again, and take memory that is the trainer's by then.  It is
told by the transaction that stands there: who does not know of it leaves an older word standing,
which counts no more.

Standard library only.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

_ALL, _NONE, _BUT = "all", "none", "all but "
MOST_ID = 2**16
_MOST_TEXT = 2**16  # characters


@dataclass(frozen=True)
class Turn:
    """The GPUs that a trainer has: those of these ids, or all ``but`` these."""

    ids: frozenset[int] = frozenset()
    but: bool = False

    def __bool__(self) -> bool:
        """Whether it has any: those without an engine count too (``has`` asks for one's)."""
        return self.but or bool(self.ids)

    def has(self, devices: Collection[int]) -> bool:
        """Whether it has one of these, so that nobody else may be on them."""
        if self.but:
            return not devices or not self.ids.issuperset(devices)
        return not self.ids.isdisjoint(devices)

    def taken(self, more: "Turn") -> "Turn":
        """The same, and these too."""
        if self.but and more.but:
            return Turn(self.ids & more.ids, but=True)
        if self.but or more.but:
            every, only = (self, more) if self.but else (more, self)
            return Turn(every.ids - only.ids, but=True)
        return Turn(self.ids | more.ids)

    def given_back(self, devices: Iterable[int] | None) -> "Turn":
        """The same without these; None: it has none any more."""
        if devices is None:
            return ENGINES
        return Turn(self.ids | {*devices}, but=True) if self.but else Turn(self.ids - {*devices})


ENGINES = Turn()  # it is theirs
TRAINER = Turn(but=True)  # all GPUs are the trainer's


def of(devices: Collection[int]) -> Turn:
    """The turn that a trainer takes with these GPUs; without any, with all."""
    return Turn(frozenset(devices)) if devices else TRAINER


def written(turn: Turn | None) -> str:
    """In words, as in the registry; "" where it is not told."""
    if turn is None:
        return ""
    ids = ",".join(_ranges(turn.ids))
    if turn.but:
        return f"{_BUT}{ids}" if ids else _ALL
    return ids or _NONE


def read(words: object) -> Turn | None:
    """The same, read.  What cannot be understood is the trainer's: engines wait for better."""
    if not isinstance(words, str) or not words:
        return None
    if words == _NONE:
        return ENGINES
    ids = _read(words.removeprefix(_BUT)) if len(words) <= _MOST_TEXT else None
    return TRAINER if ids is None else Turn(ids, but=words.startswith(_BUT))


def told_by(transaction: str, turn: Turn | None) -> str:
    """As it stands in the Lease, by this transaction."""
    return "" if turn is None else f"{transaction}:{written(turn)}"


def by(transaction: str, notes: Mapping[str, str], annotation: str) -> Turn | None:
    """The same, read; None where this transaction has not told it."""
    told, _, words = notes.get(annotation, "").rpartition(":")
    return read(words or _ALL) if told and told == transaction else None


def _ranges(ids: Iterable[int]) -> Iterator[str]:
    first = last = -1
    for each in sorted(ids):
        if each == last + 1 and first >= 0:
            last = each
            continue
        if first >= 0:
            yield _range(first, last)
        first = last = each
    if first >= 0:
        yield _range(first, last)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _read(words: str) -> frozenset[int] | None:
    found: set[int] = set()
    for each in words.split(","):
        first, dash, last = each.partition("-")
        if not (first.isdecimal() and first.isascii() and len(first) <= 5):
            return None
        if dash and not (last.isdecimal() and last.isascii() and len(last) <= 5):
            return None
        begin, end = int(first), int(last or first)
        if not begin <= end < MOST_ID:
            return None
        found.update(range(begin, end + 1))
    return frozenset(found)
