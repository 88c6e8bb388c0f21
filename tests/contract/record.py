"""Records the scenarios on a real engine: ``python -m tests.contract.record FOLDER [NAME…]``.

``SGLANG_CONTRACT_VERSION`` and ``SGLANG_CONTRACT_COMMAND`` say which; several are asked at a time.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from sglang_operator.testing import ports
from tests.contract import scenarios
from tests.contract.subject import Subject
from tests.contract.targets import Target, command, targets

_AT_A_TIME = int(os.environ.get("SGLANG_CONTRACT_PARALLEL", "6"))
_ADDRESSES = re.compile(r"0x[0-9a-f]{6,}|/tmp/[\w./-]*site-packages|/tmp/site(?=/)")


def _gpu_bucket(name: str, value: float, device: str = "cuda:0") -> str:
    """One tensor on a GPU, serialised as SGLang's own trainers do it."""
    with warnings.catch_warnings(action="ignore"):  # of other people's sources
        import torch
        from sglang.srt.utils import MultiprocessingSerializer

    shape = (32000, 512) if name.startswith(("lm_head", "model.embed")) else (512,)
    tensor = torch.full(shape, value, dtype=torch.bfloat16, device=device)
    _kept.append(tensor)  # the engine reads it after this returns
    return str(MultiprocessingSerializer.serialize([(name, tensor)], output_str=True))


_kept: list[Any] = []


@contextlib.contextmanager
def _gpu_memory() -> Iterator[None]:
    """All that is free on the GPU, but for what is less than a step."""
    with warnings.catch_warnings(action="ignore"):
        import torch

    taken = []
    for step in (1 << 30, 1 << 25):
        with contextlib.suppress(torch.OutOfMemoryError):
            while True:
                taken.append(torch.empty(step, dtype=torch.uint8, device="cuda:0"))
    try:
        yield
    finally:
        taken.clear()
        torch.cuda.empty_cache()


class _GpuTrainer:
    """Rank 0 of a group over gloo: NCCL refuses two ranks on one GPU."""

    def __init__(self) -> None:
        self.port = ports.free()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._join, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _join(self) -> None:
        with warnings.catch_warnings(action="ignore"):
            from sglang.srt.utils import init_custom_process_group

        self._group = init_custom_process_group(
            backend="gloo",
            init_method=f"tcp://127.0.0.1:{self.port}",
            world_size=2,
            rank=0,
            group_name="g",
        )

    def wait(self, timeout: float) -> None:
        self._thread.join(timeout)

    def broadcast(self, names: list[str], stamp: str) -> None:
        import torch

        shape = (32000, 512) if names == ["lm_head.weight"] else (512,)
        tensor = torch.full(shape, float(stamp), dtype=torch.bfloat16, device="cuda")
        torch.distributed.broadcast(tensor, src=0, group=self._group)


async def _record(target: Target, name: str, folder: Path, slots: asyncio.Semaphore) -> None:
    scenario = scenarios.SCENARIOS[name]
    async with slots:
        found: dict[str, object] = {"version": str(target.version), "scenario": name}
        found["entries"] = await talk(target, scenario)
    text = _ADDRESSES.sub("…", json.dumps(found, indent=1, ensure_ascii=False))
    (folder / f"{target.version}-{name}.json").write_text(text + "\n")
    print(name, "done", flush=True)


async def talk(target: Target, scenario: scenarios.Scenario) -> list[scenarios.Entry]:
    """Start an engine, have the conversation, end it."""
    if scenario.alone:
        namespaces = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
        target = dataclasses.replace(target, command=namespaces + command(target))
    async with Subject(
        target, scenario.arguments, scenario.environment, base=scenario.base
    ) as engine:
        recorder = scenarios.Recorder(engine)
        try:
            await engine.ready()
            await scenario.talk(recorder)
        except Exception as error:  # what was seen until then is worth keeping
            seen = {"broke off": repr(error)[:500], "log_ends": engine.log[-2048:]}
            recorder.entries.append(seen)
        await recorder.close()
        return recorder.entries


def use_gpu_if_real() -> None:
    """Where the engine is a real one, its trainer has to be, too."""
    if targets()[0].real:
        scenarios.serialize = _gpu_bucket
        scenarios.serialize_elsewhere = partial(_gpu_bucket, device="cuda:1")
        scenarios.make_trainer = _GpuTrainer
        scenarios.take_memory = _gpu_memory


async def _all(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = targets()[0]
    slots = asyncio.Semaphore(_AT_A_TIME)
    await asyncio.gather(*(_record(target, name, folder, slots) for name in names))


if __name__ == "__main__":
    use_gpu_if_real()
    asyncio.run(_all(Path(sys.argv[1]), sys.argv[2:] or list(scenarios.SCENARIOS)))
