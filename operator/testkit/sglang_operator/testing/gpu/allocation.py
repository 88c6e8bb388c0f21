"""What the device plugin tells kubelet: devices and their health, and what an Allocate answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing import errors

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
PERMISSIONS = "rw"  # no container makes device nodes
# Whoever reads it, NVIDIA's own runtime for one, gives these cards and no others.
VISIBLE = "NVIDIA_VISIBLE_DEVICES"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder or file of the host in a container, by default at the same place, read-only."""

    host: str
    inside: str
    read_only: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a plugin has to give; ``cards`` are device nodes of the host by UUID."""

    resource: str
    cards: Mapping[str, str]
    control: Sequence[str] = ()  # nodes that every container with a card needs
    mounts: Sequence[Mount] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    root: str = "/"  # of the driver; a stand-in's is a folder

    def inside(self, node: str) -> str:
        """Where a node of the host is in a container."""
        return str(Path("/") / Path(node).relative_to(self.root))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What one container gets."""

    nodes: Sequence[tuple[str, str]]  # on the host, in the container
    mounts: Sequence[Mount]
    variables: Mapping[str, str]


def devices(inventory: Inventory, seen: Collection[str]) -> dict[str, str]:
    """The health of each card; one that the driver does not show any more has none."""
    return {uuid: HEALTHY if uuid in seen else UNHEALTHY for uuid in inventory.cards}


def allocate(inventory: Inventory, wanted: Sequence[str]) -> Answer:
    """What a container gets that kubelet gives these cards; raises KitError for unknown ones."""
    unknown = sorted(set(wanted) - set(inventory.cards))
    if unknown:
        raise errors.KitError(
            f"{inventory.resource}: kubelet gives {', '.join(unknown)}, "
            f"the plugin has {', '.join(inventory.cards) or 'nothing'}"
        )
    chosen = [uuid for uuid in inventory.cards if uuid in wanted]  # in the driver's order
    nodes = [*(inventory.cards[uuid] for uuid in chosen), *inventory.control]
    return Answer(
        nodes=[(node, inventory.inside(node)) for node in nodes],
        mounts=inventory.mounts,
        variables={**inventory.variables, VISIBLE: ",".join(chosen)},
    )


def to_json(inventory: Inventory) -> str:
    """The inventory for the plugin's process."""
    return json.dumps(dataclasses.asdict(inventory))


def from_json(text: str) -> Inventory:
    """What ``to_json`` wrote."""
    fields: dict[str, Any] = json.loads(text)
    mounts = [Mount(**each) for each in fields.pop("mounts")]
    return Inventory(mounts=mounts, **fields)
