"""A moment by two clocks: what was seen carries one, and never asks a clock itself.  Pure."""

from typing import NamedTuple


class Moment(NamedTuple):
    """One moment by both clocks (``clocks``)."""

    wall: float  # seconds since the epoch
    steady: float  # seconds by the clock that nobody sets

    def told(self, when: float) -> float:
        """A time by the steady clock, as this moment's wall clock tells it."""
        return self.wall + (when - self.steady)
