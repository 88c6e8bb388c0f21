"""Why no node has room for an engine: how many GPUs there are, who holds them, where it is nearest.

Pure.  The scheduler only says how many nodes lack something.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sglang_operator.api import texts
from sglang_operator.observed.model import ObservedNode

MOST_HOLDERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A pod that holds GPUs of a node."""

    namespace: str
    name: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Room:
    node: str
    total: int
    free: int
    holders: tuple[Holder, ...]


def explain(
    resource: str,
    wanted: int,
    nodes: Iterable[ObservedNode],
    holders: Mapping[str, tuple[Holder, ...]] | None,
    *,
    namespace: str,
    pool: int = 0,
) -> str:
    """One sentence about the GPUs of the cluster; "" where nodes tell nothing.

    ``holders`` is None where pods of others may not be seen: then only what nodes have is told.
    ``wanted`` are the GPUs of one engine, ``pool`` those of all its engines.  Pods are named if
    they are of the pool's ``namespace``: who may read its status may not know those of others.
    """
    rooms = [_room(node, resource, holders or {}) for node in nodes if node.resources.get(resource)]
    usable = [room for room in rooms if room is not None]
    if not usable:
        return texts.CAPACITY_NONE.format(resource=resource) if holders is not None else ""
    largest = max(room.total for room in usable)
    if largest < wanted:
        return texts.CAPACITY_TOO_SMALL.format(wanted=wanted, resource=resource, largest=largest)
    total = sum(room.total for room in usable)
    short = ""
    if pool > total:
        short = texts.CAPACITY_POOL.format(wanted=pool, resource=resource, total=total)
    if holders is None:
        return short.rstrip("; ")
    nearest = max(usable, key=lambda room: (room.free, room.total, room.node))
    return short + texts.CAPACITY.format(
        wanted=wanted,
        free=sum(room.free for room in usable),
        total=total,
        resource=resource,
        node=nearest.node,
        node_free=nearest.free,
        node_total=nearest.total,
        holders=_held_by(nearest.holders, namespace),
    )


def _held_by(holders: tuple[Holder, ...], namespace: str) -> str:
    """The largest of the namespace by name, and how much pods of other namespaces hold."""
    own = [holder for holder in holders if holder.namespace == namespace]
    own.sort(key=lambda holder: (-holder.count, holder.name))
    told = [f"{holder.name} {holder.count}" for holder in own[:MOST_HOLDERS]]
    if len(own) > MOST_HOLDERS:
        told.append(texts.CAPACITY_MORE.format(count=len(own) - MOST_HOLDERS))
    others = sum(holder.count for holder in holders if holder.namespace != namespace)
    if others:
        told.append(texts.CAPACITY_OTHERS.format(gpus=others))
    return texts.CAPACITY_HELD.format(pods=", ".join(told)) if told else ""


def _room(
    node: ObservedNode, resource: str, holders: Mapping[str, tuple[Holder, ...]]
) -> _Room | None:
    """The node's room; None if nothing new may go there."""
    if node.gone or not node.ready or node.cordoned:
        return None
    total, held = node.resources.get(resource, 0), holders.get(node.name, ())
    free = max(0, total - sum(holder.count for holder in held))
    return _Room(node=node.name, total=total, free=free, holders=held)
