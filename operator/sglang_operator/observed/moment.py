"""A moment by two clocks: what was seen carries one, and never asks a clock itself.  Pure."""

from typing import NamedTuple


class Moment(NamedTuple):
    """One moment by both clocks (``clocks``)."""

    wall: float  # seconds since the epoch
    steady: float  # seconds by the clock that nobody sets

    def told(self, when: float) -> float:
        """A time by the steady clock, as this moment's wall clock tells it."""
        return self.wall + (when - self.steady)


class Steps(NamedTuple):
    """What a rollout that goes by a trainer's steps has to know of the past."""

    committed: float | None = None  # when the last commit was seen to come about (steady)
    rolling: Moment | None = None  # since when the rollout is under way; None: since now


NO_STEPS = Steps()
