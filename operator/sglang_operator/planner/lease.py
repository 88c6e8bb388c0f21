"""What the operator itself writes into a pool's weights Lease.  Pure.

A sync whose holder is gone is aborted; so is a Lease that has lost what it said of open gates.
Its other step is recovery (``recovery``).  Each is a step of ``api.weights_steps`` from exactly the
state that was seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sglang_operator.api import names, texts
from sglang_operator.api import weights_steps as steps
from sglang_operator.api.spec import WeightsGate
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


def has_forgotten(gate: WeightsGate, current: Transaction, pods: Iterable[ObservedPod]) -> bool:
    """Whether the Lease says nothing, though gates were set by what it said: pods remember that.

    Gates that open by the version which an engine names need no Lease, but for those that sleep.
    """
    if current.phase is not Phase.IDLE:
        return False
    if gate is WeightsGate.VERSIONED:
        return any(sleeps(pod) for pod in pods)
    return gate is WeightsGate.COMMITTED and any(pod.gate is not None for pod in pods)


def sleeps(pod: ObservedPod) -> bool:
    """Whether the pod's gate is closed because it sleeps, or is about to."""
    gate = pod.gate
    return gate is not None and not gate.is_open and gate.reason == Phase.SLEEPING.value


def forgotten(
    name: str,
    current: Transaction,
    pods: Iterable[ObservedPod],
    operator: steps.Trainer,
    now: float,
) -> Transaction:
    """What a Lease that has forgotten is to say: gates remember who slept, and on what."""
    asleep = {
        pod.instance: pod.gate.released
        for pod in pods
        if pod.instance and pod.gate is not None and sleeps(pod)
    }
    message = texts.LEASE_FORGOTTEN.format(lease=name)
    return steps.forgotten(current, operator, asleep=asleep, message=message, now=now)
