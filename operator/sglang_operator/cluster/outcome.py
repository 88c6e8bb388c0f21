"""What the executor learnt from the API server."""

from dataclasses import dataclass, field
from enum import Enum

from sglang_operator.actions import CreatePod, DeletePod
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
    over_quota: str = ""  # the kind of which that allows no more
    # Kind and name of what is to be created, and why not.
    rejected: list[tuple[str, str, ApiError]] = field(default_factory=list)
    unsure: dict[str, CreatePod] = field(default_factory=dict)  # pods that may exist, by name
    # Pods that came out otherwise than they were asked for, and could not be taken back yet.
    spoilt: dict[names.Uid, DeletePod] = field(default_factory=dict)
    # Engines with a pod that is out of our sight, and its attempt.
    aside: dict[names.EngineName, int] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)  # kind, name of foreign objects
    failed: Exception | None = None  # the server is overloaded or away
    failing: tuple[str, str] = ("", "")  # kind and name of the child of which that is
    refused_delete: ApiError | None = None  # no reason not to create
    gone: bool = False  # the pool itself does not exist any more
    stale: bool = False  # the pool asks for something else by now

    @property
    def stop(self) -> bool:
        """Whether more creates of this pool would meet the same end."""
        return bool(self.quota or self.rejected or self.failed or self.gone or self.stale)

    def refuse(self, kind: str, name: str, error: ApiError) -> None:
        """This could not be created: for whose sake, by what the server says."""
        self.done = False
        if error.congested:
            self.failed = error
        elif error.quota:
            self.quota, self.over_quota = error, kind
        elif error.rejected:
            self.rejected.append((kind, name, error))
        else:
            self.failed = error

    def beside(self, other: "Outcome") -> None:
        """Take in why creates that came before these were not done."""
        self.done = self.done and other.done
        if self.quota is None:
            self.quota, self.over_quota = other.quota, other.over_quota
        self.rejected = other.rejected + self.rejected
        self.failed = self.failed or other.failed
