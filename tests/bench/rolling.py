"""A rolling update: how long it takes by rounds of one replacement, while the monitor looks on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.faults.monitor import Monitor
from tests.bench.contenders import NAME, a_spec
from tests.bench.figures import Figure
from tests.bench.seen import Seen, watching

SHARE = 10  # per cent of the engines at a time
MERGE = "application/merge-patch+json"
ONE = 3  # replacements of one engine alone: their median is a round's time
TARGET = 2.0
# An engine takes minutes to load its model: one that is up at once would leave nothing to wait for,
# and show what a plane on one machine takes for the writes of so many pods.
START = "5s"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How engines are replaced."""

    name: str
    pods: int  # of each engine
    rollout: dict[str, Any]
    at_once: Callable[[int], int]  # of so many engines
    least: Callable[[int], int]  # that are up at each moment


IN_PLACE = Kind(
    name=f"engines, {SHARE} % at a time",
    pods=1,
    rollout={"maxUnavailable": f"{SHARE}%"},
    at_once=lambda count: max(1, count * SHARE // 100),
    least=lambda count: count - max(1, count * SHARE // 100),
)
NEW_FIRST = Kind(
    name=f"groups of 2, {SHARE} % new ones first",
    pods=2,
    rollout={"maxSurge": f"{SHARE}%"},
    at_once=lambda count: -(-count * SHARE // 100),
    least=lambda count: count,
)


def gpus(engines: int, groups: int) -> int:
    """How many GPUs the cluster has to have: groups have room for new ones beside them."""
    return max(engines, NEW_FIRST.pods * (groups + NEW_FIRST.at_once(groups)))


async def figures(
    plane: ControlPlane, client: ApiClient, engines: int, groups: int
) -> list[Figure]:
    """The lines of both kinds, with the target."""
    found: list[Figure] = []
    with Monitor(plane.url, ca_file=plane.ca_file, token=plane.admin_token) as monitor:
        for kind, count in ((IN_PLACE, engines), (NEW_FIRST, groups)):
            ones = [await _roll(plane, client, monitor, kind, 1, f"one-{n}") for n in range(ONE)]
            one = statistics.median(ones)
            took = await _roll(plane, client, monitor, kind, count, "all")
            rounds = -(-count // kind.at_once(count))
            head = f"rolling update, {count} {kind.name}, {START} to start"
            ratio = took / (rounds * one)
            name = f"{head} : ({rounds} rounds × one)"
            found += [
                Figure(name=name, values=[ratio], unit="×", most=TARGET),
                Figure(name=f"{head}, all", values=[took], unit="s"),
                Figure(name=f"{head}, one alone", values=ones, unit="s"),
            ]
        broken = [str(each) for each in monitor.violations]
        for each in broken[:10]:
            print(f"  {each}", flush=True)
        name = f"promises broken in {monitor.checks} checks of {monitor.events} events"
        found.append(Figure(name=name, values=[float(len(broken))], most=0.0))
    return found


async def _roll(
    plane: ControlPlane, client: ApiClient, monitor: Monitor, kind: Kind, count: int, which: str
) -> float:
    """Seconds from the change to the last old pod gone and the last new one up."""
    namespace = plane.namespace(f"roll-{kind.pods}-{which}")
    spec = a_spec(count) | {
        "num_gpus_per_worker": kind.pods,
        "num_gpus_per_node": 1,
        "rollout": kind.rollout,
        "weights": {"gate": "Off"},
        "podTemplate": {"metadata": {"annotations": {"fake.sglang/start-delay": START}}},
    }
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": NAME},
        "spec": spec,
    }
    pods = count * kind.pods
    async with watching(client, namespace) as seen:
        await client.request("POST", paths.pools(namespace), body=orjson.dumps(body))
        await seen.until(lambda: len(seen.up) >= pods, f"{pods} pods up")
        olds = set(seen.created)
        if count > 1:
            monitor.hold_up(namespace, NAME, kind.least(count))
        begun = time.perf_counter()
        changed = orjson.dumps({"spec": {"seed": 7}})
        await client.request("PATCH", paths.pool(namespace, NAME), body=changed, content_type=MERGE)
        await seen.until(lambda: _rolled(seen, olds, pods), f"{count} engines replaced")
        took = time.perf_counter() - begun
        monitor.hold_up(namespace, NAME, None)
        print(f"  {kind.name}, {count}: {took:.1f} s", flush=True)
        await client.request("DELETE", paths.pool(namespace, NAME))
        await seen.until(lambda: len(seen.gone) == len(seen.created), "all pods gone")
    return took


def _rolled(seen: Seen, olds: set[str], pods: int) -> bool:
    return seen.gone.issuperset(olds) and len(seen.up.keys() - seen.gone) >= pods
