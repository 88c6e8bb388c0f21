"""``python -m tests.bench.rawclient KUBECONFIG``: creates pods as fast as aiohttp can.

Orders come on stdin, one JSON object a line: a namespace and a size are prepared for and answered
with ``ready``; an empty one sends what was prepared.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import orjson

from sglang_operator.kube import credentials
from tests.bench.contenders import bodies

IN_FLIGHT = 32


async def create(session: aiohttp.ClientSession, url: str, prepared: list[bytes]) -> None:
    """Send all of them, 32 at a time."""
    queue: Iterator[bytes] = iter(prepared)

    async def work() -> None:
        for body in queue:
            async with session.post(url, data=body) as response:
                await response.read()
                assert response.status == 201, response.status

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def main(kubeconfig: Path) -> None:
    """Serve orders until stdin ends."""
    cluster = credentials.load(kubeconfig)
    headers = {"Content-Type": "application/json", "User-Agent": "bench-raw"}
    headers["Authorization"] = str(cluster.authorization())
    connector = aiohttp.TCPConnector(ssl=cluster.tls() if cluster.tls else True, limit=IN_FLIGHT)
    url, prepared = "", list[bytes]()
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if order:
                url = f"{cluster.server}/api/v1/namespaces/{order['namespace']}/pods"
                prepared = [orjson.dumps(b) for b in bodies(order["namespace"], order["size"])]
                print("ready", flush=True)
            else:
                await create(session, url, prepared)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
