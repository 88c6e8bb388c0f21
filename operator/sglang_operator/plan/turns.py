"""When running engines are left alone for the trainer's sake.  Pure.

A sync writes to all engines at once, often by a collective operation that hangs if one goes, and
what it writes counts only for the engines that it began with.  While the engines sleep, their
memory is the trainer's: a new one would take it back.  Both end without us: a trainer that does
not renew has aborted, and one that lets engines sleep wakes them for the next step.
"""

from sglang_operator.api import names
from sglang_operator.observed.model import Observed
from sglang_operator.plan.rollout import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Phase, read

_HELD = {Phase.SYNCING: Waits.FOR_SYNC, Phase.SLEEPING: Waits.FOR_WAKE}


def held(pool: Pool, observed: Observed) -> Waits | None:
    """What a voluntary change of running engines has to wait for; None: it may go on."""
    if observed.refused_revision == pool.revision:
        return Waits.FOR_ADMISSION
    lease = observed.children.get(("Lease", names.weights_lease_name(pool.owner.name)))
    if lease is None or lease.owner != pool.owner.uid:
        return None
    return _HELD.get(read(lease.body).phase)
