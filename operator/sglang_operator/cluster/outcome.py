"""What the executor learnt from the API server."""

from dataclasses import dataclass, field
from enum import Enum

from sglang_operator.api import names
from sglang_operator.kube.errors import ApiError


class Confirmation(Enum):
    """How a pool stands against what was seen of it."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    GONE = "gone"


@dataclass
class Outcome:
    """What came of a batch of actions."""

    created: int = 0
    deleted: int = 0
    taken: set[names.Uid] = field(default_factory=set)  # pods that go, or are gone, by a delete
    moved: int = 0  # gates set, steps taken in the Lease
    stepped: bool = False  # one of them in the Lease
    done: bool = True  # nothing was left for the next pass
    quota: ApiError | None = None
    rejected: list[tuple[str, ApiError]] = field(default_factory=list)  # pod, why
    unsure: dict[str, names.EngineName] = field(default_factory=dict)  # pods that may exist
    # Engines with a pod that is out of our sight, and its attempt.
    aside: dict[names.EngineName, int] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)  # kind, name of foreign objects
    failed: Exception | None = None  # the server is overloaded or away
    refused_delete: ApiError | None = None  # no reason not to create
    gone: bool = False  # the pool itself does not exist any more
    stale: bool = False  # the pool asks for something else by now

    @property
    def stop(self) -> bool:
        """Whether more creates of this pool would meet the same end."""
        return bool(self.quota or self.rejected or self.failed or self.gone or self.stale)
