"""``python -m tests.roll.inside.engine``: the project's fake engine, in real process groups.

For each answer it also writes a line to the file ``ROLL_LEDGER``, or to its log: from which weights
that answer came.
"""

import base64
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing.engine import __main__ as fake
from sglang_operator.testing.engine import (
    api,
    commands,
    generation,
    rendezvous,
    server,
    weights,
)
from sglang_operator.testing.engine.behaviour import KV_CACHE, WEIGHTS
from sglang_operator.testing.engine.scheduler import SchedulerError
from tests.roll.inside import buckets, groups, memory


class Commands(commands.Commands):
    """A bucket's tensors are received in the form that its request announces, or opened.

    What memory it holds is written down as it changes: before it takes some, and once it has let go
    of it.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._note()

    def _note(self, beside: Collection[str] = ()) -> None:
        if not self._settings.devices:
            return  # nobody else is where it is
        ids = memory.ids(self._settings.devices.split(","))
        held = {WEIGHTS, KV_CACHE} - self.released | {*beside}
        memory.note(memory.ENGINE, f"engine {os.uname().nodename} {os.getpid()}", ids, held)

    def release(self, tags: Sequence[str] | None) -> None:
        super().release(tags)
        self._note()

    def resume(self, tags: Sequence[str] | None) -> None:
        self._note(beside=self._tags(tags))
        super().resume(tags)

    async def from_tensor(self, body: dict[str, Any]) -> commands.Outcome:
        """Each rank opens its own handle, of memory that the trainer's process has made."""
        handles, own = body["serialized_named_tensors"], self._settings.devices.split(",")
        assert len(handles) == len(own), "one for each rank"
        try:
            opened = [buckets.opened(handle) for handle in handles]
        except buckets.OwnNumberError as error:
            raise SchedulerError("CUDA error: invalid device context") from error
        except OSError as error:
            raise SchedulerError("CUDA error: mapping of buffer object failed") from error
        for (_, device, _), mine in zip(opened, own, strict=True):
            if device != mine:
                raise SchedulerError(f"Exception: Invalid device_uuid={device}")
        names, _, stamp = opened[0]
        if len({each[2] for each in opened}) > 1:
            stamp = "differs from rank to rank"
        return await super().from_tensor(
            {**body, "serialized_named_tensors": [weights.bucket(names, stamp)]}
        )

    async def from_distributed(self, body: dict[str, Any]) -> commands.Outcome:
        for group in self._groups.values():
            assert isinstance(group, groups.Group)
            group.told = body
        return await super().from_distributed(body)


class Generation(generation.Generation):
    """Every answer is written down, and tells experts where it is to."""

    def __init__(self, manager: Any, *rest: Any) -> None:
        super().__init__(manager, *rest)
        self._asked: dict[str, dict[str, Any]] = {}
        path = Path(manager.args.model_path, "config.json")
        config = json.loads(path.read_text()) if path.is_file() else {}
        self._layers = int(config.get("num_hidden_layers") or 0)
        self._chosen = int(config.get("num_experts_per_tok") or 0)

    def _requests(self, body: dict[str, Any]) -> list[Any]:
        requests = super()._requests(body)
        self._asked |= {request.rid: body for request in requests}
        return requests

    def _answer(self, request: Any, begun: float, logprobs: bool = False) -> dict[str, Any]:
        answer = super()._answer(request, begun, logprobs)
        body = self._asked.get(request.rid, {})
        if body.get("return_routed_experts"):  # of all tokens but the last
            tokens = len(request.prompt) + len(answer["output_ids"]) - 1
            experts = bytes(4 * max(0, tokens) * self._layers * self._chosen)
            answer["meta_info"]["routed_experts"] = base64.b64encode(experts).decode()
        if request.finished.done():
            self._asked.pop(request.rid, None)
            _write(answer, len(body.get("image_data") or ()))
        return answer


def _write(answer: Mapping[str, Any], pictures: int) -> None:
    about = answer["meta_info"]
    line = {
        "rid": about["id"],
        "reason": about["finish_reason"]["type"],
        "version": about.get("weight_version"),
        "tokens": len(answer["output_ids"]),
        "pictures": pictures,
        **answer["fake_weights"],
    }
    text = json.dumps(line)
    ledger = os.environ.get("ROLL_LEDGER")
    if ledger is None:  # a container's log
        print(f"ANSWER {text}", flush=True)
        return
    with Path(ledger).open("a") as answers:
        answers.write(text + "\n")


def main() -> None:
    """Serve, as ``python3 -m sglang.launch_server`` does."""
    if (gpus := os.environ.get("NVIDIA_VISIBLE_DEVICES", "")).startswith("GPU-"):
        os.environ.setdefault("FAKE_SGLANG_DEVICES", gpus)  # of a container on a trainer's GPUs
    for place, name, made in (
        (rendezvous, "join", groups.join),
        (server, "Commands", Commands),
        (api, "Generation", Generation),
    ):
        setattr(place, name, made)
    fake.main()


if __name__ == "__main__":
    main()
