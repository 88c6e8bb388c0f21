"""A trainer with eight GPUs on each of its nodes, for pools that join it."""

from collections.abc import Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.observed.model import ObservedChild, ObservedNode
from sglang_operator.placement import slots
from sglang_operator.placement.seats import TrainerPod
from sglang_operator.placement.slots import Slot
from sglang_operator.pool.resolve import Pool
from tests.builders import a_pool

SHARED: dict[str, Any] = {"mode": "Shared"}


def gpu(node: int, index: int) -> str:
    """The UUID of a GPU."""
    return f"GPU-{node:08x}-0000-0000-0000-{index:012x}"


def a_slot(node_rank: int, node: str = "", **changes: Any) -> Slot:
    """The slot of this node rank: eight GPUs of a pod of its own."""
    values: dict[str, Any] = {
        "node_rank": node_rank,
        "node": node or f"gpu-{node_rank}",
        "gpus": tuple(gpu(node_rank, index) for index in range(8)),
        "pod": f"trainer-{node_rank}",
        "uid": f"uid-trainer-{node_rank}",
    }
    return Slot(**values | changes)


def published(*of: Slot) -> dict[str, str]:
    """The data of the ConfigMap in which these are published."""
    return {names.slot_key(slot.node_rank): slots.written(slot) for slot in of}


def pods(*of: Slot) -> dict[str, TrainerPod]:
    """The trainer's pods as they are seen."""
    return {slot.pod: TrainerPod(uid=slot.uid, node=slot.node) for slot in of}


def by_hand(*of: Slot) -> dict[str, Any]:
    """The placement with these slots in the spec."""
    given = [{"nodeRank": s.node_rank, "node": s.node, "gpus": list(s.gpus)} for s in of]
    return {**SHARED, "shared": {"slots": given}}


def a_shared_pool(**changes: Any) -> Pool:
    """The guide's pool, on the GPUs of its trainer."""
    return a_pool(**{"placement": SHARED, **changes})


def seen(pool: Pool, *of: Slot, **changes: Any) -> dict[str, Any]:
    """What is observed of a trainer with these slots."""
    name = names.slots_name(pool.owner.name)
    data: Mapping[str, str] = changes.pop("data", published(*of))
    body = {"metadata": {"name": name}, "data": data}
    child = ObservedChild(uid=names.Uid("uid-slots"), owner=pool.owner.uid, body=body)
    nodes = {slot.node: ObservedNode(name=slot.node) for slot in of}
    told = {"children": {("ConfigMap", name): child}, "trainers": pods(*of), "nodes": nodes}
    return told | changes


THREE = tuple(a_slot(rank) for rank in range(3))
