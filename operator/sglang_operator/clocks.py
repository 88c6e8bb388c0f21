"""The one clock of fences, and of how long others are waited for.

Nobody sets it, and it goes on while the machine is suspended, where there is such a clock: a holder
whose machine slept must find its fence down, and whoever saw it last must not take a nap for time
that has not passed.  Waits of tasks need no such clock: they only look later.
"""

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)  # Linux


def steady() -> float:
    """Seconds since a moment that stays the same while this machine runs."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
