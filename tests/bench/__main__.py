"""``python -m tests.bench``: the whole table.  Nothing is asserted; JSON has every round."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sglang_operator.kube import credentials
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.bench import creating, failover, many, replacing, resting, rolling, scale
from tests.bench.contenders import Contender, Deployment, Ours, raw_client
from tests.bench.figures import Figure, table

GPUS_PER_NODE = 8
# The last of two flags counts: kube-controller-manager without limits of its client.
UNLIMITED = {"kube-controller-manager": ["--kube-api-qps=5000", "--kube-api-burst=10000"]}
WARM_UP = 40
PARTS = ("create", "replace", "rest", "events", "memory", "many", "failover", "rollout")


@asynccontextmanager
async def bench(nodes: str) -> AsyncIterator[tuple[ControlPlane, ApiClient, InstalledOperator]]:
    """A plane, a client of the bench's own, and the operator as it is installed."""
    with ControlPlane(nodes, flags=UNLIMITED) as plane, InstalledOperator(plane) as operator:
        async with ApiClient(credentials.load(plane.kubeconfig), user_agent="bench") as client:
            yield plane, client, operator


class Found:
    """The figures so far; told and written as they come, for the whole takes long."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.figures: list[Figure] = []

    def add(self, figures: Sequence[Figure]) -> None:
        self.figures += figures
        print(table(figures), flush=True)
        if self._file:
            records = [figure.record() for figure in self.figures]
            self._file.write_text(json.dumps(records, indent=1, ensure_ascii=False))


async def with_nodes(options: argparse.Namespace, found: Found) -> None:
    """What needs pods that come up."""
    largest = max(options.sizes)
    nodes = f"{-(-largest // GPUS_PER_NODE) + 4}x{GPUS_PER_NODE}"
    async with bench(nodes) as (plane, client, operator), raw_client(plane) as raw:
        ours, deployment = Ours(plane, operator.name), Deployment(plane)
        contenders: Sequence[Contender] = (raw, ours, deployment)
        for contender in contenders:
            name = f"warm-up-{contender.name}"
            await creating.measure(plane, client, contender, name, WARM_UP)
        if "create" in options.parts:
            for size in options.sizes:
                runs = await creating.rounds(
                    plane, client, contenders, size, options.rounds, operator.user
                )
                found.add(creating.figures(runs, size))
        if "replace" in options.parts:
            who = (replacing.Bare(), ours, deployment)
            times = await replacing.rounds(plane, client, who, options.rounds, options.deletes)
            found.add(replacing.figures(times))
        if "rest" in options.parts:
            found.add(await resting.measure(plane, client, ours, operator.user))


async def rolled(options: argparse.Namespace, found: Found) -> None:
    """What replaces many engines, and needs room for new ones beside them."""
    needed = rolling.gpus(options.rolled, options.rolled_groups)
    nodes = f"{-(-needed // GPUS_PER_NODE) + 4}x{GPUS_PER_NODE}"
    async with bench(nodes) as (plane, client, _):
        found.add(await rolling.figures(plane, client, options.rolled, options.rolled_groups))


async def without_nodes(options: argparse.Namespace, found: Found) -> None:
    """What needs many pods, and nobody who runs them."""
    for part, measure in _LARGE.items():
        if part not in options.parts:
            continue
        async with bench("0") as (plane, client, operator):
            plane.stop_component("kube-scheduler")
            found.add(await measure(plane, client, operator, options))


async def _events(
    plane: ControlPlane, client: ApiClient, operator: InstalledOperator, options: argparse.Namespace
) -> list[Figure]:
    return await scale.events(plane, client, Ours(plane, operator.name), options.rounds)


async def _memory(
    plane: ControlPlane, client: ApiClient, operator: InstalledOperator, options: argparse.Namespace
) -> list[Figure]:
    return await scale.memory(plane, client, operator, options.pods)


async def _many(
    plane: ControlPlane, client: ApiClient, operator: InstalledOperator, options: argparse.Namespace
) -> list[Figure]:
    return await many.measure(plane, client, options.pools)


async def _failover(
    plane: ControlPlane, client: ApiClient, operator: InstalledOperator, options: argparse.Namespace
) -> list[Figure]:
    operator.stop()
    counts = {signal.SIGTERM: options.failovers, signal.SIGKILL: options.failovers}
    return await failover.measure(plane, client, counts)


_LARGE: dict[str, Callable[..., Awaitable[list[Figure]]]] = {
    "events": _events,
    "memory": _memory,
    "many": _many,
    "failover": _failover,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--sizes", nargs="+", type=int, default=[500, 1000], help="engines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deletes", type=int, default=20, help="pods deleted in each round")
    parser.add_argument("--pods", type=int, default=10_000, help="pods at which memory is read")
    parser.add_argument("--pools", type=int, default=1000, help="small pools made at once")
    parser.add_argument("--failovers", type=int, default=20, help="runs of each kind")
    parser.add_argument("--rolled", type=int, default=1000, help="engines of a rolling update")
    parser.add_argument("--rolled-groups", type=int, default=200, help="groups of two of another")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    options = _parser().parse_args(argv)
    begun, found = time.monotonic(), Found(options.json)
    if {"create", "replace", "rest"} & set(options.parts):
        asyncio.run(with_nodes(options, found))
    if "rollout" in options.parts:
        asyncio.run(rolled(options, found))
    asyncio.run(without_nodes(options, found))
    print(f"\n{table(found.figures)}\n\n{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
