"""What the operator itself writes into a pool's weights Lease.  Pure.

A sync whose holder is gone is aborted; so is a Lease that has lost what it said of open gates.
Its other step is recovery (``recovery``).  Each is a step of ``api.weights_steps`` from exactly the
state that was seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sglang_operator.api import names, texts
from sglang_operator.api import weights_steps as steps
from sglang_operator.api.weights import Phase, Transaction
from sglang_operator.planner.observed import ObservedChild, ObservedPod


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseStep:
    """Write this state into exactly this Lease, unless it changed since it was seen."""

    lease: ObservedChild
    state: Transaction
    reason: str

    @property
    def uid(self) -> names.Uid:
        return self.lease.uid

    @property
    def resource_version(self) -> str:
        return str(self.lease.body["metadata"]["resourceVersion"])


def expiry(
    lease: ObservedChild, current: Transaction, operator: steps.Trainer, now: float
) -> tuple[LeaseStep | None, float | None]:
    """The end of a sync whose holder does not renew, or when it may come to that.

    Who has not renewed for the whole duration writes no more, and the Lease is free.  Who is not
    named any more may still write, and the operator holds the Lease for that long.  A sleeper may
    sleep for ever.
    """
    if current.phase is not Phase.SYNCING:
        return None, None
    expires = current.expires(lease.seen)
    if current.holder and now < expires:
        return None, expires
    if now >= expires:
        message = texts.SYNC_EXPIRED.format(
            holder=current.holder or "nobody", seconds=int(current.duration)
        )
        state = steps.aborted(current, message)
        return LeaseStep(lease=lease, state=state, reason="its holder does not renew"), None
    state = steps.ended(current, operator.holder, message=texts.SYNC_VACANT, now=now)
    return LeaseStep(lease=lease, state=state, reason="it names no holder"), None


def has_forgotten(current: Transaction, pods: Iterable[ObservedPod]) -> bool:
    """Whether the Lease says nothing, though gates were set by what it said: pods remember that."""
    return current.phase is Phase.IDLE and any(pod.gate is not None for pod in pods)


def forgotten(
    name: str,
    current: Transaction,
    pods: Iterable[ObservedPod],
    operator: steps.Trainer,
    now: float,
) -> Transaction:
    """What a Lease that has forgotten is to say: gates remember who slept."""
    asleep = [
        pod.instance
        for pod in pods
        if pod.instance and pod.gate is not None and pod.gate.reason == Phase.SLEEPING.value
    ]
    message = texts.LEASE_FORGOTTEN.format(lease=name)
    return steps.forgotten(current, operator, asleep=asleep, message=message, now=now)
