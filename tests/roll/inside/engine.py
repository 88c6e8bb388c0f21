"""``python -m tests.roll.inside.engine``: the project's fake engine, in real process groups.

It also writes a line to the file ``ROLL_LEDGER`` for each answer: from which weights it came.
"""

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
    """Every answer is written down."""

    def _answer(self, request: Any, begun: float, logprobs: bool = False) -> dict[str, Any]:
        answer = super()._answer(request, begun, logprobs)
        if request.finished.done():
            _write(answer)
        return answer


def _write(answer: Mapping[str, Any]) -> None:
    about = answer["meta_info"]
    line = {
        "rid": about["id"],
        "reason": about["finish_reason"]["type"],
        "version": about.get("weight_version"),
        "tokens": len(answer["output_ids"]),
        **answer["fake_weights"],
    }
    with Path(os.environ["ROLL_LEDGER"]).open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    for place, name, made in (
        (rendezvous, "join", groups.join),
        (server, "Commands", Commands),
        (api, "Generation", Generation),
    ):
        setattr(place, name, made)
    fake.main()
