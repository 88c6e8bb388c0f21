"""The ConfigMap in which a trainer says which GPUs it has, where engines join it there.

The operator makes it, empty, so that a trainer needs no right to create one.  From then on what it
says is the trainer's to write, and is never compared with a wanted one.
"""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Pool


def slots_maps(pool: Pool) -> list[dict[str, Any]]:
    """None of a pool whose slots nobody has to publish."""
    if not pool.awaits_slots:
        return []
    name = names.slots_name(pool.owner.name)
    return [metadata.child(pool.owner, "v1", "ConfigMap", name, "slots", data={})]
