"""What the modes have in common whose engines are on the GPUs of a trainer."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_operator.api import errors, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import (
    Gang,
    PlacementMode,
    PoolSpec,
    SharedMemory,
    SharedPlacement,
    SlotPlacement,
)

# Folders of a node's /dev/shm, one level below it: who sees one cannot make a link beside it.  No
# namespace has a dot in its name, so that each has its own.
_FOLDER = "/dev/shm/sglang-operator."
_SUFFIX = re.compile(r"(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", re.ASCII)


class Colocated:
    """What is so in each of these modes: ids are places, and no scheduler counts the GPUs."""

    by_id = True
    seats = True
    joins = True

    def resource(self, parsed: PoolSpec) -> str:
        return parsed.placement.resource_name

    def device_classes(self, parsed: PoolSpec) -> Sequence[tuple[str, str]]:
        return ()

    def requests(self, parsed: PoolSpec, gpus: int) -> Mapping[str, str]:
        return {}


def folder(namespace: str) -> str:
    """The node's folder that trainers and engines of a namespace share, unless told otherwise."""
    return f"{_FOLDER}{namespace}"


def shm(memory: SharedMemory, namespace: str) -> Mapping[str, Any]:
    """The volume at /dev/shm that an engine has in common with its trainer."""
    if memory.claim_name is not None:
        return {"persistentVolumeClaim": {"claimName": memory.claim_name}}
    path = memory.host_path or folder(namespace)
    return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}


def unused(parsed: PoolSpec) -> Iterator[Problem]:
    """Sections of other modes than the pool's own."""
    placement = parsed.placement
    for own, section, default in (
        (PlacementMode.SHARED, placement.shared, SharedPlacement()),
        (PlacementMode.SLOT, placement.slot, SlotPlacement()),
    ):
        if placement.mode is not own and section != default:
            name = own.value.lower()
            yield errors.SECTION_UNUSED(
                f"spec.placement.{name}", name=name, found=placement.mode.value, mode=own.value
            )


def of_trainer(parsed: PoolSpec) -> Iterator[Problem]:
    """What engines on a trainer's GPUs cannot have."""
    mode = parsed.placement.mode.value
    if parsed.device_mapping is None:
        yield errors.SHARED_UNMAPPED("spec.device_mapping", mode=mode)
    if parsed.scheduling.gang is not Gang.NONE:
        gang = parsed.scheduling.gang.value
        yield errors.SHARED_QUEUED("spec.scheduling.gang", found=gang, mode=mode)
    yield from _of_topology(parsed, mode)
    if (surge := parsed.rollout.max_surge) not in (0, "0%"):
        yield errors.SHARED_SURGE("spec.rollout.maxSurge", found=errors.word(surge), mode=mode)


def _of_topology(parsed: PoolSpec, mode: str) -> Iterator[Problem]:
    chosen = parsed.scheduling
    if chosen.gang is not Gang.NONE:
        return  # whose these would be
    for field, found in (
        ("requiredTopology", chosen.required_topology),
        ("preferredTopology", chosen.preferred_topology),
        ("spread", chosen.spread.topology_key if chosen.spread else None),
    ):
        if found:
            where = f"spec.scheduling.{field}"
            yield errors.SHARED_TOPOLOGY(where, field=field, found=found, mode=mode)


def of_folder(memory: SharedMemory, where: str, namespace: str) -> Iterator[Problem]:
    """What is wrong with the folder in common, which stands at ``where``."""
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
