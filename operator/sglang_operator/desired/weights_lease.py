"""The Lease by which one trainer at a time takes hold of the pool's weights (design.md §5).

The operator makes it, empty, so that a trainer needs no right to create one.  From then on it is
the trainer's to write: holder, times and annotations are never compared with anything.
"""

from typing import Any

from sglang_operator.api import names
from sglang_operator.desired import metadata
from sglang_operator.planner.pool import Pool


def weights_lease(pool: Pool) -> dict[str, Any]:
    """The Lease as it is created."""
    return metadata.child(
        pool.owner,
        "coordination.k8s.io/v1",
        "Lease",
        names.weights_lease_name(pool.owner.name),
        "weights",
    )
