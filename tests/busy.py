"""Limits by the clock, on a machine that also does something else."""

import os


def late(seconds: float) -> float:
    """The limit of what may take so long on an idle machine.

    Longer by as many processes as wanted each core in the last minute.
    """
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
