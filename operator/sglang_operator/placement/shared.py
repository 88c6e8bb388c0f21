"""``Shared``: the trainer's pods own the GPUs, and engines join them there.

An engine asks for no GPU.  It is bound to the node of its trainer's pod, sees that pod's GPUs by
their UUIDs through NVIDIA's runtime, and has one folder in common with it at /dev/shm, where
handles of GPU memory are passed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sglang_operator.api import conditions, errors, names, syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec, SharedPlacement
from sglang_operator.placement import colocated, entry, seats, slots
from sglang_operator.placement.base import Achieved, Placed, PodParts
from sglang_operator.placement.seats import Devices, Seating, Seen
from sglang_operator.placement.slots import Slots

FIELD = "spec.placement.shared"
_MOST_NAMED = 5


class Shared(colocated.Colocated):
    """See :class:`sglang_operator.placement.base.PlacementStrategy`."""

    published = True

    def problems(
        self, parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
    ) -> Iterator[Problem]:
        shared = parsed.placement.shared
        yield from colocated.unused(parsed)
        yield from colocated.of_trainer(parsed)
        runtime = shared.runtime_class_name
        if runtime is not None and not syntax.is_subdomain(runtime):
            yield syntax.wrong(f"{FIELD}.runtimeClassName", runtime, syntax.SUBDOMAIN)
        where = f"{FIELD}.sharedMemory"
        yield from colocated.of_folder(shared.shared_memory, where, namespace)
        if shared.slots and parsed.device_mapping is not None:
            yield from _of_slots(parsed, shared, engines)

    def parts(self, parsed: PoolSpec, namespace: str) -> PodParts:
        shared = parsed.placement.shared
        runtime = shared.runtime_class_name
        return PodParts(
            spec={} if runtime is None else {"runtimeClassName": runtime},
            # Who asks for a resource is given this by the API server, and these do not ask.
            tolerations=({"key": self.resource(parsed), "operator": "Exists"},),
            shm=colocated.shm(shared.shared_memory, namespace),
            entry=entry.COMMAND,
            decided={
                "runtimeClassName": f"{FIELD}.runtimeClassName",
                "tolerations": "spec.placement.resourceName",
                "shm": f"{FIELD}.sharedMemory",
            },
        )

    def seating(
        self, parsed: PoolSpec, name: str, engines: Mapping[EngineName, Devices], seen: Seen
    ) -> Seating | None:
        given, where = parsed.placement.shared.slots, f"{FIELD}.slots"
        per_node = parsed.num_gpus_per_node
        if given:
            known = slots.by_hand(given, where)
        else:
            where = f"ConfigMap {names.slots_name(name)}"
            known = seats.published(seen, engines, per_node, where)
        found = seats.seating(known, engines, per_node, seen, where)
        claimed = () if given else _of_claims(seen, where)
        return replace(found, warnings=(*_of_users(parsed, known), *claimed))

    def achieved(self, placed: Placed) -> Achieved:
        complete = placed.engines == placed.of
        text = texts.DEVICES_SHARED if complete else texts.ENGINES_UNPLACED
        message = text.format(
            gpus=placed.engines * placed.gpus, nodes=placed.nodes, wanted=placed.of * placed.gpus
        )
        if placed.neighbours:
            pools = ", ".join(placed.neighbours[:_MOST_NAMED])
            message += texts.DEVICES_BESIDE.format(pools=pools)
        reason = conditions.SHARED if complete else conditions.ENGINES_UNPLACED
        return Achieved(complete=complete, reason=reason, message=message)


def _of_slots(
    parsed: PoolSpec, shared: SharedPlacement, engines: Mapping[EngineName, Devices]
) -> Iterator[Problem]:
    where, per_node = f"{FIELD}.slots", max(1, parsed.num_gpus_per_node)
    known = slots.by_hand(shared.slots, where)
    yield from seats.misfits(known, engines, per_node, where)
    missing = list(seats.lacking(known, engines, per_node))
    if missing:
        yield errors.SLOTS(
            where,
            found=f"no slot for node rank {', '.join(map(str, missing[:8]))}",
            expected="one for each node that device_mapping names, or none at all",
            advice="write it, or leave slots out and have the trainer publish them",
        )


def _of_users(parsed: PoolSpec, known: Slots) -> Iterator[Problem]:
    """That trainer and engines are not the same user, where both are told."""
    own = parsed.security.run_as_user
    there = (slot for rank, slot in known.slots.items() if rank not in known.absent)
    other = next((slot.user for slot in there if slot.user not in (None, own)), None)
    if other is not None:
        expected = "the image's own user" if own is None else str(own)
        yield errors.TRAINER_USER("spec.security.runAsUser", user=other, expected=expected)


def _of_claims(seen: Seen, where: str) -> Iterator[Problem]:
    """That a node rank is claimed in turn."""
    for claim in seen.claims:
        pods = f"pod{'s' if len(claim.pods) > 1 else ''} {' and '.join(claim.pods)}"
        key = names.slot_key(claim.node_rank)
        yield errors.NODE_RANK_CLAIMED(f"{where}, {key}", pods=pods, node_rank=claim.node_rank)
