"""``Shared``: the trainer's pods own the GPUs, and engines join them there.

An engine asks for no GPU.  It is bound to the node of its trainer's pod, sees that pod's GPUs by
their UUIDs through NVIDIA's runtime, and has one folder in common with it at /dev/shm, where
handles of GPU memory are passed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sglang_operator.api import conditions, errors, names, syntax, texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import Gang, PoolSpec, SharedPlacement
from sglang_operator.placement import entry, seats, slots
from sglang_operator.placement.base import Achieved, Placed, PodParts
from sglang_operator.placement.seats import Devices, Seating, Seen
from sglang_operator.placement.slots import Slots

FIELD = "spec.placement.shared"
# Folders of a node's /dev/shm, one level below it: who sees one cannot make a link beside it.  No
# namespace has a dot in its name, so that each has its own.
_FOLDER = "/dev/shm/sglang-operator."
_MOST_NAMED = 5
_SUFFIX = re.compile(r"(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", re.ASCII)


def folder(namespace: str) -> str:
    """The node's folder that trainers and engines of a namespace share, unless told otherwise."""
    return f"{_FOLDER}{namespace}"


class Shared:
    """See :class:`sglang_operator.placement.base.PlacementStrategy`."""

    by_id = True
    seats = True

    def problems(
        self, parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
    ) -> Iterator[Problem]:
        shared = parsed.placement.shared
        if parsed.device_mapping is None:
            yield errors.SHARED_UNMAPPED("spec.device_mapping")
        if parsed.scheduling.gang is not Gang.NONE:
            yield errors.SHARED_QUEUED("spec.scheduling.gang", found=parsed.scheduling.gang.value)
        yield from _of_topology(parsed)
        if (surge := parsed.rollout.max_surge) not in (0, "0%"):
            yield errors.SHARED_SURGE("spec.rollout.maxSurge", found=errors.word(surge))
        runtime = shared.runtime_class_name
        if runtime is not None and not syntax.is_subdomain(runtime):
            yield syntax.wrong(f"{FIELD}.runtimeClassName", runtime, syntax.SUBDOMAIN)
        yield from _of_folder(shared, namespace)
        if shared.slots and parsed.device_mapping is not None:
            yield from _of_slots(parsed, shared, engines)

    def resource(self, parsed: PoolSpec) -> str:
        return parsed.placement.resource_name

    def requests(self, parsed: PoolSpec, gpus: int) -> Mapping[str, str]:
        return {}

    def parts(self, parsed: PoolSpec, namespace: str) -> PodParts:
        shared = parsed.placement.shared
        memory, runtime = shared.shared_memory, shared.runtime_class_name
        shm: Mapping[str, Any] = {
            "hostPath": {
                "path": memory.host_path or folder(namespace),
                "type": "DirectoryOrCreate",
            }
        }
        if memory.claim_name is not None:
            shm = {"persistentVolumeClaim": {"claimName": memory.claim_name}}
        return PodParts(
            spec={} if runtime is None else {"runtimeClassName": runtime},
            # Who asks for a resource is given this by the API server, and these do not ask.
            tolerations=({"key": self.resource(parsed), "operator": "Exists"},),
            shm=shm,
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


def _of_topology(parsed: PoolSpec) -> Iterator[Problem]:
    chosen = parsed.scheduling
    if chosen.gang is not Gang.NONE:
        return  # whose these would be
    for field, found in (
        ("requiredTopology", chosen.required_topology),
        ("preferredTopology", chosen.preferred_topology),
        ("spread", chosen.spread.topology_key if chosen.spread else None),
    ):
        if found:
            yield errors.SHARED_TOPOLOGY(f"spec.scheduling.{field}", field=field, found=found)


def _of_folder(shared: SharedPlacement, namespace: str) -> Iterator[Problem]:
    memory, where = shared.shared_memory, f"{FIELD}.sharedMemory"
    own = folder(namespace)
    if memory.host_path is not None and memory.claim_name is not None:
        yield errors.SHARED_FOLDER(
            where,
            found="hostPath and claimName",
            expected="one of them",
            advice="remove the other",
        )
    path = memory.host_path
    if path is not None and not (path.startswith(own) and _SUFFIX.fullmatch(path[len(own) :])):
        yield errors.SHARED_FOLDER(
            f"{where}.hostPath",
            found=errors.shown(path),
            expected=f"{_FOLDER}NAMESPACE, the pool's own, alone or with a name after another dot: "
            "engines write there, and one namespace has nothing to do with another's",
            advice="leave it out, or use a claim",
        )
    claim = memory.claim_name
    if claim is not None and not syntax.is_subdomain(claim):
        yield syntax.wrong(f"{where}.claimName", claim, syntax.SUBDOMAIN)


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
