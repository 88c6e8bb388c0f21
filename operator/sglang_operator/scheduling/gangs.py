"""The schedulers that there are.  A new one is a file beside ``none`` and a line here."""

from collections.abc import Mapping

from sglang_operator.api.spec import PoolSpec
from sglang_operator.scheduling.base import Gang
from sglang_operator.scheduling.none import NoGang

NONE: Gang = NoGang()
GANGS: Mapping[str, Gang] = {}  # by what spec.scheduling.schedulerName calls them; else NONE


def of(parsed: PoolSpec) -> Gang:
    """How the scheduler that a pool names starts the pods of an engine."""
    return GANGS.get(parsed.scheduling.scheduler_name or "", NONE)
