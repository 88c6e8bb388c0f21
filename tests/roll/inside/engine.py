"""``python -m tests.roll.inside.engine``: the project's fake engine, in real process groups.

For each answer it also writes a line to the file ``ROLL_LEDGER``, or to its log: from which weights
that answer came.
"""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_operator.testing.engine import __main__ as fake
from sglang_operator.testing.engine import api, commands, generation, rendezvous, server
from tests.roll.inside import groups


class Commands(commands.Commands):
    """A bucket's tensors are received in the form that its request announces."""

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
    for place, name, made in (
        (rendezvous, "join", groups.join),
        (server, "Commands", Commands),
        (api, "Generation", Generation),
    ):
        setattr(place, name, made)
    fake.main()


if __name__ == "__main__":
    main()
