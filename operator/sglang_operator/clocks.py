"""The one clock of fences, of deadlines, and of how long others are waited for.

Nobody sets it, and it goes on while the machine is suspended, where there is such a clock: a holder
whose machine slept must find its fence down, and whoever saw it last must not take a nap for time
that has not passed.  Waits of tasks need no such clock: they only look later.

The wall clock is for stamps, which people and the API read.  It may be wrong by hours, differ from
those of nodes and of the API server, and be put right at any time: nothing is due by it.
"""

import time
from typing import NamedTuple

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)  # Linux


def steady() -> float:
    """Seconds since a moment that stays the same while this machine runs."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Moment(NamedTuple):
    """One moment by both clocks."""

    wall: float  # seconds since the epoch
    steady: float

    def told(self, when: float) -> float:
        """A time by the steady clock, as this moment's wall clock tells it."""
        return self.wall + (when - self.steady)

    def left(self, when: float) -> float:
        """Seconds until what was due at ``when`` by this moment's wall clock, set since or not."""
        return max(0.0, when - self.wall - (steady() - self.steady))


def moment() -> Moment:
    """The present."""
    return Moment(wall=time.time(), steady=steady())
