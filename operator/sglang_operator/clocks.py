"""The one clock of fences, of deadlines, and of how long others are waited for.

Nobody sets it, and it goes on while the machine is suspended, where there is such a clock: a holder
whose machine slept must find its fence down, and whoever saw it last must not take a nap for time
that has not passed.  Waits of tasks need no such clock: they only look later.

The wall clock is for stamps, which people and the API read.  It may be wrong by hours, differ from
those of nodes and of the API server, and be put right at any time.  So nothing is kept or waited
for by it but what stands in objects as a stamp (loads, and groups that nobody uses).  A pass reads
both clocks at one ``moment``.  By that wall clock it decides on gates (``gates.decide``), from
times that were kept by the steady one (``ChildStore.of``), and what is due by it is waited for by
the steady one again (``left``).
"""

import time

from sglang_operator.observed.moment import Moment

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)  # Linux


def steady() -> float:
    """Seconds since a moment that stays the same while this machine runs."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


def moment() -> Moment:
    """The present."""
    return Moment(wall=time.time(), steady=steady())


def left(at: Moment, when: float) -> float:
    """Seconds until what was due at ``when`` by the wall clock of ``at``, set since or not."""
    return max(0.0, when - at.wall - (steady() - at.steady))
