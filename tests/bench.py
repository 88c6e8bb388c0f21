"""``make bench``: pods per second of one pool, as a ratio to a raw client in the same run.

The machine is noisy, so each round measures both, one after the other, on one control plane, and
only ratios within a round are compared.  Figures are printed, nothing is asserted.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.cluster import connection, informer, paths, wire
from sglang_operator.cluster.client import ApiClient
from sglang_operator.desired import engine_pod
from sglang_operator.planner.pool import Owner, Pool, plan_pool
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.builders import guide_spec

IN_FLIGHT = 32
GPUS_PER_NODE = 8
TIMEOUT = 300.0


@dataclass
class Seen:
    """What an independent watch has seen of the pods of a namespace."""

    created: dict[str, float] = field(default_factory=dict)
    up: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)
    dying: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def replace(self, scope: str, records: list[wire.Pod], version: int) -> None:
        for record in records:
            self.put(record)

    def put(self, record: wire.Pod) -> None:
        now, uid = time.perf_counter(), record.metadata.uid
        self.created.setdefault(uid, now)
        self.names[uid] = record.metadata.name
        if record.metadata.deletion_timestamp is not None:
            self.deleting.add(uid)
            self.dying.set()
        if any(
            c.type == "ContainersReady" and c.status == "True" for c in record.status.conditions
        ):
            self.up.setdefault(uid, now)
        self.changed.set()

    def drop(self, record: wire.Pod) -> None:
        self.deleting.add(record.metadata.uid)
        self.dying.set()
        self.gone.add(record.metadata.uid)
        self.changed.set()

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not check():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def watching(client: ApiClient, namespace: str) -> AsyncIterator[Seen]:
    seen = Seen()
    resource = informer.Resource(path=paths.pods(namespace), scope=namespace, name="bench")
    stream = informer.Informer(client, resource, wire.Pod, seen)
    task = asyncio.create_task(stream.run())
    await stream.synced.wait()
    try:
        yield seen
    finally:
        task.cancel()


def a_pool(namespace: str, size: int) -> tuple[Pool, dict[str, Any]]:
    spec = guide_spec(replicas=size, num_gpus_per_worker=1)
    del spec["device_mapping"]
    owner = Owner(name="bench", namespace=namespace, uid=names.Uid("0" * 36), generation=1)
    pool = plan_pool(owner, spec)
    assert isinstance(pool, Pool), pool
    return pool, spec


async def raw(client: ApiClient, namespace: str, size: int) -> None:
    """The floor: the same pods from a bare client with 32 requests in flight."""
    pool, _ = a_pool(namespace, size)
    template = engine_pod.template(pool)
    template["metadata"].pop("ownerReferences")
    engines = iter(pool.engines)

    async def work() -> None:
        for engine in engines:
            body = orjson.dumps(engine_pod.pod(pool, template, engine, 0, 0))
            await client.request("POST", paths.pods(namespace), body=body)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def ours(client: ApiClient, namespace: str, size: int) -> None:
    """One object; the operator does the rest."""
    _, spec = a_pool(namespace, size)
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "bench"},
        "spec": spec,
    }
    await client.request("POST", paths.pools(namespace), body=orjson.dumps(body))


async def measure(
    plane: ControlPlane, client: ApiClient, contender: str, namespace: str, size: int
) -> dict[str, float]:
    """Seconds to all pods created and to all up, and what they cost in CPU."""
    plane.namespace(namespace)
    start = {"raw": raw, "ours": ours}[contender]
    async with watching(client, namespace) as seen:
        before, begun = plane.cpu_seconds(), time.perf_counter()
        await start(client, namespace, size)
        await seen.until(lambda: len(seen.created) >= size)
        created = max(seen.created.values()) - begun
        await seen.until(lambda: len(seen.up) >= size)
        up = max(seen.up.values()) - begun
        after = plane.cpu_seconds()
        await _clean(client, namespace, contender)
        await seen.until(lambda: len(seen.gone) >= len(seen.created))
    cpu = {name: 1000 * (after[name] - before.get(name, 0.0)) / size for name in after}
    return {
        "creates_per_s": size / created,
        "all_up_s": up,
        "operator_cpu_ms_per_pod": cpu["sglang-operator"],
        "apiserver_cpu_ms_per_pod": cpu["kube-apiserver"],
    }


async def _clean(client: ApiClient, namespace: str, contender: str) -> None:
    if contender == "ours":
        await client.request("DELETE", paths.pool(namespace, "bench"))
    else:
        options = orjson.dumps({"gracePeriodSeconds": 0})
        await client.request("DELETE", paths.pods(namespace), body=options, timeout=120)


# --- from a deleted pod to its replacement


async def recreate(
    plane: ControlPlane, client: ApiClient, contender: str, namespace: str, count: int
) -> list[float]:
    """Milliseconds from DELETE sent to the replacement seen, one deletion after another."""
    plane.namespace(namespace)
    async with watching(client, namespace) as seen:
        helper = asyncio.create_task(_bare_loop(client, namespace, seen))
        await {"bare": _bare_pods, "ours": ours, "deployment": _deployment}[contender](
            client, namespace, 8
        )
        await seen.until(lambda: len(seen.up) >= 8)
        if contender != "bare":
            helper.cancel()
        times = [await _one(client, namespace, seen) for _ in range(count)]
        helper.cancel()
    plane.kubectl("delete", "namespace", namespace, "--wait=false")
    return times


async def _one(client: ApiClient, namespace: str, seen: Seen) -> float:
    uid = next(uid for uid in seen.up if uid not in seen.gone)
    before, begun = len(seen.created), time.perf_counter()
    await client.request("DELETE", paths.pod(namespace, seen.names[uid]))
    await seen.until(lambda: len(seen.created) > before)
    took = 1000 * (max(seen.created.values()) - begun)
    await seen.until(lambda: uid in seen.gone and len(seen.up) > before)
    return took


async def _bare_pods(client: ApiClient, namespace: str, size: int) -> None:
    for number in range(size):
        await _bare_pod(client, namespace, f"bare-{number}")


async def _bare_pod(client: ApiClient, namespace: str, name: str) -> None:
    pool, _ = a_pool(namespace, 1)
    body = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0, 0)
    body["metadata"] = {"name": name, "namespace": namespace}
    await client.request("POST", paths.pods(namespace), body=orjson.dumps(body))


async def _bare_loop(client: ApiClient, namespace: str, seen: Seen) -> None:
    """The floor: as soon as a pod is seen to be deleted, another is created."""
    answered: set[str] = set()
    while True:
        await seen.dying.wait()
        seen.dying.clear()
        for uid in seen.deleting - answered:
            answered.add(uid)
            await _bare_pod(client, namespace, f"bare-again-{len(answered)}")


async def _deployment(client: ApiClient, namespace: str, size: int) -> None:
    pool, _ = a_pool(namespace, 1)
    spec = engine_pod.template(pool)["spec"] | {"restartPolicy": "Always"}
    labels = {"app": "bench"}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bench"},
        "spec": {
            "replicas": size,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    await client.request("POST", path, body=orjson.dumps(body))


# --- the run


async def rounds(size: int, count: int) -> dict[str, Any]:
    nodes = f"{-(-size // GPUS_PER_NODE) + 4}x{GPUS_PER_NODE}"
    results: list[dict[str, dict[str, float]]] = []
    latencies: dict[str, list[float]] = {"bare": [], "ours": [], "deployment": []}
    with ControlPlane(nodes) as plane, InstalledOperator(plane) as operator:
        async with ApiClient(connection.load(plane.kubeconfig), user_agent="bench") as client:
            await measure(plane, client, "raw", "warm-up", 40)
            idle = plane.rss()[operator.name]
            for number in range(count):
                order = ("raw", "ours") if number % 2 == 0 else ("ours", "raw")
                results.append(
                    {
                        who: await measure(plane, client, who, f"{who}-{number}", size)
                        for who in order
                    }
                )
                for who, times in latencies.items():
                    times += await recreate(plane, client, who, f"again-{who}-{number}", 20)
                print(json.dumps(results[-1]), file=sys.stderr)
            rss = plane.rss()[operator.name]
    return {
        "size": size,
        "rounds": results,
        "recreate_ms": latencies,
        "rss_mb": {"before": idle / 1e6, "after": rss / 1e6},
    }


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):8.2f}  [{ordered[0]:.2f}–{ordered[-1]:.2f}]"


def report(result: dict[str, Any]) -> None:
    """The table: medians with their ranges."""
    runs = result["rounds"]
    print(f"\none pool × {result['size']} engines, {len(runs)} rounds; median [min–max]")
    for figure in runs[0]["ours"]:
        for who in ("raw", "ours"):
            if figure.startswith("operator") and who == "raw":
                continue
            print(f"  {figure:26} {who:5} {_spread(r[who][figure] for r in runs)}")
    ratios = (r["ours"]["creates_per_s"] / r["raw"]["creates_per_s"] for r in runs)
    print(f"  {'creates/s, ours : raw':32} {_spread(ratios)}")
    ratios = (r["raw"]["all_up_s"] / r["ours"]["all_up_s"] for r in runs)
    print(f"  {'all up, raw : ours':32} {_spread(ratios)}")
    print("  deleted → replacement seen, ms:")
    for who, times in result["recreate_ms"].items():
        ordered = sorted(times)
        p99 = ordered[int(len(ordered) * 0.99)]
        print(f"    {who:12} p50 {statistics.median(ordered):6.1f}   p99 {p99:6.1f}")
    rss = result["rss_mb"]
    print(f"  operator's memory: {rss['before']:.0f} MB idle, {rss['after']:.0f} MB at the end")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument("--size", type=int, default=500, help="engines of the pool")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write everything to this file")
    options = parser.parse_args()
    result = asyncio.run(rounds(options.size, options.rounds))
    report(result)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
