"""Two operators: from the end of the one that writes to the first write of the other."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import orjson

from sglang_operator.kube import paths
from sglang_operator.kube.client import MERGE_PATCH, ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import NAMESPACE, InstalledOperator
from tests.bench.contenders import NAME, Ours
from tests.bench.figures import Figure, percentile
from tests.bench.seen import watching

TARGETS = {signal.SIGTERM: 1.0, signal.SIGKILL: 17.0}  # seconds
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{0}/leases/sglang-operator"


async def measure(
    plane: ControlPlane, client: ApiClient, counts: dict[signal.Signals, int]
) -> list[Figure]:
    """Seconds to the first pod that the other creates; ``counts`` has the runs by signal."""
    pair = [InstalledOperator(plane, name=f"pair-{letter}") for letter in "ab"]
    for operator in pair:
        operator.start()
        await _held(plane)
    namespace = plane.namespace("failover")
    found = []
    async with watching(client, namespace) as seen:
        size = 4
        await Ours(plane, "").start(client, namespace, size)
        await seen.until(lambda: len(seen.created) >= size, "the pool")
        for number, target in TARGETS.items():
            times = []
            for _ in range(counts[number]):
                holder = next(o for o in pair if _holds(plane, o))
                size += 1
                before, begun = len(seen.created), time.perf_counter()
                os.kill(holder.pid or 0, number)
                await _scale(client, namespace, size)
                await seen.until(lambda n=before: len(seen.created) > n, "a pod")  # type: ignore[misc]
                times.append(time.perf_counter() - begun)
                plane.await_end(holder.name, 20)
                holder.start()
                await asyncio.sleep(0.5)
                print(f"  {number.name}: {times[-1]:.2f} s", flush=True)
            for share, label in ((0.5, "p50"), (0.99, "p99")):
                value = percentile(times, share)
                found.append(
                    Figure(
                        name=f"failover by {number.name}, {label} of {len(times)}",
                        values=[value],
                        unit="s",
                        most=target,
                    )
                )
        await Ours(plane, "").clean(client, namespace)
    for operator in pair:
        operator.stop()
    return found


def _holds(plane: ControlPlane, operator: InstalledOperator) -> bool:
    """By its log: the identity in the Lease is not told to the outside."""
    identity = plane.api.get(LEASE.format(NAMESPACE))["spec"]["holderIdentity"]
    return f" as {identity}" in operator.log.read_text(errors="replace")


async def _held(plane: ControlPlane) -> None:
    path = LEASE.format(NAMESPACE)
    plane.wait(
        lambda: plane.api.exists(path) and plane.api.get(path)["spec"].get("holderIdentity"),
        20,
        "a holder",
    )


async def _scale(client: ApiClient, namespace: str, size: int) -> None:
    body = orjson.dumps({"spec": {"replicas": size}})
    path = paths.pool(namespace, NAME)
    await client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
