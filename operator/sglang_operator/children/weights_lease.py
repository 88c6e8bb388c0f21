"""The Lease by which one trainer at a time takes hold of the pool's weights.

explanation/weights.md has the transaction that is kept in it.
The operator makes it, empty, so that a trainer needs no right to create one.  From then on it is
the trainer's to write, and the operator's by steps of its own (gates/lease.py, gates/recovery.py):
holder, times and annotations are never compared with a wanted Lease (``children.drift``).  One that
is made in place of a lost one says what is known of it still (``weights.lost_lease``), or that
nobody knows what the engines hold.
"""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Owner
from sglang_operator.weights.lease_state import Transaction, written


def weights_lease(owner: Owner, state: Transaction | None = None) -> dict[str, Any]:
    """The Lease as it is created; ``state`` is what it says from the start."""
    lease = metadata.child(
        owner, "coordination.k8s.io/v1", "Lease", names.weights_lease_name(owner.name), "weights"
    )
    return lease if state is None else written(lease, state)
