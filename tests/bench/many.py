"""Many small pools at once: how long until all have their pods, and whether one waits longer."""

from __future__ import annotations

import asyncio
import statistics
import time

import orjson

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from tests.bench.contenders import a_spec
from tests.bench.figures import Figure
from tests.bench.seen import Seen, watching

ENGINES = 4
SUBMITTERS = 16


async def measure(plane: ControlPlane, client: ApiClient, pools: int) -> list[Figure]:
    """No targets: reported."""
    namespace = plane.namespace("many")
    asked: dict[str, float] = {}
    async with watching(client, namespace) as seen:
        begun = time.perf_counter()
        numbers = iter(range(pools))

        async def submit() -> None:
            for number in numbers:
                name = f"pool-{number}"
                body = {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "metadata": {"name": name},
                    "spec": a_spec(ENGINES),
                }
                asked[name] = time.perf_counter()
                await client.request("POST", paths.pools(namespace), body=orjson.dumps(body))

        await asyncio.gather(*(submit() for _ in range(SUBMITTERS)))
        submitted = time.perf_counter() - begun
        await seen.until(lambda: len(seen.created) >= pools * ENGINES, "all pods")
        took = max(seen.created.values()) - begun
        waits = _waits(seen, asked)
    await client.request("DELETE", paths.pools(namespace), timeout=300)
    head = f"{pools} pools × {ENGINES}:"
    slowest = max(waits) / statistics.median(waits)
    return [
        Figure(name=f"{head} objects submitted", values=[submitted], unit="s"),
        Figure(name=f"{head} all pods created", values=[took], unit="s"),
        Figure(name=f"{head} a pool complete, median", values=[statistics.median(waits)], unit="s"),
        Figure(name=f"{head} slowest pool : median", values=[slowest], unit="×"),
    ]


def _waits(seen: Seen, asked: dict[str, float]) -> list[float]:
    """Seconds from each pool's creation to its last pod's."""
    complete: dict[str, float] = {}
    for uid, at in seen.created.items():
        owner = seen.owners[uid]
        complete[owner] = max(at, complete.get(owner, 0.0))
    return [complete[name] - at for name, at in asked.items()]
