"""Seats that move again and again, because pods of a trainer claim one node rank in turn.

Each move restarts the engines on it, and the next would come before they are up.  The first are
followed at once, as is one away from a pod that is gone.  After that each waits longer than the one
before, engines stay where they are, and it is told which pods claim it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.placement import seats, slots
from sglang_operator.placement.seats import Claim, TrainerPod
from sglang_operator.placement.slots import Slot

LASTING_SECONDS = 600.0  # where nothing else was said for so long, nobody quarrels any more
FREE = 3  # moves without a wait
BACKOFF = Backoff(5.0, 300.0)  # between two moves; below what makes it last

Trainers = Mapping[str, TrainerPod] | None


@dataclass(slots=True)
class _Rank:
    """What is known of one node rank; times are by the steady clock."""

    said: str = ""  # last, and since when
    changed: float = float("-inf")
    followed: str = ""  # of what was said, as a slot, and since when
    slot: Slot | None = None
    since: float = float("-inf")
    moves: int = 0  # away from a pod that stood by what it had said
    pods: tuple[str, ...] = ()  # of the last two slots that differ
    due: float | None = None  # when the next move is followed

    def hear(self, node_rank: int, text: str, trainers: Trainers, now: float) -> str:
        """This is said now; what is to be followed."""
        if self.changed <= now - LASTING_SECONDS:
            self.moves, self.pods = 0, ()
        if text != self.said:
            self.said, self.changed = text, now
        self.due = None
        if text == self.followed:
            return text
        slot = slots.read(node_rank, text)
        if slot is None or not seats.stands_by(slot, trainers):
            return text  # nobody is moved by it
        if self._moves_engines(slot, trainers):
            self.pods = tuple(sorted({self.slot.pod, slot.pod})) if self.slot is not None else ()
            due = self.since + (BACKOFF.pause(self.moves - FREE) if self.moves >= FREE else 0.0)
            if now < due:
                self.due = due
                return self.followed
            self.moves, self.since = self.moves + 1, now
        self.followed, self.slot = text, slot
        return text

    def _moves_engines(self, slot: Slot, trainers: Trainers) -> bool:
        """Whether engines could stay where they are, and would not."""
        former = self.slot
        if former is None or not seats.stands_by(former, trainers):
            return False
        return former.mark(former.gpus) != slot.mark(slot.gpus)


class Claims:
    """What the trainer of one pool has said lately of its node ranks."""

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}
        self.due: float | None = None  # when to look again (steady)

    def settled(
        self, published: Mapping[str, str], trainers: Trainers, now: float
    ) -> tuple[Claim, ...]:
        """The node ranks that are quarrelled about, and what is followed of each for now."""
        said = {
            rank: text
            for key, text in published.items()
            if (rank := names.slot_of(key)) is not None
        }
        if len(said) > slots.MOST_SLOTS:
            said = {}  # none of it is read
        recent = now - LASTING_SECONDS
        for rank in [
            r for r, each in self._ranks.items() if r not in said and each.changed < recent
        ]:
            del self._ranks[rank]
        claims, times = list[Claim](), list[float]()
        for rank, text in said.items():
            each = self._ranks.setdefault(rank, _Rank())
            follow = each.hear(rank, text, trainers, now)
            if each.moves >= FREE:
                claims.append(Claim(rank, follow, each.pods))
                times.append(each.changed + LASTING_SECONDS)
            if each.due is not None:
                times.append(each.due)
        self.due = min(times, default=None)
        return tuple(claims)
