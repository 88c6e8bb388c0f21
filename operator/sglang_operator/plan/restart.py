"""How a lost engine comes back: at once the first time, then ever later, until it has run well.

The pods are the only memory: each carries how many failures in a row led to it, and a pod that
failed stays until its replacement exists.
"""

from sglang_operator.api import spec
from sglang_operator.backoff import Backoff
from sglang_operator.observed import health
from sglang_operator.observed.model import ObservedPod


def failures(pod: ObservedPod, policy: spec.Restart) -> int:
    """Failures in a row with this one counted; a pod that ran long enough starts anew."""
    return 1 if health.ran(pod) >= policy.reset_seconds else pod.failures + 1


def delay(count: int, policy: spec.Restart) -> float:
    """Seconds to wait before the replacement after ``count`` failures in a row."""
    if count <= 1:
        return 0.0
    return Backoff(policy.backoff_seconds, policy.max_backoff_seconds).pause(count - 2)


def due(pod: ObservedPod, policy: spec.Restart) -> float:
    """When the replacement of an ended pod may be created, by the steady clock."""
    return pod.seen.ended + delay(failures(pod, policy), policy)
