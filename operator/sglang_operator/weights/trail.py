"""The numbers of a weights Lease, by which one that was put back to an earlier state is told.

``leaseTransitions`` counts transactions: a sync that is withdrawn leaves as many as it began, and
the id of the one before it.  By these alone somebody who withdraws, or sleeps, by a Lease that was
put back looks like whoever was at it before.  So every write that changes what the Lease says has a
number, renewals aside, and the Lease names its last transactions with the number at which each was
begun or given the Lease back, named who sleeps, woke the first of them, and lost an answer of one.
Who has seen it knows by that whether it went on from there.

Standard library only.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

from sglang_operator.api import bounds

MOST_TURNS = 64  # a trainer that begins in vain each half a minute: a quarter of an hour
_DIGITS = 8  # of a transaction's digest


@dataclass(frozen=True, kw_only=True)
class Trail:
    """Of a Lease that nobody has numbered yet, or not its present transaction: no turns."""

    steps: int = 0  # writes so far
    turns: tuple[tuple[int, str], ...] = ()  # of those: which gave it to whom, by its digest

    def stepped(self, turn: str) -> "Trail":
        """One write more, which leaves the Lease to this ``turn``."""
        steps, turns, digest = min(bounds.INT32, self.steps + 1), self.turns, _digest(turn)
        if not turns or turns[-1][1] != digest:
            turns = (*turns, (steps, digest))[-MOST_TURNS:]
        return Trail(steps=steps, turns=turns)

    def goes_on(self, known: "Trail") -> bool | None:
        """Whether this comes of what is known by writes, one upon the other.  None: who knows.

        It does not if it has fewer, or if it was another's at the last one that is known.
        """
        if not (self.turns and known.turns):
            return None
        if self.steps < known.steps:
            return False
        then = [digest for number, digest in self.turns if number <= known.steps]
        return then[-1] == known.turns[-1][1] if then else None

    def over(self, other: "Trail") -> "Trail":
        """The same, where it goes on over another that was written since, and does not count."""
        return replace(self, steps=max(self.steps, other.steps))

    @property
    def last(self) -> "Trail":
        """As much as the registry has: it is not written anew for each step of a transaction."""
        return Trail(steps=self.turns[-1][0], turns=self.turns[-1:]) if self.turns else Trail()


def turn(
    transaction: str,
    asleep: Collection[str],
    woken: Collection[str],
    unclear: Collection[str] = (),
) -> str:
    """Whose the Lease is, and how far its sleepers are: of which of them nobody knows, too.

    A registry that counts as new as the Lease has their names, each of them.
    """
    if not asleep:
        return transaction
    found = f"{transaction}/woken" if woken else f"{transaction}/asleep"
    return f"{found}/{','.join(sorted(unclear))}" if unclear else found


def written(trail: Trail) -> str:
    """As it stands in the Lease, and in the registry."""
    turns = ",".join(f"{number}:{digest}" for number, digest in trail.turns)
    return f"{trail.steps} {turns}".rstrip() if trail.steps else ""


def read(text: object, turn: str | None = None) -> Trail:
    """What an annotation says; nothing if it is not as this module writes it.

    Who does not know of it leaves it standing in another ``turn``, which it does not name then: so
    much was counted, and no more is known.
    """
    if not isinstance(text, str) or len(text) > _MOST or not (found := _TEXT.fullmatch(text)):
        return Trail()
    steps = int(found["steps"])
    words = (each.split(":") for each in (found["turns"] or "").split(",") if each)
    turns = tuple((int(number), digest) for number, digest in words)
    numbers = [0, *(number for number, _ in turns)]
    if not all(a < b for a, b in pairwise(numbers)) or not numbers[-1] <= steps <= bounds.INT32:
        return Trail()
    if turn is not None and turns and turns[-1][1] != _digest(turn):
        return Trail(steps=steps)
    return Trail(steps=steps, turns=turns[-MOST_TURNS:])


def _digest(turn: str) -> str:
    return hashlib.sha256(turn.encode()).hexdigest()[:_DIGITS]


_NUMBER = r"[0-9]{1,10}"
_TURN = rf"{_NUMBER}:[0-9a-f]{{{_DIGITS}}}"
_TEXT = re.compile(rf"(?P<steps>{_NUMBER})( (?P<turns>{_TURN}(,{_TURN})*))?")
_MOST = (MOST_TURNS + 1) * (10 + 1 + _DIGITS + 1)
