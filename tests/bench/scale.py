"""Many pods: memory, the time to start, and what an event costs in a small and a large pool.

No scheduler and no kubelets: the pods stay Pending, and only the operator and the API server work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.bench.contenders import NAME, Ours, a_spec
from tests.bench.figures import Figure, ratio
from tests.bench.seen import Seen, watching

SMALL, LARGE = 10, 4096  # the definition allows no more engines in a pool
EVENTS = 1500
PER_SECOND = 150.0
POOL = 1000
STRATEGIC = "application/strategic-merge-patch+json"
SETTLE_SECONDS = 3.0
QUIET_SHARE, QUIET_MOST = 0.02, 120.0  # of a core, and seconds until it must be so

Patch = Callable[[int], dict[str, object]]


def chatter(number: int) -> dict[str, object]:
    """What kubelet writes all the time, and no decision depends on."""
    return {
        "conditions": [{"type": "PodScheduled", "status": "False", "lastProbeTime": _at(number)}]
    }


def flips(number: int) -> dict[str, object]:
    """Containers that become ready, and not ready again."""
    state = ("True", "False")[number // 20 % 2]
    return {"conditions": [{"type": "ContainersReady", "status": state}]}


def _at(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + number))


async def event_cost(
    plane: ControlPlane, client: ApiClient, ours: Ours, size: int, patch: Patch
) -> float:
    """Milliseconds of the operator's CPU per event, at so many events a second."""
    namespace = plane.namespace(f"events-{size}-{patch.__name__}")
    async with watching(client, namespace) as seen:
        await ours.start(client, namespace, size)
        await seen.until(lambda: len(seen.created) >= size, "the pods created")
    await _quiet(ours)
    chosen = [seen.names[uid] for uid in list(seen.created)[:SMALL]]
    used = ours.cpu()
    await _paced(EVENTS, lambda n: _patch(client, namespace, chosen[n % SMALL], patch(n)))
    await asyncio.sleep(SETTLE_SECONDS)
    used = ours.cpu() - used
    await ours.clean(client, namespace)
    await _gone(plane, client, namespace)
    return 1000 * used / EVENTS


async def _quiet(ours: Ours) -> None:
    """Wait until what came before is worked off, as the operator's CPU shows."""
    async with asyncio.timeout(QUIET_MOST):
        while True:
            used = ours.cpu()
            await asyncio.sleep(SETTLE_SECONDS)
            if ours.cpu() - used < QUIET_SHARE * SETTLE_SECONDS:
                return


async def _patch(client: ApiClient, namespace: str, name: str, status: object) -> None:
    path = paths.pod(namespace, name) + "/status"
    body = orjson.dumps({"status": status})
    await client.request("PATCH", path, body=body, content_type=STRATEGIC)


async def _paced(count: int, send: Callable[[int], Awaitable[None]]) -> None:
    """Send so many at the bench's rate; slower if the API server is."""
    begun, under_way = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(count):
        wait = begun + number / PER_SECOND - time.monotonic()
        await asyncio.sleep(max(0.0, wait))
        while len(under_way) >= 16:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        under_way.add(asyncio.create_task(send(number)))  # type: ignore[arg-type]
    await asyncio.gather(*under_way)


async def _gone(plane: ControlPlane, client: ApiClient, namespace: str) -> None:
    options = orjson.dumps({"gracePeriodSeconds": 0})
    await client.request("DELETE", paths.pods(namespace), body=options, timeout=300)
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


async def events(plane: ControlPlane, client: ApiClient, ours: Ours, rounds: int) -> list[Figure]:
    """An event's cost in a small and in a large pool."""
    found = []
    for patch in (chatter, flips):
        costs: dict[int, list[float]] = {SMALL: [], LARGE: []}
        for _ in range(rounds):
            for size, values in costs.items():
                values.append(await event_cost(plane, client, ours, size, patch))
                print(f"  {patch.__name__} in {size} pods: {values[-1]:.3f} ms", flush=True)
        what = {"chatter": "without news", "flips": "that flips an engine"}[patch.__name__]
        name = f"CPU per pod event {what}, pool of"
        found += [Figure(name=f"{name} {n}", values=v, unit="ms") for n, v in costs.items()]
        # What changes an engine is told in status and registry, which are as long as the pool.
        target = 1.2 if patch is chatter else None
        found.append(ratio(f"{name} {LARGE} : {SMALL}", costs[LARGE], costs[SMALL], most=target))
    return found


async def memory(
    plane: ControlPlane, client: ApiClient, operator: InstalledOperator, most: int
) -> list[Figure]:
    """Resident memory at 0, 1,000 and ``most`` pods, and a start with all of them."""
    found = []
    namespace = plane.namespace("memory")
    async with watching(client, namespace) as seen:
        for count in (0, POOL, most):
            await _grow(client, namespace, seen, count)
            await asyncio.sleep(SETTLE_SECONDS)
            found.append(_memory(plane, operator, count, "grown"))
    begun, starts = time.monotonic(), []
    for _ in range(3):
        operator.stop()
        begun = time.monotonic()
        operator.start()
        starts.append(time.monotonic() - begun)
    await asyncio.sleep(SETTLE_SECONDS)
    found.append(_memory(plane, operator, most, "started"))
    name = f"start to synced with {most} pods"
    found.append(Figure(name=name, values=starts, unit="s", most=5.0))
    return found


async def _grow(client: ApiClient, namespace: str, seen: Seen, count: int) -> None:
    while len(seen.created) < count:
        number = len(seen.created) // POOL
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": f"{NAME}-{number}"},
            "spec": a_spec(POOL),
        }
        await client.request("POST", paths.pools(namespace), body=orjson.dumps(body))
        there = POOL * (number + 1)
        await seen.until(lambda there=there: len(seen.created) >= there, f"{there} pods")  # type: ignore[misc]


def _memory(plane: ControlPlane, operator: InstalledOperator, count: int, how: str) -> Figure:
    megabytes = plane.rss()[operator.name] / 1e6
    print(f"  {count} pods, {how}: {megabytes:.0f} MB", flush=True)
    most = 128 if count <= POOL else 160
    return Figure(name=f"RSS at {count} pods, {how}", values=[megabytes], unit="MB", most=most)
