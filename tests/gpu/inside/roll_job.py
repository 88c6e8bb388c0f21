"""A job of ROLL's in a pod: the operator's strategy, called as ROLL's workers call it, by HTTP.

For each engine there are one inference worker, and one rank of the trainer on another card, which
broadcasts to it: NCCL wants the members of a group on cards of their own.  ROLL's interface is the
table of ``tests/roll_interface.py``.  Jobs are POST / with ``by`` "setup", or "update" with the
``folder`` of the weights; the answer has the seconds of each part, and of an update which tensors
of the engines are not the trainer's, by SGLang's own checksum.
"""

import asyncio
import importlib
import os
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from http.server import HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sglang_operator.testing.gpu import broadcast
from tests import roll_interface
from tests.gpu.inside import checksums
from tests.gpu.inside.trainer import PORT, STAND_IN, Handler

BUCKETS = 3


class Job:
    """The workers of one job, on a loop of their own."""

    def __init__(self, engines: Sequence[str]) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._senders = [sender(uuid) for uuid in engines]
        roll = _roll()
        ranks = range(len(engines))
        self._workers = [roll.OperatorPoolStrategy(worker(rank, len(engines))) for rank in ranks]
        self._groups = [f"actor_train-actor_infer_{rank}" for rank in ranks]

    def sync(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for; raises PoolError."""
        work = self._setup() if job["by"] == "setup" else self._update(Path(job["folder"]))
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _setup(self) -> dict[str, Any]:
        begun = time.monotonic()
        await _together(each.initialize() for each in self._workers)
        attached = time.monotonic()
        address = os.environ["POD_IP"]
        for rank, (strategy, sender) in enumerate(zip(self._workers, self._senders, strict=True)):
            plan = SimpleNamespace(
                backend="nccl",
                master_address=address,
                master_port=broadcast.PORT + rank,
                world_size=2,
                group_name=self._groups[rank],
            )
            joins = strategy.setup_collective_group(
                address, plan.master_port, 1, plan.world_size, plan.group_name
            )
            await _together([joins, asyncio.to_thread(sender.form, plan)])
        return {"initialize": attached - begun, "groups": time.monotonic() - attached}

    async def _update(self, folder: Path) -> dict[str, Any]:
        """As ROLL's weight updaters and its pipeline do it, bucket by bucket."""
        loaded = [sender.load(folder) for sender in self._senders]
        begun = time.monotonic()
        names = list(loaded[0])
        for index in range(BUCKETS):
            bucket = names[index::BUCKETS]
            calls: list[Awaitable[Any]] = []
            for rank, tensors in enumerate(loaded):
                part = {name: tensors[name] for name in bucket}
                calls.append(self._broadcast(rank, part))
                send = self._senders[rank].broadcast
                calls.append(asyncio.to_thread(send, part, f"bucket-{index}"))
            await _together(calls)
        written = time.monotonic()
        await _together(each.process_weights_after_loading() for each in self._workers)
        await _together(each.load_states() for each in self._workers)
        seconds = {"buckets": written - begun, "commit": time.monotonic() - written}
        return {**seconds, "tensors": self._compared(loaded)}

    def _broadcast(self, rank: int, part: Mapping[str, Any]) -> Awaitable[None]:
        dtypes = [tensor.dtype for tensor in part.values()]
        shapes = [tuple(tensor.shape) for tensor in part.values()]
        told: Awaitable[None] = self._workers[rank].broadcast_parameter(
            list(part), dtypes, shapes, self._groups[rank]
        )
        return told

    def _compared(self, loaded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each engine how many tensors it has, and which are not the trainer's."""
        if STAND_IN:
            return []  # it has no tensors
        return [
            checksums.compared(strategy.get_url(), tensors)
            for strategy, tensors in zip(self._workers, loaded, strict=True)
        ]


def _roll() -> ModuleType:
    changes = pytest.MonkeyPatch()
    roll_interface.make_importable(changes)
    roll = importlib.import_module(roll_interface.STRATEGY)
    changes.setattr(roll.OperatorPoolStrategy, "_tokenizer", lambda _: None)
    return roll


def worker(rank: int, size: int) -> SimpleNamespace:
    """What the strategy asks of ROLL's worker."""
    strategy = SimpleNamespace(strategy_config={"pool": os.environ["POOL"]})
    return SimpleNamespace(
        rank=rank,
        world_size=size,
        cluster_name="actor_infer",
        master_addr=os.environ["POD_IP"],
        master_port=broadcast.PORT - 1,
        worker_config=SimpleNamespace(strategy_args=strategy, offload_nccl=False),
        pipeline_config=SimpleNamespace(is_actor_infer_colocated=False),
    )


def sender(engine: str) -> broadcast.Sender:
    """A rank of the trainer on a card that is not this engine's."""
    if STAND_IN:
        return broadcast.StandIn()
    import torch

    cards = range(torch.cuda.device_count())
    uuids = {card: f"GPU-{torch.cuda.get_device_properties(card).uuid}" for card in cards}
    card = next(card for card in cards if uuids[card] != engine)
    torch.zeros(1, device=f"cuda:{card}")  # the first use of a card takes seconds
    return broadcast.Nccl(card)


async def _together(calls: Any) -> None:
    """All of them; the first error once all have ended, as far as they can."""
    for found in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found


def main() -> None:
    """Serve until the pod's end."""
    Handler.trainer = Job(os.environ["ENGINE_CARDS"].split(","))
    print("the job is up", flush=True)
    HTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
