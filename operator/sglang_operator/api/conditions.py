"""Condition types and reasons, and how a set of conditions changes.

Kept by kstatus' rules: ``Ready`` is always there; the abnormal ones (``Reconciling``,
``Stalled``, ``Suspended``) are there only while they are True.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
SUSPENDED = "Suspended"
ENGINES_READY = "EnginesReady"
WEIGHTS_SYNCED = "WeightsSynced"
DEVICES_ASSIGNED = "DevicesAssigned"

TRUE = "True"
FALSE = "False"

# Reasons, one constant each.  The reasons of invalid specs stand in the table of errors.
POOL_READY = "PoolReady"
CREATING = "Creating"
SCALING = "Scaling"
ROLLING_UPDATE = "RollingUpdate"
SURGE_NO_ROOM = "SurgeFoundNoRoom"
ROLLOUT_WAITING = "RolloutWaiting"
PROGRESS_DEADLINE = "ProgressDeadlineExceeded"
POD_LINGERS = "PodLingers"
NO_ROOM = "NoRoomOnANode"
ENGINES_STARTING = "EnginesStarting"
ENGINES_FAILING = "EnginesFailing"
TUNED = "MemFractionTuned"
ENGINE_HUNG = "EngineHung"
NODE_LOST = "NodeLost"
DEVICES_PENDING = "DevicesPending"  # the scheduler finds no node with as many free
UNSCHEDULABLE = "Unschedulable"
WAITING_FOR_QUOTA = "WaitingForQuota"  # of a queue; ResourceQuotas refuse
NOT_QUEUED = "NotQueued"  # nobody lets in those who wait in a queue
WAITING_FOR_GANG = "WaitingForGang"  # a scheduler starts all pods of an engine, or none
GANG_NOT_SERVED = "GangNotServed"  # nobody would know the pods of an engine as one
REGROUPED = "PodsRegrouped"  # somebody else says which pods start at once
QUOTA_EXCEEDED = "QuotaExceeded"
POD_REJECTED = "PodRejected"
NAME_CONFLICT = "NameConflict"
API_ERROR = "APIError"
CHILD_REFUSED = "ChildRefused"
CHANGED_BACK = "ChangedBack"
SUSPENDED_REASON = "Suspended"
TERMINATING = "Terminating"
ALL_ENGINES_UP = "AllEnginesUp"
COUNTED = "Counted"
SHARED = "Shared"
CLAIMED = "Claimed"
CLAIMS_NOT_SERVED = "ClaimsNotServed"
COUNTED_TWICE = "DevicesCountedTwice"
SEATS_AWAITED = "WaitingForTrainersGPUs"
TURN_AWAITED = "WaitingForWake"  # engines whose GPUs the trainer has
RIVAL_AWAITED = "WaitingForOtherPool"  # engines whose GPUs those of another pool have
ENGINES_UNPLACED = "EnginesUnplaced"  # some engines have no node, for whatever reason
GATE_OFF = "GateOff"
ENGINES_WITHOUT_GATE = "EnginesWithoutGate"
SYNCED = "Synced"
WAITING_FOR_TRAINER = "WaitingForTrainer"
WAITING_FOR_VERSION = "WaitingForVersion"
SYNC_ABORTED = "SyncAborted"
WEIGHTS_RELEASED = "WeightsReleased"
ASLEEP = "Asleep"
PART_ASLEEP = "PartAsleep"  # of some engines, while the others serve
GATES_OPENING = "GatesOpening"
NO_ENGINES = "NoEngines"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition as it should be; the time of its last transition is found by ``merge``."""

    type: str
    status: str
    reason: str
    message: str


def abnormal(type_: str, reason: str, message: str) -> Condition:
    """A condition that is there because it is True."""
    return Condition(type=type_, status=TRUE, reason=reason, message=message)


def merge(
    previous: Sequence[Mapping[str, Any]],
    wanted: Iterable[Condition],
    *,
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """The wanted conditions as Kubernetes JSON; a transition time moves only on a flip.

    ``now`` is an RFC 3339 time in seconds.
    """
    before = {condition["type"]: condition for condition in previous}
    merged = []
    for condition in wanted:
        old = before.get(condition.type)
        kept = old is not None and old.get("status") == condition.status
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": generation,
                "lastTransitionTime": (old and kept and old.get("lastTransitionTime")) or now,
                "reason": condition.reason,
                "message": condition.message,
            }
        )
    return merged


def find(conditions: Iterable[Mapping[str, Any]], type_: str) -> Mapping[str, Any] | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.get("type") == type_), None)
