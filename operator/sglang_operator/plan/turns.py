"""When running engines are left alone for the trainer's sake.  Pure.

A sync writes to all engines at once, often by a collective operation that hangs if one goes, and
what it writes counts only for the engines that it began with.  While the engines sleep, their
memory is the trainer's: a new one would take it back.  Both end without us: a trainer that does
not renew has aborted, and one that lets engines sleep wakes them for the next step.
"""

from sglang_operator.api import names
from sglang_operator.api.spec import Recovery
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan.rollout import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Phase, Transaction, read

_HELD = {Phase.SYNCING: Waits.FOR_SYNC, Phase.SLEEPING: Waits.FOR_WAKE}


def held(pool: Pool, observed: Observed) -> Waits | None:
    """What a voluntary change of running engines has to wait for; None: it may go on."""
    if observed.refused_revision == pool.revision:
        return Waits.FOR_ADMISSION
    current = _current(pool, observed)
    return _HELD.get(current.phase) if current is not None else None


def fetches(pod: ObservedPod, pool: Pool, observed: Observed) -> bool:
    """Whether this engine, which lacks weights, gets them without a sync: from the checkpoint of
    the last commit.  One that failed to is tried again, and is not waited for."""
    current = _current(pool, observed)
    if pool.spec.weights.recovery is not Recovery.FROM_CHECKPOINT or current is None:
        return False
    if current.phase is not Phase.COMMITTED or not (current.checkpoint and current.version):
        return False
    report = observed.reports.get(pod.instance or "")
    return report is None or report.loading is None or not report.loading.error


def _current(pool: Pool, observed: Observed) -> Transaction | None:
    lease = observed.children.get(("Lease", names.weights_lease_name(pool.owner.name)))
    if lease is None or lease.owner != pool.owner.uid:
        return None
    return read(lease.body)
