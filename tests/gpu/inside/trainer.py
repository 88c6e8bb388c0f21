"""A trainer in a pod with a GPU, which syncs as it is told over HTTP: POST / with a job as JSON.

It runs in SGLang's environment, by its file.  A job has ``by`` (tensor, group or disk), ``step``,
``pause`` and ``folder``; the answer has the seconds of each part, or the error's type and text.
"""

import http.server
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sglang_operator.client import Pool, PoolError
from sglang_operator.testing.gpu import broadcast

PORT = 8000
STAND_IN = bool(os.environ.get("STAND_IN"))


def handles(tensors: Mapping[str, Any], device: str) -> str:
    """Tensors as SGLang takes them over on the same GPU; in a stand-in, whose they are."""
    if STAND_IN:
        from sglang_operator.testing.engine import weights

        return weights.bucket(None, "handed over", device=device)
    from sglang.srt.utils import MultiprocessingSerializer
    from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

    monkey_patch_torch_reductions()
    said: str = MultiprocessingSerializer.serialize(list(tensors.items()), output_str=True)
    return said


class Trainer:
    """One pool's, with the group that it keeps."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sender: broadcast.Sender = broadcast.StandIn() if STAND_IN else broadcast.Nccl()
        self._plan: Any = None

    def sync(self, job: Mapping[str, Any]) -> dict[str, float]:
        """One sync; raises PoolError."""
        way: Callable[..., Any] = getattr(self, f"_by_{job['by']}")
        folder, version = Path(job["folder"]), f"step-{job['step']}"
        tensors = {} if job["by"] == "disk" else self._sender.load(folder)
        marks = {"start": time.monotonic()}
        with self._pool.sync(version, pause=job["pause"]) as sync:
            marks["begin"] = time.monotonic()
            way(sync, folder, tensors, version, marks)
            marks["update"] = time.monotonic()
        marks["commit"] = time.monotonic()
        self._pool.wait_synced(version, broadcast.UPDATE_SECONDS)
        marks["gates"] = time.monotonic()
        return {**broadcast.laps(marks), "total": round(marks["gates"] - marks["start"], 4)}

    def _by_disk(self, sync: Any, folder: Path, *_: object) -> None:
        sync.update_weights_from_disk(str(folder))

    def _by_tensor(self, sync: Any, folder: Path, tensors: Mapping[str, Any], *_: object) -> None:
        said = handles(tensors, os.environ.get("DEVICE", ""))
        ranks = max(engine.gpus for engine in sync.engines)
        sync.update_weights_from_tensor(
            {"serialized_named_tensors": [said] * ranks}, timeout=broadcast.UPDATE_SECONDS
        )

    def _by_group(
        self,
        sync: Any,
        folder: Path,
        tensors: Mapping[str, Any],
        version: str,
        marks: dict[str, float],
    ) -> None:
        if self._plan is None or self._plan.epoch != sync.epoch:
            plan = sync.nccl_plan(os.environ["POD_IP"], broadcast.PORT)
            joined = sync.submit("init_weights_update_group", plan, timeout=broadcast.GROUP_SECONDS)
            self._sender.form(plan)
            joined.result(broadcast.GROUP_SECONDS)
            self._plan = plan
        marks["group"] = time.monotonic()
        taken = sync.submit(
            "update_weights_from_distributed",
            list(tensors),
            [str(tensor.dtype) for tensor in tensors.values()],
            [list(tensor.shape) for tensor in tensors.values()],
            group_name=self._plan.group_name,
        )
        self._sender.broadcast(tensors, version)
        taken.result(broadcast.UPDATE_SECONDS)


class Handler(http.server.BaseHTTPRequestHandler):
    """Job by job: the trainer's thread is the only one."""

    trainer: Any  # its ``sync`` does a job

    def do_POST(self) -> None:
        """Do a job."""
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            answer: dict[str, Any] = {"seconds": self.trainer.sync(job)}
        except (PoolError, RuntimeError, OSError, TimeoutError) as error:
            answer = {"error": type(error).__name__, "text": str(error)[:2000]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Whether it is up."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: jobs tell of themselves."""


def main() -> None:
    """Serve until the pod's end."""
    if not STAND_IN:
        import torch

        torch.zeros(1, device="cuda:0")  # the first use of a card takes seconds
    with Pool(os.environ["POOL"]) as pool:
        Handler.trainer = Trainer(pool)
        print("the trainer is up", flush=True)
        http.server.HTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
