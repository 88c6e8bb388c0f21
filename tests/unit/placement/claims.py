"""Nodes with eight GPUs each as NVIDIA's driver publishes them, and claims to these."""

from collections.abc import Sequence
from typing import Any

from sglang_operator.placement.devices import (
    Allocated,
    Device,
    DeviceClaim,
    Inventory,
    Place,
    Published,
)
from sglang_operator.placement.seats import Seating, Seen
from sglang_operator.pool.resolve import Pool
from tests.builders import OWNER, a_pool
from tests.unit.placement.trainers import gpu

SLOT: dict[str, Any] = {"mode": "Slot"}
DRIVER = "gpu.nvidia.com"


def a_slot_pool(**changes: Any) -> Pool:
    """The guide's pool, whose engines have their GPUs by claims."""
    return a_pool(**{"placement": SLOT, **changes})


def place(node: int, index: int) -> Place:
    return Place(DRIVER, f"gpu-{node}", f"gpu-{index}")


def cards(nodes: int = 3, **changes: Any) -> dict[Place, Device]:
    """Eight cards of each of so many nodes."""
    found = (
        Device(place=place(node, index), node=f"gpu-{node}", uuid=gpu(node, index), **changes)
        for node in range(nodes)
        for index in range(8)
    )
    return {card.place: card for card in found}


def a_claim(pool: Pool, node_rank: int, node: int | None = None, **changes: Any) -> DeviceClaim:
    """The operator's claim for this node rank; allocated where a node is given."""
    name = f"{OWNER.name}-node-{node_rank}"
    seating = pool.seating(Seen())
    assert seating is not None
    wanted = {each.name: each for each in seating.claims}
    made_of, requests = "", tuple(f"gpu-{index}" for index in range(8))
    if name in wanted:
        asked = wanted[name].spec["devices"]["requests"]
        made_of, requests = wanted[name].made_of, tuple(each["name"] for each in asked)
    given: dict[str, Any] = {}
    if node is not None:
        had = tuple(Allocated(each, place(node, int(each[4:]))) for each in requests)
        given = {"devices": had, "allocated": True, "users": (f"trainer-{node_rank}",)}
    values = {
        "namespace": OWNER.namespace,
        "name": name,
        "version": 1,
        "made_of": made_of,
        "requests": requests,
        "classes": (DRIVER,),
        **given,
    }
    return DeviceClaim(**{**values, **changes})


def inventory(*of: DeviceClaim, devices: dict[Place, Device] | None = None) -> Inventory:
    """These claims, and the cards of three nodes."""
    known = {(each.namespace, each.name): each for each in of}
    return Inventory(
        claims=known, devices=Published((cards() if devices is None else devices).values())
    )


def seated(pool: Pool, found: Inventory | None, **seen: Any) -> Seating:
    """What is known of its seats."""
    seating = pool.seating(Seen(namespace=OWNER.namespace, inventory=found, **seen))
    assert seating is not None
    return seating


def requests(spec: Any) -> Sequence[dict[str, Any]]:
    """What a claim asks for."""
    found: Sequence[dict[str, Any]] = spec["devices"]["requests"]
    return found
