"""What is known of nodes that are not ready: how many at once.  Pure."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """So many nodes are not ready at once that it is no fault of theirs, as far as is known."""

    nodes: frozenset[str]  # that are not ready: none of them counts as lost
    count: int  # of them among those that were counted
    total: int  # that were counted


class Uncounted(Enum):
    """Nobody keeps count of the nodes: whoever wants to know counts them."""

    UNCOUNTED = "Uncounted"
