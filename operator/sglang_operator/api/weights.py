"""What a trainer does to a pool's weights, as it stands in the Lease ``<pool>-weights``.

A sync is a transaction (design.md §5): begin, renew, commit or abort; one that is not renewed has
aborted.  Sleep and wake go through the same Lease.  Operator and trainers read it by this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from sglang_operator.api import names

LEASE_SECONDS = 30
MAX_INSTANCES = 4096


class Phase(Enum):
    """Where the weights of a pool stand."""

    IDLE = "Idle"  # nothing happened yet
    SYNCING = "Syncing"  # a trainer writes; what engines hold may be half of it
    COMMITTED = "Committed"  # the covered engines hold the version
    ABORTED = "Aborted"  # nobody knows what the engines hold
    SLEEPING = "Sleeping"  # memory is released, or is about to be
    AWAKE = "Awake"  # memory is back, the weights are not


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """The Lease, read.  Times are seconds since the epoch, 0 where there is none."""

    phase: Phase = Phase.IDLE
    id: str = ""
    holder: str = ""
    epoch: str = ""  # that the transaction covers
    target_version: str = ""  # that is being written
    version: str = ""  # last committed
    instances: frozenset[str] = frozenset()  # that the last commit covered
    checkpoint: str = ""  # a path with exactly the committed weights
    released: tuple[str, ...] = ()  # SGLang's memory tags, while asleep
    begun: float = 0.0
    committed: float = 0.0
    message: str = ""
    renewed: float = 0.0  # by the holder's clock, which may be wrong: see ``expires``
    duration: float = float(LEASE_SECONDS)

    def expires(self, seen: float) -> float:
        """When the holder counts as gone, unless it renews before.

        ``seen`` is when this state of the Lease was first seen, by the reader's own clock: clocks
        of different machines are never compared (runtime.md A5).
        """
        return seen + self.duration


def read(lease: Mapping[str, Any]) -> Transaction:
    """The transaction in a Lease object (``coordination.k8s.io/v1``, as JSON).

    Nothing raises: the Lease is written by trainers.  A phase that is not known counts as Aborted,
    because then nobody can say what the engines hold.
    """
    notes = lease.get("metadata", {}).get("annotations") or {}
    spec = lease.get("spec") or {}
    return Transaction(
        phase=_phase(notes.get(names.ANNOTATION_PHASE, "")),
        id=notes.get(names.ANNOTATION_TRANSACTION, ""),
        holder=spec.get("holderIdentity") or "",
        epoch=notes.get(names.ANNOTATION_EPOCH, ""),
        target_version=notes.get(names.ANNOTATION_TARGET_VERSION, ""),
        version=notes.get(names.ANNOTATION_VERSION, ""),
        instances=frozenset(_words(notes.get(names.ANNOTATION_INSTANCES, ""))),
        checkpoint=notes.get(names.ANNOTATION_CHECKPOINT, ""),
        released=_words(notes.get(names.ANNOTATION_RELEASED, "")),
        begun=seconds(notes.get(names.ANNOTATION_BEGUN)),
        committed=seconds(notes.get(names.ANNOTATION_COMMITTED)),
        message=notes.get(names.ANNOTATION_MESSAGE, ""),
        renewed=seconds(spec.get("renewTime")),
        duration=_duration(spec.get("leaseDurationSeconds")),
    )


def _phase(text: str) -> Phase:
    if not text:
        return Phase.IDLE
    try:
        return Phase(text)
    except ValueError:
        return Phase.ABORTED


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",")[:MAX_INSTANCES] if word)


def _duration(value: object) -> float:
    return float(value) if isinstance(value, int) and value > 0 else float(LEASE_SECONDS)


def seconds(text: object) -> float:
    """An RFC 3339 time as seconds since the epoch; 0 for anything else."""
    if not isinstance(text, str):
        return 0.0
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def micro_time(now: float) -> str:
    """A time as Kubernetes' MicroTime."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
