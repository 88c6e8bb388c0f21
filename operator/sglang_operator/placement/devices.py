"""What is known of devices and of the claims to them (dynamic resource allocation).  Pure.

A driver publishes devices in ResourceSlices, the scheduler allocates some of them to a
ResourceClaim once a pod that refers to it is placed, and the claim is deallocated once the last
such pod is gone.  NVIDIA's driver tells of a card its UUID, and no number: what ``nvidia-smi``
calls GPU 3 is a matter of who asks.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple


class Place(NamedTuple):
    """By what an allocation names a device."""

    driver: str
    pool: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device of a ResourceSlice."""

    place: Place
    node: str
    uuid: str = ""  # empty: its driver tells none
    whole: bool = True  # else a part of a card, or no card
    taints: tuple[str, ...] = ()  # as key=value:effect


class Allocated(NamedTuple):
    """A device that a claim has, by the request that it is for."""

    request: str
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceClaim:
    """A ResourceClaim, whoever made it."""

    namespace: str
    name: str
    version: int  # of the object in this state
    made_of: str = ""  # a hash of what the operator wrote as its spec; empty: somebody else's
    requests: tuple[str, ...] = ()  # that ask for one device each, by name
    classes: tuple[str, ...] = ()  # of devices that any request asks for, also as one of several
    admin: bool = False  # one asks for devices that others have, as whoever runs the cluster may
    devices: tuple[Allocated, ...] = ()
    allocated: bool = False
    users: tuple[str, ...] = ()  # pods that it is reserved for, by name
    going: bool = False

    @property
    def used(self) -> bool:
        """Whether pods have it, or are about to: what it says now is what counts."""
        return self.allocated or bool(self.users)


class Pin(NamedTuple):
    """The devices that a claim had last."""

    node: str
    driver: str
    gpus: Mapping[int, str]  # UUIDs, by the rank of each GPU on its node


class Published:
    """All devices that drivers publish; what is asked of them is found out once.

    ``incomplete``: the nodes for which a driver is about to publish more, each with that driver;
    no node: it may be for any.
    """

    def __init__(
        self, devices: Iterable[Device], incomplete: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.by_place: Mapping[Place, Device] = {device.place: device for device in devices}
        self._incomplete = frozenset(incomplete)

    @cached_property
    def cards(self) -> Sequence[Device]:
        """Every whole card."""
        return [device for device in self.by_place.values() if device.whole]

    @cached_property
    def nodes(self) -> frozenset[str]:
        """The nodes that have cards."""
        return frozenset(card.node for card in self.cards)

    @cached_property
    def by_uuid(self) -> Mapping[str, Device]:
        """Those of which a UUID is told."""
        return {device.uuid: device for device in self.by_place.values() if device.uuid}

    @cached_property
    def drivers(self) -> frozenset[tuple[str, str]]:
        """The nodes for which a driver publishes something, each with that driver."""
        found = self.by_place.values()
        return frozenset((device.node, device.place.driver) for device in found)

    def is_all_of(self, node: str, driver: str) -> bool:
        """Whether what a driver does not publish for a node is not there."""
        known = (node, driver) in self.drivers
        return known and self._incomplete.isdisjoint({(node, driver), ("", driver)})


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All devices and claims that the operator sees."""

    # By namespace and name; None: Kubernetes' API for them is not served, or may not be read.
    claims: Mapping[tuple[str, str], DeviceClaim] | None = None
    devices: Published | None = None  # None: may not be read

    def of(self, claim: DeviceClaim) -> Iterator[tuple[str, Device]]:
        """The devices of a claim that are published, by request."""
        for request, place in claim.devices:
            if self.devices is not None and place in self.devices.by_place:
                yield request, self.devices.by_place[place]

    @cached_property
    def holders(self) -> Mapping[Place, DeviceClaim]:
        """Which claim has a device; found out once for all that wait."""
        found = dict[Place, DeviceClaim]()
        for claim in (self.claims or {}).values():
            for _, place in claim.devices:
                found.setdefault(place, claim)
        return found

    @cached_property
    def cards(self) -> "Cards":
        """The whole cards by node, and how many of each are free; counted once."""
        total, free = Counter[str](), Counter[str]()
        on = dict[str, list[Device]]()
        for card in self.devices.cards if self.devices is not None else ():
            total[card.node] += 1
            free[card.node] += card.place not in self.holders and not card.taints
            on.setdefault(card.node, []).append(card)
        nearest = max(total, key=lambda node: (free[node], total[node], node), default="")
        return Cards(on, total, free, nearest)


class Cards(NamedTuple):
    """The whole cards of a cluster."""

    on: Mapping[str, Sequence[Device]]  # by node, and how many there are, and are free
    total: Counter[str]
    free: Counter[str]
    nearest: str  # the node with the most that are free


@dataclass(frozen=True, kw_only=True)
class WantedClaim:
    """A claim that the operator makes for a pool."""

    name: str
    spec: Mapping[str, Any]

    @property
    def made_of(self) -> str:
        """A hash of its spec."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class HeldSlot:
    """The GPUs of one node rank, as the status tells them."""

    node_rank: int
    claim: str
    node: str = ""
    driver: str = ""
    allocated: bool = False  # else these are those that it had last, and has to get again
    gpus: Mapping[int, str] = field(default_factory=dict)  # UUIDs, by rank on the node

    def written(self, per_node: int) -> dict[str, Any]:
        """As an entry of ``status.slots``."""
        told: dict[str, Any] = {
            "nodeRank": self.node_rank,
            "claim": self.claim,
            "allocated": self.allocated,
        }
        if self.node:
            told |= {"node": self.node, "driver": self.driver}
        if self.gpus:
            first = self.node_rank * per_node
            told["gpus"] = [
                {"id": first + rank, "request": request_of(rank), "uuid": uuid}
                for rank, uuid in sorted(self.gpus.items())
            ]
        return told


def pins(told: Iterable[Mapping[str, Any]]) -> dict[int, Pin]:
    """What entries of ``status.slots`` say of the devices that claims had last."""
    found = dict[int, Pin]()
    for entry in told:
        rank, gpus = entry.get("nodeRank"), entry.get("gpus")
        node, driver = entry.get("node"), entry.get("driver")
        if type(rank) is not int or not (isinstance(node, str) and isinstance(driver, str)):
            continue
        known = {
            gpu: each["uuid"]
            for each in (gpus if isinstance(gpus, list) else ())
            if isinstance(each, dict) and isinstance(each.get("uuid"), str)
            if (gpu := rank_of(str(each.get("request")))) is not None
        }
        if known:
            found[rank] = Pin(node, driver, known)
    return found


_REQUEST = "gpu-"


def request_of(gpu_rank: int) -> str:
    """The request of a claim for the GPU of this rank on its node."""
    return f"{_REQUEST}{gpu_rank}"


def rank_of(request: str) -> int | None:
    """The rank of the GPU that this request is for."""
    digits = request.removeprefix(_REQUEST)
    known = digits.isdecimal() and len(digits) <= 2
    return int(digits) if known and request == request_of(int(digits)) else None


def token(namespace: str, claim: str, request: str) -> str:
    """A GPU by the claim that it is had by: who has the same, has the same GPU."""
    return f"{namespace}/{claim}/{request}"


def uuids(gpus: Iterable[str], cards: Mapping[str, str]) -> Sequence[str]:
    """These GPUs by their UUIDs, in their order; none while that of one is not known.

    ``cards``: those of GPUs that are had by claims, which are known by their tokens.
    """
    found = [gpu if "/" not in gpu else cards.get(gpu, "") for gpu in gpus]
    return found if all(found) else ()


def spec(class_name: str, gpu_ranks: Iterable[int], pin: Pin | None) -> dict[str, Any]:
    """What a claim asks for: one device for each GPU, all of one node.

    That they are of one node is Kubernetes' doing, whose pod has to reach all of a claim's devices.
    """
    return {
        "devices": {
            "requests": [
                {"name": request_of(rank), "exactly": _request(class_name, rank, pin)}
                for rank in sorted(gpu_ranks)
            ]
        }
    }


def _request(class_name: str, rank: int, pin: Pin | None) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "deviceClassName": class_name,
        "allocationMode": "ExactCount",
        "count": 1,
    }
    uuid = pin.gpus.get(rank) if pin is not None else None
    if pin is not None and uuid is not None:
        words = f"device.attributes[{_text(pin.driver)}].uuid == {_text(uuid)}"
        asked["selectors"] = [{"cel": {"expression": words}}]
    return asked


def _text(word: str) -> str:
    """A text in CEL, whose escapes are JSON's."""
    return json.dumps(word)
