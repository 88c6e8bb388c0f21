"""From a deleted pod to its replacement: the operator, a Deployment, and a bare script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import orjson

from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from tests.bench.contenders import Contender, bodies, delete_pods
from tests.bench.figures import Figure, percentile, ratio
from tests.bench.seen import Seen, watching

PODS = 8


class Bare(Contender):
    """The floor: as soon as a pod is seen to be deleted, another is created."""

    name = "bare script"

    def __init__(self) -> None:
        self._numbers = 0

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        for _ in range(size):
            await self._create(client, namespace)

    async def clean(self, client: ApiClient, namespace: str) -> None:
        await delete_pods(client, namespace)

    async def watch(self, client: ApiClient, namespace: str, seen: Seen) -> None:
        """Replace what goes, until cancelled."""
        answered: set[str] = set()
        while True:
            await seen.dying.wait()
            seen.dying.clear()
            for uid in seen.deleting - answered:
                answered.add(uid)
                await self._create(client, namespace)

    async def _create(self, client: ApiClient, namespace: str) -> None:
        self._numbers += 1
        body = bodies(namespace, 1)[0]
        body["metadata"] = {**body["metadata"], "name": f"bare-{self._numbers}"}
        await client.request("POST", paths.pods(namespace), body=orjson.dumps(body))


async def measure(
    plane: ControlPlane, client: ApiClient, contender: Contender, namespace: str, count: int
) -> list[float]:
    """Milliseconds from DELETE sent to the replacement seen, one deletion after another."""
    plane.namespace(namespace)
    async with watching(client, namespace) as seen:
        await contender.start(client, namespace, PODS)
        await seen.until(lambda: len(seen.up) >= PODS, "the pods up")
        helper = None
        if isinstance(contender, Bare):
            helper = asyncio.create_task(contender.watch(client, namespace, seen))
        times = [await _one(client, namespace, seen) for _ in range(count)]
        if helper:
            helper.cancel()
        await contender.clean(client, namespace)
    plane.kubectl("delete", "namespace", namespace, "--wait=false")
    return times


async def _one(client: ApiClient, namespace: str, seen: Seen) -> float:
    uid = next(uid for uid in seen.up if uid not in seen.gone)
    before, begun = len(seen.created), time.perf_counter()
    await client.request("DELETE", paths.pod(namespace, seen.names[uid]))
    await seen.until(lambda: len(seen.created) > before, "a replacement")
    took = 1000 * (max(seen.created.values()) - begun)
    await seen.until(lambda: uid in seen.gone and len(seen.up) > before, "the replacement up")
    return took


async def rounds(
    plane: ControlPlane,
    client: ApiClient,
    contenders: Sequence[Contender],
    rounds: int,
    count: int,
) -> dict[str, list[list[float]]]:
    """The times of each contender in each round."""
    times: dict[str, list[list[float]]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            namespace = f"again-{contender.name.replace(' ', '-')}-{number}"
            found = await measure(plane, client, contender, namespace, count)
            times[contender.name].append(found)
            print(f"  {contender.name:12} p50 {percentile(found, 0.5):.1f} ms", flush=True)
    return times


def figures(times: dict[str, list[list[float]]]) -> list[Figure]:
    """The lines of the table, with the targets."""
    found = []
    for share, label in ((0.5, "p50"), (0.99, "p99")):
        at = {who: [percentile(run, share) for run in runs] for who, runs in times.items()}
        name = f"deleted → replacement, {label}, ours :"
        found += [
            ratio(f"{name} bare script", at["ours"], at["bare script"], most=2.0),
            ratio(f"{name} Deployment", at["ours"], at["deployment"], most=1.0),
            *(
                Figure(name=f"deleted → replacement, {label}, {who}", values=runs, unit="ms")
                for who, runs in at.items()
            ),
        ]
    return found
