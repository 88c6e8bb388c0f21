"""Which GPUs a trainer has, by node rank: one model of what it publishes and of what is written by
hand.  Pure.

A GPU is known by its UUID.  Its number on a node is not the same in every container: a trainer may
have four of eight, or be several pods of one node.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sglang_operator.api import bounds, errors, names, syntax
from sglang_operator.api.problems import Problem, kind

if TYPE_CHECKING:  # a trainer, which publishes them, reads no spec
    from sglang_operator.api.spec import GivenSlot

# What a trainer may have on one node rank, and how long what it publishes of that may be.
MOST_GPUS = 64
MOST_WRITTEN = 16_384
# A part of a card (MIG-…) is none: memory of one cannot be handed over by CUDA IPC.
_GPU = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
GPU_UUID = "GPU-, then 8-4-4-4-12 small hexadecimal digits, as nvidia-smi -L tells"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """The GPUs of one node rank of a trainer."""

    node_rank: int
    node: str
    gpus: tuple[str, ...]  # UUIDs, by the rank of each GPU on its node
    pod: str = ""  # of the trainer, by name and UID; empty: written by hand
    uid: str = ""
    user: int | None = None  # that the trainer runs as; None: not told

    def mark(self, gpus: Sequence[str]) -> str:
        """What an engine on these of its GPUs remembers: another one, and it has to move.

        Ten hexadecimal digits, and the UID of the trainer's pod.
        """
        told = json.dumps([self.node, self.pod, self.uid, list(gpus)])
        return f"{hashlib.sha256(told.encode()).hexdigest()[:10]}{_OF}{self.uid}"


_OF = "."  # between the digits of a mark and the UID of the trainer's pod


def trainer_of(mark: str) -> str:
    """The UID of the trainer's pod in a mark; empty where there was none."""
    return mark.partition(_OF)[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """What is known of a trainer's GPUs, and what cannot be true of it."""

    slots: Mapping[int, Slot] = field(default_factory=dict)  # by node rank
    problems: tuple[Problem, ...] = ()


def by_hand(given: Sequence["GivenSlot"], where: str) -> Slots:
    """The slots that stand in the spec."""
    found, problems = dict[int, Slot](), list[Problem]()
    for index, each in enumerate(given):
        at = f"{where}[{index}]"
        if each.node_rank in found:
            problems.append(
                errors.SLOTS(
                    f"{at}.nodeRank",
                    found=f"node rank {each.node_rank} a second time",
                    expected="each node rank once",
                    advice="write all of its GPUs in one slot",
                )
            )
        slot = Slot(node_rank=each.node_rank, node=each.node, gpus=tuple(each.gpus))
        found.setdefault(each.node_rank, slot)
        problems += _problems_of(slot, f"{at}.node", f"{at}.gpus")
    problems += _shared(found)
    return Slots(slots=found, problems=tuple(problems))


def published(data: Mapping[str, str], where: str) -> Slots:
    """The slots that a trainer has published in a ConfigMap; ``where`` names that."""
    found, problems = dict[int, Slot](), list[Problem]()
    for key in sorted(data):
        node_rank = names.slot_of(key)
        if node_rank is None:
            continue  # somebody else's words
        at = f"{where}, {key}"
        slot = _parsed(node_rank, data[key])
        if isinstance(slot, Slot):
            found[node_rank] = slot
            problems += _problems_of(slot, at, at)
        else:
            problems.append(
                errors.SLOTS(
                    at,
                    found=slot,
                    expected='{"node": "…", "pod": "…", "uid": "…", "gpus": ["GPU-…"]}',
                    advice="publish it by sglang_operator.client.slots",
                )
            )
    problems += _shared(found)
    return Slots(slots=found, problems=tuple(problems))


def written(slot: Slot) -> str:
    """A slot as a trainer publishes it."""
    told: dict[str, object] = {"node": slot.node, "pod": slot.pod, "uid": slot.uid}
    if slot.user is not None:
        told["user"] = slot.user
    return json.dumps({**told, "gpus": list(slot.gpus)})


def _parsed(node_rank: int, text: str) -> Slot | str:
    """The slot, or what stands there instead."""
    if len(text) > MOST_WRITTEN:
        return f"{len(text)} characters"
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(told, dict):
        return kind(told)
    words, gpus, user = [told.get(key) for key in ("node", "pod", "uid")], told.get("gpus"), None
    for key, value in zip(("node", "pod", "uid"), words, strict=True):
        if not isinstance(value, str) or not value:
            return f"{kind(value)} for {key}"
    if not isinstance(gpus, list) or not all(isinstance(gpu, str) for gpu in gpus):
        return "no list of texts for gpus"
    if type(told.get("user")) is int and 0 <= told["user"] <= bounds.INT32:
        user = told["user"]
    node, pod, uid = (str(word) for word in words)
    return Slot(node_rank=node_rank, node=node, pod=pod, uid=uid, user=user, gpus=tuple(gpus))


def _problems_of(slot: Slot, of_node: str, of_gpus: str) -> Iterator[Problem]:
    for name, text in (("node", slot.node), ("pod", slot.pod)):
        if text and not syntax.is_subdomain(text):
            yield errors.SLOTS(
                of_node,
                found=f"the {name} {errors.shown(text)}",
                expected=f"the name of a {name}, {syntax.SUBDOMAIN}",
                advice="correct it",
            )
    if not 0 < len(slot.gpus) <= MOST_GPUS:
        yield errors.SLOTS(
            of_gpus,
            found=f"{len(slot.gpus)} GPUs for node rank {slot.node_rank}",
            expected=f"1 to {MOST_GPUS}",
            advice="write the UUID of each",
        )
    wrong = next((gpu for gpu in slot.gpus if not _GPU.fullmatch(gpu)), None)
    if wrong is not None:
        yield errors.SLOTS(
            of_gpus,
            found=f"the GPU {errors.shown(wrong)}",
            expected=f"{GPU_UUID}; parts of a card (MIG) cannot be shared so",
            advice="write the UUID of a whole card",
        )


def _shared(found: Mapping[int, Slot]) -> Iterator[Problem]:
    """The first GPU that would be two."""
    owners = dict[str, Slot]()
    for slot in found.values():
        for gpu in slot.gpus:
            other = owners.setdefault(gpu, slot)
            if other is not slot or slot.gpus.count(gpu) > 1:
                ranks = sorted({other.node_rank, slot.node_rank})
                yield errors.SLOTS(
                    f"node rank {slot.node_rank}",
                    found=f"GPU {errors.shown(gpu)} twice, in node "
                    f"rank{'s' if len(ranks) > 1 else ''} {' and '.join(map(str, ranks))}",
                    expected="each GPU once",
                    advice="have each of the trainer's pods publish its own GPUs, by its own rank",
                )
                return
