"""Who holds which memory of which GPU, and when: trainers and engines write it down as it changes.

There is no GPU here: what is counted is what ROLL's trainers have loaded and not offloaded, and
what the engines have not released.  All on one machine, by one clock.
"""

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

LEDGER = "ROLL_MEMORY"
SAID = "MEMORY "
TRAINER, ENGINE = "trainer", "engine"
KV_CACHE = "kv_cache"
UPDATE = "/model_update"  # how ROLL's name for that phase ends
GPUS_PER_NODE = 8


def note(
    who: str, process: str, ids: Iterable[int], holds: Collection[str], phase: str = ""
) -> None:
    """This process holds this memory of these GPUs from now on: into the ledger, or a container's
    log."""
    line = {"at": time.monotonic(), "who": who, "process": process, "ids": list(ids)}
    text = json.dumps({**line, "holds": sorted(holds), "phase": phase})
    path = os.environ.get(LEDGER)
    if path is None:
        print(f"{SAID}{text}", flush=True)
        return
    with Path(path).open("a") as ledger:
        ledger.write(text + "\n")


def uuid(node_rank: int, index: int) -> str:
    """That of a GPU of these tests."""
    return f"GPU-{node_rank:08x}-0000-0000-0000-{index:012x}"


def pod(node_rank: int) -> dict[str, str]:
    """What a pod of the trainer has in its environment where engines join it (how-to/colocate.md):
    who it is, and its GPUs."""
    gpus = [uuid(node_rank, index) for index in range(GPUS_PER_NODE)]
    return {
        "NODE_NAME": f"gpu-{node_rank}",
        "POD_NAME": f"trainer-{node_rank}",
        "POD_UID": f"5f0c1c54-0000-4000-8000-{node_rank:012x}",
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpus),
    }


def ids(uuids: Iterable[str]) -> list[int]:
    """ROLL's ids of these GPUs."""
    parts = (each.split("-") for each in uuids)
    return [int(node, 16) * GPUS_PER_NODE + int(index, 16) for _, node, *_, index in parts]


def counted(lines: Iterable[str]) -> dict[str, int]:
    """How often a trainer took memory, and how often it and an engine came to hold too much of one
    GPU together.

    Too much: ROLL's trainer keeps its parameters in a model update, beside the weights that it
    writes into, and no KV cache then; at any other time nothing of the engine's.
    """
    holders: dict[str, Mapping[str, Any]] = {}
    turns, moments, known = 0, 0, set[tuple[str, str, int]]()
    for event in sorted(map(json.loads, lines), key=lambda each: float(each["at"])):
        before = holders.get(event["process"])
        holders[event["process"]] = event
        took = bool(event["holds"]) and not (before and before["holds"])
        turns += event["who"] == TRAINER and took
        now = set(_together(holders.values()))
        moments += len(now - known)
        known = now
    return {"turns": turns, "moments": moments}


def _together(holders: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str, int]]:
    holders = [each for each in holders if each["holds"]]
    for trainer in (each for each in holders if each["who"] == TRAINER):
        for engine in (each for each in holders if each["who"] == ENGINE):
            if trainer["phase"].endswith(UPDATE) and KV_CACHE not in engine["holds"]:
                continue
            for gpu in {*trainer["ids"]} & {*engine["ids"]}:
                yield trainer["process"], engine["process"], gpu
