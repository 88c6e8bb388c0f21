"""Which GPUs a trainer has, by node rank: one model of what it publishes and of what is written by
hand.  Pure.

A GPU is known by its UUID.  Its number on a node is not the same in every container: a trainer may
have four of eight, or be several pods of one node.
"""

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sglang_operator.api import bounds, errors, names, syntax
from sglang_operator.api.problems import Problem, kind

if TYPE_CHECKING:  # a trainer, which publishes them, reads no spec
    from sglang_operator.api.spec import GivenSlot

# What a trainer may have on one node rank, how long what it publishes of that may be (so many
# UUIDs, and the longest names), and of how many node ranks it may say so.
MOST_GPUS = 64
MOST_WRITTEN = 4096
MOST_SLOTS = 1024
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
    # Of those, why nobody stands by it now: nothing that it says disagrees with anything.
    absent: Mapping[int, str] = field(default_factory=dict)
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
        problems += [*_misnamed(slot, f"{at}.node"), *_miscounted(slot, f"{at}.gpus")]
    return Slots(slots=found, problems=tuple(problems or _shared(found.values())))


def published(
    data: Mapping[str, str],
    where: str,
    ranks: Container[int] | None = None,
    absent: Callable[[Slot], str] = lambda _: "",
) -> Slots:
    """The slots that a trainer has published in a ConfigMap; ``where`` names that.

    ``ranks``: the node ranks that are asked for; None: all.  ``absent``: why nobody stands by a
    slot any more; a trainer never takes one back.

    Whoever may write there is not trusted, and it is read in each pass: no more is looked at than
    the first that is wrong, and each slot is read once.
    """
    keys = {rank: key for key in data if (rank := names.slot_of(key)) is not None}
    if ranks is not None:
        keys = {rank: key for rank, key in keys.items() if rank in ranks}
    if len(keys) > MOST_SLOTS:
        return Slots(problems=(_too_many(where, len(keys)),))
    found, left = dict[int, Slot](), dict[int, str]()
    for node_rank, key in sorted(keys.items()):
        slot, problem = _read(node_rank, data[key], f"{where}, {key}")
        if slot is not None:
            found[node_rank] = slot
            if why := absent(slot):
                left[node_rank] = why
                continue
        if problem is not None:
            return Slots(slots=found, absent=left, problems=(problem,))
    there = (slot for rank, slot in found.items() if rank not in left)
    return Slots(slots=found, absent=left, problems=tuple(_shared(there)))


def _too_many(where: str, count: int) -> Problem:
    return errors.SLOTS(
        where,
        found=f"{count} slots",
        expected=f"at most {MOST_SLOTS}, one for each of the trainer's nodes",
        advice="remove those that are no node rank's of this trainer",
    )


def _read(node_rank: int, text: str, at: str) -> tuple[Slot | None, Problem | None]:
    """The slot, where there is one, and the first that is wrong with it."""
    if len(text) > MOST_WRITTEN:
        return None, _unreadable(at, f"{len(text)} characters")
    return _judged(node_rank, text, at)


def read(node_rank: int, text: str) -> Slot | None:
    """The slot in what was published of this node rank; None where something is wrong with it."""
    slot, problem = _read(node_rank, text, "")
    return slot if problem is None else None


@lru_cache(maxsize=MOST_SLOTS)
def _judged(node_rank: int, text: str, at: str) -> tuple[Slot | None, Problem | None]:
    slot = _parsed(node_rank, text)
    if not isinstance(slot, Slot):
        return None, _unreadable(at, slot)
    # There is no pod of a name that is none: the slot is nobody's, and its name is not repeated.
    unnamed = next(_misnamed(slot, at), None)
    return (None, unnamed) if unnamed else (slot, next(_miscounted(slot, at), None))


def _unreadable(at: str, found: str) -> Problem:
    return errors.SLOTS(
        at,
        found=found,
        expected='{"node": "…", "pod": "…", "uid": "…", "gpus": ["GPU-…"]}',
        advice="publish it by sglang_operator.client.slots",
    )


def written(slot: Slot) -> str:
    """A slot as a trainer publishes it."""
    told: dict[str, object] = {"node": slot.node, "pod": slot.pod, "uid": slot.uid}
    if slot.user is not None:
        told["user"] = slot.user
    return json.dumps({**told, "gpus": list(slot.gpus)})


def _parsed(node_rank: int, text: str) -> Slot | str:
    """The slot, or what stands there instead."""
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


def _misnamed(slot: Slot, where: str) -> Iterator[Problem]:
    for name, text in (("node", slot.node), ("pod", slot.pod)):
        if text and not syntax.is_subdomain(text):
            yield errors.SLOTS(
                where,
                found=f"the {name} {errors.shown(text)}",
                expected=f"the name of a {name}, {syntax.SUBDOMAIN}",
                advice="correct it",
            )


def _miscounted(slot: Slot, where: str) -> Iterator[Problem]:
    if not 0 < len(slot.gpus) <= MOST_GPUS:
        yield errors.SLOTS(
            where,
            found=f"{len(slot.gpus)} GPUs for node rank {slot.node_rank}",
            expected=f"1 to {MOST_GPUS}",
            advice="write the UUID of each",
        )
        return  # of any number, none is worth a look
    wrong = next((gpu for gpu in slot.gpus if not _GPU.fullmatch(gpu)), None)
    if wrong is not None:
        yield errors.SLOTS(
            where,
            found=f"the GPU {errors.shown(wrong)}",
            expected=f"{GPU_UUID}; parts of a card (MIG) cannot be shared so",
            advice="write the UUID of a whole card",
        )


def _shared(found: Iterable[Slot]) -> Iterator[Problem]:
    """The first GPU that would be two; of slots that are right by themselves."""
    owners = dict[str, int]()
    for slot in found:
        for gpu in slot.gpus:
            if gpu in owners:
                ranks = sorted({owners[gpu], slot.node_rank})
                yield errors.SLOTS(
                    f"node rank {slot.node_rank}",
                    found=f"GPU {errors.shown(gpu)} twice, in node "
                    f"rank{'s' if len(ranks) > 1 else ''} {' and '.join(map(str, ranks))}",
                    expected="each GPU once",
                    advice="have each of the trainer's pods publish its own GPUs, by its own rank",
                )
                return
            owners[gpu] = slot.node_rank
