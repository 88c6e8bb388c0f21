"""``Slot``: the GPUs of a node rank are one ResourceClaim, to which engines and trainer refer.

Who refers to a claim is placed on the node of its devices, and sees those of the requests that it
names: the request ``gpu-3`` is GPU 3 of the node rank, for whoever asks.  So ids are places, and
nobody has to say where the trainer is.  One claim for each node rank, and not for each engine: what
is to be of one node is so before the trainer's pod is there, and that pod names one claim.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from sglang_operator.api import conditions, device_resources, errors, names, syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.placement import colocated, devices, entry, shortage
from sglang_operator.placement import texts as words
from sglang_operator.placement.base import Achieved, Placed, PodParts
from sglang_operator.placement.devices import DeviceClaim, HeldSlot, Inventory, Pin, WantedClaim
from sglang_operator.placement.seats import Devices, Seat, Seating, Seen

FIELD = "spec.placement.slot"
MOST_REQUESTS = 32  # of one claim, by Kubernetes
_MOST_NAMED = 3


class Slot(colocated.Colocated):
    """See :class:`sglang_operator.placement.base.PlacementStrategy`."""

    published = False

    def problems(
        self, parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
    ) -> Iterator[Problem]:
        slot = parsed.placement.slot
        yield from colocated.unused(parsed)
        yield from colocated.of_trainer(parsed)
        if not syntax.is_subdomain(slot.device_class_name):
            where = f"{FIELD}.deviceClassName"
            yield syntax.wrong(where, slot.device_class_name, syntax.SUBDOMAIN)
        where = f"{FIELD}.sharedMemory"
        yield from colocated.of_folder(slot.shared_memory, where, namespace)
        if parsed.device_mapping is not None and engines:
            yield from _of_claims(parsed, _needs(engines, max(1, parsed.num_gpus_per_node)))

    def device_classes(self, parsed: PoolSpec) -> Sequence[tuple[str, str]]:
        return ((f"{FIELD}.deviceClassName", parsed.placement.slot.device_class_name),)

    def parts(self, parsed: PoolSpec, namespace: str) -> PodParts:
        return PodParts(
            # Who asks for a resource is given this by the API server, and these do not ask.
            tolerations=({"key": self.resource(parsed), "operator": "Exists"},),
            shm=colocated.shm(parsed.placement.slot.shared_memory, namespace),
            entry=entry.COMMAND,
            decided={
                "resourceClaims": FIELD,
                "tolerations": "spec.placement.resourceName",
                "shm": f"{FIELD}.sharedMemory",
            },
        )

    def seating(
        self, parsed: PoolSpec, name: str, engines: Mapping[EngineName, Devices], seen: Seen
    ) -> Seating | None:
        return _Claims(parsed, name, engines, seen).seating()

    def achieved(self, placed: Placed) -> Achieved:
        complete = placed.engines == placed.of
        text = texts.DEVICES_CLAIMED if complete else texts.ENGINES_UNPLACED
        message = text.format(
            gpus=placed.engines * placed.gpus, nodes=placed.nodes, wanted=placed.of * placed.gpus
        )
        if placed.neighbours:
            pools = ", ".join(placed.neighbours[:_MOST_NAMED])
            message += texts.DEVICES_BESIDE.format(pools=pools)
        reason = conditions.CLAIMED if complete else conditions.ENGINES_UNPLACED
        return Achieved(complete=complete, reason=reason, message=message)


def _needs(engines: Mapping[EngineName, Devices], per_node: int) -> dict[int, set[int]]:
    """The ranks of the GPUs that the mapping names, by node rank."""
    needs = dict[int, set[int]]()
    for pods in engines.values():
        for ids in pods:
            for each in ids:
                needs.setdefault(each // per_node, set()).add(each % per_node)
    return dict(sorted(needs.items()))


def _of_claims(parsed: PoolSpec, needs: Mapping[int, set[int]]) -> Iterator[Problem]:
    where = f"{FIELD}.claims"
    by_name = dict[str, int]()
    for index, each in enumerate(parsed.placement.slot.claims):
        at, rank = f"{where}[{index}]", each.node_rank
        if not syntax.is_subdomain(each.claim_name):
            yield syntax.wrong(f"{at}.claimName", each.claim_name, syntax.SUBDOMAIN)
        if rank not in needs:
            yield errors.CLAIMS(
                f"{at}.nodeRank",
                found=f"node rank {rank}",
                expected=f"one that device_mapping names: {', '.join(map(str, list(needs)[:8]))}",
                advice="correct it, or remove the entry",
            )
        if rank in by_name.values() or each.claim_name in by_name:
            yield errors.CLAIMS(
                at,
                found=f"node rank {rank} or claim {errors.shown(each.claim_name)} a second time",
                expected="one claim for each node rank",
                advice="remove one of the two",
            )
        by_name.setdefault(each.claim_name, rank)
    most = max(map(len, needs.values()), default=0)
    if most > MOST_REQUESTS:
        yield errors.CLAIMS(
            "spec.num_gpus_per_node",
            found=f"{most} GPUs of one node rank",
            expected=f"at most {MOST_REQUESTS}, which is as many as a ResourceClaim may ask for",
            advice="use another placement.mode",
        )


class _Claims:
    """The claims of one pool, as they are and as they should be."""

    def __init__(
        self, parsed: PoolSpec, name: str, engines: Mapping[EngineName, Devices], seen: Seen
    ) -> None:
        self._slot = parsed.placement.slot
        self._resource = parsed.placement.resource_name
        self._per_node = parsed.num_gpus_per_node
        self._engines = engines
        self._seen = seen
        self._needs = _needs(engines, self._per_node)
        given = {each.node_rank: each.claim_name for each in self._slot.claims}
        self._given = given.keys()
        self._names = {
            rank: given.get(rank) or names.claim_name(name, rank) for rank in self._needs
        }
        inventory = seen.inventory or Inventory()
        self._inventory = inventory
        self._found: Mapping[int, DeviceClaim] = {
            rank: claim
            for rank, each in self._names.items()
            if (claim := (inventory.claims or {}).get((seen.namespace, each))) is not None
        }
        self._pins = {
            rank: pin
            for rank, known in seen.pins.items()
            if rank in self._needs and (pin := self._standing(known)) is not None
        }
        self._wanted = {
            rank: WantedClaim(
                name=each,
                spec=devices.spec(self._slot.device_class_name, self._needs[rank], self._pin(rank)),
            )
            for rank, each in self._names.items()
            if rank not in self._given
        }

    def _pin(self, rank: int) -> Pin | None:
        return self._pins.get(rank) if self._slot.pinned else None

    def _standing(self, pin: Pin) -> Pin | None:
        """As much of it as is still to be had: not a card that was replaced, nor of a lost node.

        A driver that publishes nothing, or not all of it, may be about to: its devices are waited
        for.
        """
        seen, published = self._seen, self._inventory.devices
        if seen.nodes is not None and pin.node not in seen.nodes:
            return None
        if published is None:
            return pin
        if not published.is_all_of(pin.node, pin.driver):
            return pin
        left = {
            rank: uuid
            for rank, uuid in pin.gpus.items()
            if (card := published.by_uuid.get(uuid)) is not None and card.node == pin.node
        }
        return Pin(pin.node, pin.driver, left) if left else None

    def seating(self) -> Seating:
        problem = self._problem()
        whys = {rank: self._why_waiting(rank) for rank in self._needs}
        seats, waits = dict[EngineName, tuple[Seat, ...]](), dict[EngineName, str]()
        for engine, pods in self._engines.items():
            why = next(filter(None, (self._engine_waits(ids, whys) for ids in pods)), "")
            if why:
                waits[engine] = why
            else:
                seats[engine] = tuple(map(self._seat, pods))
        unserved = problem is not None and problem.reason == conditions.CLAIMS_NOT_SERVED
        return Seating(
            seats={} if problem is not None else seats,
            waits=waits,
            problem=problem,
            # Engines that were made in mode Shared go with their trainer's pod.
            alive=self._seen.alive,
            warnings=() if unserved else tuple(self._warnings()),
            slots=tuple(map(self._held, self._needs)),
            claims=tuple(self._wanted.values()),
            lacking={} if unserved else self._lacking(),
        )

    def _problem(self) -> Problem | None:
        if self._seen.inventory is None:
            return None  # nobody looked
        if self._inventory.claims is None:
            return _problem(conditions.CLAIMS_NOT_SERVED, words.CLAIMS_UNSERVED)
        if (refused := next(self._refused(), None)) is not None:
            return refused
        published = self._inventory.devices
        there = published.nodes if published is not None else frozenset[str]()
        both = {node for node in there if self._seen.counted.get(node)}
        if not both:
            return None
        # Of those that claims have it is known where they are; any other may come to such a node.
        nodes = {held.node for held in map(self._held, self._needs) if held.allocated}
        open_ranks = [rank for rank in self._needs if not self._is_allocated(rank)]
        hit = both if open_ranks else both & nodes
        if not hit:
            return None
        told = ", ".join(sorted(hit)[:_MOST_NAMED])
        text = words.COUNTED_TWICE.format(nodes=told, resource=self._resource)
        return _problem(conditions.COUNTED_TWICE, text)

    def _refused(self) -> Iterator[Problem]:
        """What claims ask for that engines may not have, whoever made them and under which name.

        A container is given the devices of all requests that it names, and a claim may be made in
        the place of one of the operator's, also with its annotation.
        """
        for rank, claim in self._found.items():
            where = f"{FIELD}.claims" if rank in self._given else FIELD
            whose = f" of ResourceClaim {errors.shown(claim.name)}"
            for name in map(device_resources.of_class, claim.classes):
                yield from device_resources.of_gpus(where, name, self._seen.allowed, whose)
            if claim.admin:
                yield errors.POD_TEMPLATE(
                    where,
                    found=f"adminAccess{whose}",
                    expected="requests for devices that nobody else has",
                    advice="name a claim without it",
                )

    def _is_allocated(self, rank: int) -> bool:
        claim = self._found.get(rank)
        return claim is not None and claim.allocated

    # --- whether pods may be made

    def _why_waiting(self, rank: int) -> str:
        """Why nobody may refer to the claim of this node rank yet."""
        if self._seen.inventory is None:
            return ""
        claim, name = self._found.get(rank), self._names[rank]
        told: dict[str, Any] = {"claim": name, "node_rank": rank}
        others = (
            r for r, each in self._wanted.items() if rank in self._given and each.name == name
        )
        if (other := next(others, None)) is not None:
            return words.CLAIM_OF_ANOTHER.format(other=other, **told)
        if claim is None:
            text = words.CLAIM_MISSING if rank in self._given else words.CLAIM_COMING
            return text.format(**told)
        if claim.going:
            return words.CLAIM_GOES.format(users=_users(claim), **told)
        if rank in self._given:
            return ""
        if not claim.made_of:
            return words.CLAIM_TAKEN.format(**told)
        if not claim.used and claim.made_of != self._wanted[rank].made_of:
            return words.CLAIM_ANEW.format(**told)
        return ""

    def _engine_waits(self, ids: Sequence[int], whys: Mapping[int, str]) -> str:
        rank = ids[0] // self._per_node
        claim = self._found.get(rank)
        if whys[rank] or claim is None:
            return whys[rank]
        lacks = [each for each in self._requests(ids) if each not in claim.requests]
        if not lacks:
            return ""
        return words.CLAIM_LACKS.format(
            claim=claim.name, node_rank=rank, requests=", ".join(lacks), users=_users(claim)
        )

    def _requests(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(devices.request_of(each % self._per_node) for each in ids)

    def _seat(self, ids: Sequence[int]) -> Seat:
        claim, requests = self._names[ids[0] // self._per_node], self._requests(ids)
        gpus = tuple(devices.token(self._seen.namespace, claim, each) for each in requests)
        digest = hashlib.sha256(" ".join((claim, *requests)).encode()).hexdigest()[:10]
        return Seat(node="", gpus=gpus, mark=f"{digest}.", claim=claim, requests=requests)

    # --- what claims have

    def _held(self, rank: int) -> HeldSlot:
        claim, name, pin = self._found.get(rank), self._names[rank], self._pins.get(rank)
        if claim is None or not claim.allocated:
            node, driver, gpus = pin or Pin("", "", {})
            return HeldSlot(node_rank=rank, claim=name, node=node, driver=driver, gpus=gpus)
        published = dict(self._inventory.of(claim))
        first = next(iter(published.values()), None)
        resolved = {
            gpu: device.uuid
            for request, device in published.items()
            if device.uuid and (gpu := devices.rank_of(request)) is not None
        }
        known = Pin(first.node, first.place.driver, resolved) if first is not None else pin
        if known is not None and pin is not None and known.node == pin.node:
            # Of a device that is not published at the moment it is known what it was.
            known = known._replace(gpus={**pin.gpus, **known.gpus})
        node, driver, gpus = known or Pin("", "", {})
        return HeldSlot(
            node_rank=rank, claim=name, node=node, driver=driver, gpus=gpus, allocated=True
        )

    def _warnings(self) -> Iterator[Problem]:
        for rank, claim in self._found.items():
            wanted = self._wanted.get(rank)
            made = wanted is not None and bool(claim.made_of) and claim.used
            # A pin is no change of the spec: what a claim has it keeps.
            if made and not self._is_as_wanted(rank, claim):
                pods = ", ".join(claim.users[:_MOST_NAMED])
                yield errors.CLAIM_OUTDATED(FIELD, claim=claim.name, pods=pods)
            if claim.allocated and not self._held(rank).gpus:
                yield errors.UNPINNED(FIELD, claim=claim.name)
            for _, device in self._inventory.of(claim):
                if device.taints:
                    yield errors.DEVICE_TAINTED(
                        FIELD,
                        gpu=device.uuid or device.place.name,
                        claim=claim.name,
                        taint=device.taints[0],
                    )

    def _is_as_wanted(self, rank: int, claim: DeviceClaim) -> bool:
        wanted = tuple(map(devices.request_of, sorted(self._needs[rank])))
        return claim.requests == wanted and claim.classes in ((self._slot.device_class_name,), ())

    # --- why none finds a node

    def _lacking(self) -> Mapping[EngineName, str]:
        """Of engines whose claims have no devices yet."""
        short = {
            rank: why
            for rank, claim in self._found.items()
            if not claim.allocated and (why := self._short(rank, claim))
        }
        if not short:
            return {}
        ranks = {
            engine: next((r for ids in pods if (r := ids[0] // self._per_node) in short), None)
            for engine, pods in self._engines.items()
        }
        return {engine: short[rank] for engine, rank in ranks.items() if rank is not None}

    def _short(self, rank: int, claim: DeviceClaim) -> str:
        pin = self._pin(rank) if rank in self._wanted else None
        if pin is not None and (why := self._room.of_pin(claim, pin)):
            return why
        return self._room.of_any(claim, self._slot.device_class_name)

    @cached_property
    def _room(self) -> shortage.Room:
        return shortage.Room(self._inventory, self._seen.namespace)


def _problem(reason: str, message: str) -> Problem:
    return Problem(
        reason=reason, field="spec.placement.mode", message=message, severity=errors.Severity.ERROR
    )


def _users(claim: DeviceClaim) -> str:
    return shortage.users(claim.users)
