"""One pool of many engines: pods per second, time to all up, CPU and writes per pod."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from tests.bench.contenders import Contender
from tests.bench.figures import Figure, ratio
from tests.bench.seen import watching

READING = ("get", "list", "watch")
MOST_CPU = 4.0  # times that of the raw client
API_SERVER = "kube-apiserver"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One contender in one round."""

    creates_per_s: float
    all_up_s: float
    own_cpu_ms: float  # per pod, until all are up
    apiserver_cpu_ms: float  # per pod
    writes: float  # per pod, of every kind but the Lease


async def measure(
    plane: ControlPlane,
    client: ApiClient,
    contender: Contender,
    namespace: str,
    size: int,
    user: str | None = None,
    *,
    clean: bool = True,
) -> Run:
    """Make the pods, see them up, and clear them away; ``user`` is whose writes are counted."""
    plane.namespace(namespace)
    async with watching(client, namespace) as seen:
        await contender.prepare(namespace, size)
        since = datetime.datetime.now(datetime.UTC)
        server, own = plane.cpu_seconds()[API_SERVER], contender.cpu()
        begun = time.perf_counter()
        await contender.start(client, namespace, size)
        await seen.until(lambda: len(seen.created) >= size, "all pods created")
        created = max(seen.created.values()) - begun
        await seen.until(lambda: len(seen.up) >= size, "all pods up")
        up = max(seen.up.values()) - begun
        own, server = contender.cpu() - own, plane.cpu_seconds()[API_SERVER] - server
        writes = _writes(plane, user, since) if user else 0
        if clean:
            await contender.clean(client, namespace)
            await seen.until(lambda: len(seen.gone) >= len(seen.created), "all pods gone")
    if clean:
        plane.kubectl("delete", "namespace", namespace, "--wait=false")
    return Run(
        creates_per_s=size / created,
        all_up_s=up,
        own_cpu_ms=1000 * own / size,
        apiserver_cpu_ms=1000 * server / size,
        writes=writes / size,
    )


def _writes(plane: ControlPlane, user: str, since: datetime.datetime) -> int:
    events = plane.audit(user=user, since=since)
    return sum(e.verb not in READING and e.resource != "leases" for e in events)


async def rounds(
    plane: ControlPlane,
    client: ApiClient,
    contenders: Sequence[Contender],
    size: int,
    count: int,
    user: str,
) -> dict[str, list[Run]]:
    """Each contender in each round, the order turned about from round to round."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for number in range(count):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            namespace = f"{contender.name}-{size}-{number}"
            counted = user if contender.name == "ours" else None
            run = await measure(plane, client, contender, namespace, size, counted)
            runs[contender.name].append(run)
            print(f"  {size} {contender.name:10} {run}", flush=True)
    return runs


def figures(runs: dict[str, list[Run]], size: int) -> list[Figure]:
    """The lines of the table, with the targets."""
    values = {
        who: {field.name: [getattr(run, field.name) for run in made] for field in fields(Run)}
        for who, made in runs.items()
    }
    ours, raw, deployment = values["ours"], values["raw"], values["deployment"]
    head = f"1 × {size}:"
    found = [
        ratio(
            f"{head} creates/s, ours : raw", ours["creates_per_s"], raw["creates_per_s"], least=0.9
        ),
        ratio(
            f"{head} creates/s, ours : Deployment",
            ours["creates_per_s"],
            deployment["creates_per_s"],
            least=0.9,
        ),
        ratio(
            f"{head} creates/s, raw : Deployment",
            raw["creates_per_s"],
            deployment["creates_per_s"],
        ),
        ratio(f"{head} time to all up, raw : ours", raw["all_up_s"], ours["all_up_s"], least=0.9),
        ratio(
            f"{head} time to all up, Deployment : ours",
            deployment["all_up_s"],
            ours["all_up_s"],
            least=0.9,
        ),
        ratio(
            f"{head} API server CPU per pod, ours : raw",
            ours["apiserver_cpu_ms"],
            raw["apiserver_cpu_ms"],
            most=1.15,
        ),
        Figure(name=f"{head} writes per pod", values=ours["writes"], most=1.1),
        Figure(name=f"{head} operator CPU per pod", values=ours["own_cpu_ms"], unit="ms"),
        ratio(
            f"{head} CPU per pod, ours : raw client",
            ours["own_cpu_ms"],
            raw["own_cpu_ms"],
            most=MOST_CPU,
        ),
        Figure(name=f"{head} raw client's CPU per pod", values=raw["own_cpu_ms"], unit="ms"),
    ]
    for who in runs:
        found.append(
            Figure(name=f"{head} creates/s, {who}", values=values[who]["creates_per_s"], unit="/s")
        )
        found.append(Figure(name=f"{head} all up, {who}", values=values[who]["all_up_s"], unit="s"))
    return found
