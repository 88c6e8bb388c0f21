"""A trainer with a GPU of its own, in a pod: it sends two steps' weights to the engines by NCCL.

It runs in SGLang's environment, by its file, and imports of the kit at most what stands in for
NCCL.  It is told by the environment: POOL, CHECKPOINT (with {step} for the step's number), STEPS
(their numbers), POD_IP, and STAND_IN where engines are fakes.  Each sync is a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sglang_operator.client import Pool

PORT = 29611
READY_SECONDS = 120.0
GROUP_SECONDS = 120.0  # the first that a process forms loads NCCL
UPDATE_SECONDS = 60.0


class Sender(Protocol):
    """Rank 0 of the group, and what it sends."""

    def load(self, folder: Path) -> Mapping[str, Any]:
        """The tensors of a checkpoint by name."""

    def form(self, plan: Any) -> None:
        """Join the group; returns when every engine has."""

    def broadcast(self, tensors: Mapping[str, Any], version: str) -> None:
        """Send every tensor to all engines."""


class Nccl:
    """torch.distributed over NCCL, from one of the cards that this process sees."""

    def __init__(self, card: int = 0) -> None:
        import torch
        from sglang.srt.utils import init_custom_process_group

        self._torch = torch
        self._join = init_custom_process_group
        self._group: Any = None
        self._card = card

    def load(self, folder: Path) -> Mapping[str, Any]:
        from safetensors.torch import load_file

        loaded: Mapping[str, Any] = load_file(
            folder / "model.safetensors", device=f"cuda:{self._card}"
        )
        return loaded

    def form(self, plan: Any) -> None:
        self._group = self._join(
            backend=plan.backend,
            init_method=f"tcp://{plan.master_address}:{plan.master_port}",
            world_size=plan.world_size,
            rank=0,
            group_name=plan.group_name,
        )

    def broadcast(self, tensors: Mapping[str, Any], version: str) -> None:
        for tensor in tensors.values():
            self._torch.distributed.broadcast(tensor, src=0, group=self._group)
        self._torch.cuda.synchronize(self._card)


class StandIn:
    """What fake engines take for it."""

    def __init__(self) -> None:
        from sglang_operator.testing.engine import rendezvous, weights

        self._rendezvous = rendezvous
        self._names = weights.names
        self._trainer: Any = None

    def load(self, folder: Path) -> Mapping[str, Any]:
        layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
        return dict.fromkeys(self._names(layers), StandInTensor())

    def form(self, plan: Any) -> None:
        self._trainer = self._rendezvous.Trainer(
            plan.world_size, host=plan.master_address, port=plan.master_port
        ).__enter__()
        self._trainer.wait(GROUP_SECONDS)

    def broadcast(self, tensors: Mapping[str, Any], version: str) -> None:
        self._trainer.broadcast(list(tensors), version)


class StandInTensor:
    """What is told of a tensor before it is sent."""

    dtype = "torch.bfloat16"
    shape = (1,)


def sync(pool: Pool, sender: Sender, version: str, folder: Path, plan: Any) -> tuple[Any, Any]:
    """One sync by a group, which is formed where there is no plan yet; the plan and seconds."""
    tensors, marks = sender.load(folder), {"start": time.monotonic()}
    epoch = None if plan is None else plan.epoch
    with pool.sync(version, epoch=epoch) as running:
        marks["begin"] = time.monotonic()
        if plan is None:
            plan = running.nccl_plan(os.environ["POD_IP"], PORT)
            joined = running.submit("init_weights_update_group", plan, timeout=GROUP_SECONDS)
            sender.form(plan)
            joined.result(GROUP_SECONDS)
        marks["group"] = time.monotonic()
        taken = running.submit(
            "update_weights_from_distributed",
            list(tensors),
            [str(tensor.dtype) for tensor in tensors.values()],
            [list(tensor.shape) for tensor in tensors.values()],
            group_name=plan.group_name,
        )
        sender.broadcast(tensors, version)
        taken.result(UPDATE_SECONDS)
        marks["update"] = time.monotonic()
    marks["commit"] = time.monotonic()
    pool.wait_synced(version, UPDATE_SECONDS)
    marks["gates"] = time.monotonic()
    return plan, laps(marks)


def laps(marks: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each moment to the next, by the name of the next."""
    return {
        later: round(marks[later] - marks[sooner], 4) for sooner, later in itertools.pairwise(marks)
    }


def main() -> None:
    """Sync every step that is asked for; what fails ends the process with its traceback."""
    sender: Sender = StandIn() if os.environ.get("STAND_IN") else Nccl()
    plan: Any = None
    with Pool(os.environ["POOL"]) as pool:
        pool.wait_ready(READY_SECONDS)
        for number in os.environ["STEPS"].split(","):
            folder = Path(os.environ["CHECKPOINT"].format(step=number))
            plan, seconds = sync(pool, sender, f"step-{number}", folder, plan)
            print(json.dumps({"step": int(number), **seconds}), flush=True)


if __name__ == "__main__":
    main()
