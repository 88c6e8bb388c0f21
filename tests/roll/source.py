"""A checkout of ROLL: the folder to import from, and the commit that it is at."""

from contextlib import AbstractContextManager
from pathlib import Path

from tests import checkouts
from tests.checkouts import Source

__all__ = ["HOW", "WANTED", "Source", "checkout"]

WANTED = "8eb27cc2"  # what the strategy was written against
HOW = (
    f"No checkout of ROLL is given: make roll ROLL_SOURCE=/path/to/ROLL, a clone of alibaba/ROLL "
    f"(read at {WANTED}). Without one, make test goes on with tests/data/roll-interface.json, the "
    "table of the last run."
)


def checkout(path: Path) -> AbstractContextManager[Source]:
    """ROLL's package and examples in a clone.  Raises ValueError if it is none of ROLL."""
    return checkouts.checkout(path, "roll", "examples", how=HOW)
