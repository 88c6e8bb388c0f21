"""Pods are tried in their namespace's turn."""

import asyncio
from typing import Any

from sglang_operator.cluster.client import Lane
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.trial import Trials
from sglang_operator.cluster.window import LIMIT, SLOW_OF_ONE
from sglang_operator.cluster.writer import Writer


class Client:
    """Dry runs in one namespace never end."""

    def __init__(self) -> None:
        self.hanging = 0

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        if "/hangs/" in path:
            self.hanging += 1
            await asyncio.Event().wait()
        return b"{}"


def test_tries_that_hang_are_their_namespaces_own_burden():
    """They took every connection: writes of all other pools waited half a minute."""

    async def story() -> int:
        client = Client()
        writer = Writer(client, Lane.WORK)  # type: ignore[arg-type]
        trials = Trials(client, writer)  # type: ignore[arg-type]
        tried = [asyncio.create_task(trials.pod(PoolKey("hangs", f"p{n}"), {})) for n in range(300)]
        await asyncio.sleep(0.7)  # they have given way
        async with asyncio.timeout(2):
            assert await trials.pod(PoolKey("well", "p"), {}) is None
            await writer.send("PATCH", "well", "/namespaces/well/x", {}, "", {})
        for task in tried:
            task.cancel()
        await asyncio.gather(*tried, return_exceptions=True)
        return client.hanging

    assert asyncio.run(story()) <= LIMIT + SLOW_OF_ONE
