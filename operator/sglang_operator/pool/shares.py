"""Numbers of engines that may be written as a share of all: 2, or 25%.  Pure."""

import re

_PERCENT = re.compile(r"(100|[1-9]?[0-9])%")


def is_share(value: int | str, *, low: int, high: int) -> bool:
    """Whether this is a number within these bounds, or a percentage from the lower one on."""
    if isinstance(value, int):
        return low <= value <= high
    return _PERCENT.fullmatch(value) is not None and low <= int(value.removesuffix("%"))


def engines(value: int | str, of: int) -> int:
    """How many engines of a pool may be missing: a share is rounded down, but not to none.

    So does a Deployment with its maxUnavailable where its maxSurge is none: with neither, nothing
    would ever be rolled out.  ("0%" itself is refused.)  Its maxSurge is rounded up (``more``).
    """
    if isinstance(value, int):
        return value
    return max(1, of * int(value.removesuffix("%")) // 100)


def more(value: int | str, of: int) -> int:
    """How many engines a pool may have beside its own: a share is rounded up."""
    if isinstance(value, int):
        return value
    return -(-of * int(value.removesuffix("%")) // 100)
