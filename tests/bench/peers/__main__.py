"""``python -m tests.bench.peers``: pods per second against other operators as they are shipped.

Each contender in each round has a plane of its own, with kube-controller-manager's client limits
as shipped: whoever works through it has them too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sglang_operator.kube import credentials
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.bench import creating
from tests.bench.contenders import Ours
from tests.bench.figures import Figure, ratio, table
from tests.bench.peers import builds
from tests.bench.peers.contenders import PEERS, PairsOfLeaderWorkerSet, PeerOperator

WARM_UP = 8
REST_SECONDS = 3.0
UNITS = {"creates_per_s": "/s", "all_up_s": "s", "own_cpu_ms": "ms", "apiserver_cpu_ms": "ms"}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who makes pods for engines of so many pods."""

    name: str
    pods: int
    peers: tuple[type[PeerOperator], ...]
    least: float | None = None  # times the best peer; None: it is stated


CONTESTS = (
    Contest(name="pods", pods=1, peers=PEERS, least=2.0),
    Contest(name="groups of 2", pods=2, peers=(PairsOfLeaderWorkerSet,)),
)


async def run(contest: Contest, who: type[PeerOperator] | None, size: int) -> creating.Run:
    """One contender on a fresh plane; None is this operator."""
    nodes = f"{-(-size // 8) + 4}x8"
    with ControlPlane(nodes, controller_manager_as_shipped=True) as plane:
        async with ApiClient(credentials.load(plane.kubeconfig), user_agent="bench") as client:
            if who is None:
                with InstalledOperator(plane) as operator:
                    ours = Ours(plane, operator.name, contest.pods)
                    return await _measure(plane, client, ours, size)
            peer = who(plane)
            await peer.install(client)
            return await _measure(plane, client, peer, size)


async def _measure(
    plane: ControlPlane, client: ApiClient, contender: Ours | PeerOperator, size: int
) -> creating.Run:
    await creating.measure(plane, client, contender, "warm-up", WARM_UP)
    await asyncio.sleep(REST_SECONDS)
    return await creating.measure(plane, client, contender, "measured", size, clean=False)


async def rounds(contest: Contest, size: int, count: int) -> dict[str, list[creating.Run]]:
    """Each contender in each round, the order turned about from round to round."""
    contenders = (None, *contest.peers)
    runs: dict[str, list[creating.Run]] = {}
    for number in range(count):
        for who in contenders if number % 2 == 0 else reversed(contenders):
            name = who.peer.name if who else "ours"
            made = await run(contest, who, size)
            runs.setdefault(name, []).append(made)
            print(f"  {contest.name}, {name:8} {made}", flush=True)
    return runs


def figures(contest: Contest, runs: dict[str, list[creating.Run]]) -> list[Figure]:
    """The lines of the table; the best peer of each round is the one to beat."""
    peers = [made for who, made in runs.items() if who != "ours"]
    best = [max(run.creates_per_s for run in each) for each in zip(*peers, strict=True)]
    soonest = [min(run.all_up_s for run in each) for each in zip(*peers, strict=True)]
    ours, head, least = runs["ours"], f"{contest.name}:", contest.least
    up = [r.all_up_s for r in ours]
    found = [
        ratio(
            f"{head} creates/s, ours : best peer",
            [r.creates_per_s for r in ours],
            best,
            least=least,
        ),
        ratio(f"{head} time to all up, best peer : ours", soonest, up, least=least),
    ]
    for name in (field.name for field in fields(creating.Run)):
        for who, made in runs.items():
            if name in UNITS:
                values = [getattr(run, name) for run in made]
                found.append(Figure(name=f"{head} {name}, {who}", values=values, unit=UNITS[name]))
    return found


async def held(contests: Sequence[Contest], size: int, count: int) -> list[Figure]:
    """The lines of these contests, one after the other."""
    found: list[Figure] = []
    for contest in contests:
        found += figures(contest, await rounds(contest, size, count))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is missing, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--size", type=int, default=500, help="pods")
    parser.add_argument("--rounds", type=int, default=5)
    known = [contest.name for contest in CONTESTS]
    parser.add_argument("--only", choices=known, nargs="+", default=known, help="contests")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    options = parser.parse_args(argv)
    chosen = [contest for contest in CONTESTS if contest.name in options.only]
    if any(options.size % contest.pods for contest in chosen):
        parser.error(f"--size {options.size}: groups of 2 are an even number of pods")
    for peer in dict.fromkeys(who.peer for contest in chosen for who in contest.peers):
        builds.build(peer)
    begun = time.monotonic()
    found = asyncio.run(held(chosen, options.size, options.rounds))
    print(f"\n{table(found)}\n\n{time.monotonic() - begun:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([figure.record() for figure in found], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
