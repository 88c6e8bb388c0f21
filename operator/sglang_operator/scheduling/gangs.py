"""The schedulers that there are.  A new one is a file beside ``none`` and a line here."""

from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Gang
from sglang_operator.scheduling.none import NoGang

NONE: Gang = NoGang()


def of(parsed: PoolSpec) -> Gang:
    """The gang scheduling that a pool asks for: none is there to ask for yet."""
    return NONE
