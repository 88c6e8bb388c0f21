"""Pools at rest: what they ask of the API server in a minute."""

from __future__ import annotations

import asyncio
import datetime

from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from tests.bench.contenders import Contender
from tests.bench.figures import Figure
from tests.bench.seen import watching

POOLS, ENGINES = 10, 4
SECONDS = 60.0
SETTLE_SECONDS = 5.0


async def measure(
    plane: ControlPlane, client: ApiClient, ours: Contender, user: str
) -> list[Figure]:
    """Requests of the operator per pool in an idle minute, the Lease apart."""
    spaces = [plane.namespace(f"rest-{number}") for number in range(POOLS)]
    async with watching(client, "") as seen:
        for space in spaces:
            await ours.start(client, space, ENGINES)

        def up() -> bool:
            return sum(seen.namespaces[uid] in spaces for uid in seen.up) >= POOLS * ENGINES

        await seen.until(up, "the pools up")
    await asyncio.sleep(SETTLE_SECONDS)
    since = datetime.datetime.now(datetime.UTC)
    await asyncio.sleep(SECONDS)
    asked = [e for e in plane.audit(user=user, since=since) if e.resource != "leases"]
    # A watch is begun anew every five to ten minutes, for all pools together.
    asked = [e for e in asked if e.verb != "watch"]
    for space in spaces:
        await ours.clean(client, space)
        plane.kubectl("delete", "namespace", space, "--wait=false")
    name = "requests per pool and idle minute"
    return [Figure(name=name, values=[len(asked) / POOLS], most=0.0)]
