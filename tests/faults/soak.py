"""``python -m tests.faults.soak``: many pools under churn and faults for a while.

One operator process lives through all of it.  Every promise is watched; at the end the faults
stop and each pool must be as its spec says.  The process must not have grown: memory, tasks and
descriptors are read every few seconds, and the last third is compared with the first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.testing.faults import Agent, Match, ProxiedOperator
from sglang_operator.testing.faults.ledger import foreign_writes
from sglang_operator.testing.faults.rules import Delay, Drop, Fault, Reply, Rule
from sglang_operator.testing.faults.streams import EXPIRED, End, error_line
from sglang_operator.testing.faults.traffic import WRITES
from sglang_operator.testing.ports import HOST, free
from tests.faults.lab import FaultPool, Lab, lab

NAMESPACES = 20
ENGINES = 4  # of two GPUs, at most
SAMPLE_SECONDS = 5.0
FAULT_SECONDS = (2.0, 8.0)
QUIET_SECONDS = (3.0, 15.0)
SETTLE_SECONDS = 300.0
OURS = Match(agent=Agent.OPERATOR)
OUR_WRITES = Match(agent=Agent.OPERATOR, verbs=WRITES)
WATCHES = Match(verbs=["watch"])
# Of the first third's median; descriptors and tasks may differ by what is under way.
GROWTH = {"rss_mb": 1.10, "tasks": 1.0, "descriptors": 1.0}
SLACK = {"rss_mb": 5.0, "tasks": 40.0, "descriptors": 16.0}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the process was at one moment."""

    at: float  # seconds since the beginning
    rss_mb: float
    tasks: float
    descriptors: float


@dataclass(kw_only=True)
class Soak:
    """What came of it."""

    samples: list[Sample] = field(default_factory=list)
    churned: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)  # requests and streams, by fault
    problems: list[str] = field(default_factory=list)
    checks: int = 0
    writes: int = 0

    def record(self) -> dict[str, object]:
        """For JSON."""
        samples = [asdict(sample) for sample in self.samples]
        return {**vars(self), "samples": samples}


# --- churn


def _create(pool: FaultPool, coin: random.Random) -> None:
    pool.create(replicas=coin.randint(1, ENGINES), device_mapping="list(range(0,8))")


def _scale(pool: FaultPool, coin: random.Random) -> None:
    pool.patch(replicas=coin.randint(0, ENGINES))


def _argue(pool: FaultPool, coin: random.Random) -> None:
    config = {"mem_fraction_static": coin.choice([0.7, 0.8, 0.9]), "load_format": "dummy"}
    pool.patch(strategy_args={"strategy_config": config})


def _move(pool: FaultPool, coin: random.Random) -> None:
    first = coin.choice([0, 2, 4])
    pool.patch(device_mapping=f"list(range({first},{first + 8}))")


def _suspend(pool: FaultPool, coin: random.Random) -> None:
    pool.patch(suspend=coin.random() < 0.3)


def _recreate(pool: FaultPool, coin: random.Random) -> None:
    pool.delete()
    _create(pool, coin)


def _pod(pool: FaultPool, coin: random.Random) -> str | None:
    found = [
        pod["metadata"]["name"]
        for pod in pool.all_pods()
        if pod["metadata"]["name"].startswith(f"{pool.name}-g")
    ]
    return pool.pod_path(coin.choice(found)) if found else None


def _delete_pod(pool: FaultPool, coin: random.Random) -> None:
    if path := _pod(pool, coin):
        pool.plane.api.delete(path + coin.choice(["", "?gracePeriodSeconds=0"]), missing_ok=True)


def _fail_pod(pool: FaultPool, coin: random.Random) -> None:
    if path := _pod(pool, coin):
        pool.plane.api.merge(path, {"metadata": {"annotations": {"fake.sglang/fail": "137"}}})


CHURN: tuple[Callable[[FaultPool, random.Random], None], ...] = (
    _scale,
    _scale,
    _argue,
    _move,
    _suspend,
    _recreate,
    _delete_pod,
    _delete_pod,
    _fail_pod,
)


# --- faults


def _break(lab: Lab, coin: random.Random) -> tuple[str, Rule | None]:
    """Break something; its name, and the rule that does it for a while."""
    streams = lab.proxy.live(WATCHES)
    kind = coin.choice(["503", "429", "lost", "unsent", "slow", "409", "401", "cut", "410", "500"])
    seed = coin.randrange(1 << 30)
    rules: dict[str, tuple[Match, Fault]] = {
        "503": (OURS, Reply(503)),
        "429": (OURS, Reply(429, "TooManyRequests", retry_after=1)),
        "lost": (OUR_WRITES, Drop(after_commit=True)),
        "unsent": (OUR_WRITES, Drop(after_commit=False)),
        "slow": (OUR_WRITES, Delay(before=0.5, after=0.5)),
        "409": (OUR_WRITES, Reply(409, "Conflict")),
        "401": (OURS, Reply(401, "Unauthorized")),
    }
    if kind in rules:
        match, fault = rules[kind]
        return kind, lab.proxy.add(match, fault, share=0.3, seed=seed)
    for stream in coin.sample(streams, min(len(streams), 3)):
        if kind == "cut":
            stream.cut(End.RESET)
        else:
            stream.inject(EXPIRED if kind == "410" else error_line(500))
    return f"watch {kind}", None


# --- the run


def run(lab: Lab, operator: ProxiedOperator, metrics: str, options: argparse.Namespace) -> Soak:
    """Churn and break for so many minutes, then let it settle."""
    coin, soak = random.Random(options.seed), Soak()
    spaces = [lab.plane.namespace(f"soak-{number}") for number in range(NAMESPACES)]
    pools = [
        FaultPool(lab.plane, spaces[number % NAMESPACES], f"pool-{number}")
        for number in range(options.pools)
    ]
    for pool in pools:
        _create(pool, coin)
    process, begun = operator.pid, time.monotonic()
    end, sampled, turned = begun + 60 * options.minutes, 0.0, 0.0
    rule: Rule | None = None
    broken = False
    while (now := time.monotonic()) < end:
        if now >= sampled:
            sampled = now + SAMPLE_SECONDS
            soak.samples.append(_sample(metrics, now - begun))
        if now >= turned:
            broken = not broken
            if broken:
                name, rule = _break(lab, coin)
                soak.broken[name] += 1
            elif rule is not None:
                lab.proxy.remove(rule)
                soak.broken["requests"] += rule.hits
            turned = now + coin.uniform(*(FAULT_SECONDS if broken else QUIET_SECONDS))
        _churn(soak, coin.choice(pools), coin)
        lab.proxy.writes = lab.proxy.writes[-10_000:]
        time.sleep(1 / options.rate)
    lab.proxy.clear()
    soak.problems += _settled(lab, pools)
    soak.samples.append(_sample(metrics, time.monotonic() - begun))
    if operator.pid != process:
        soak.problems.append("the operator's process ended")
    for space in spaces:
        soak.problems += [str(violation) for violation in lab.monitor.broken(space)]
    lives = {life.uid: life.name for life in lab.monitor.pools.values()}
    soak.problems += [str(violation) for violation in foreign_writes(lab.proxy.writes, lives)]
    soak.checks, soak.writes = lab.monitor.checks, lab.proxy.write_count
    soak.problems += _grown(soak.samples)
    return soak


def _churn(soak: Soak, pool: FaultPool, coin: random.Random) -> None:
    change = coin.choice(CHURN)
    try:
        change(pool, coin)
        soak.churned[change.__name__.strip("_")] += 1
    except ApiError as error:
        if error.status not in (404, 409):  # it is being deleted, or was changed meanwhile
            raise


def _settled(lab: Lab, pools: Sequence[FaultPool]) -> list[str]:
    """Wait until every pool is as its spec says; which are not."""
    deadline = time.monotonic() + SETTLE_SECONDS
    for pool in pools:
        if not _exists(pool):
            pool.create(replicas=1)
    left = list(pools)
    while left and time.monotonic() < deadline:
        left = [pool for pool in left if _differences(pool)]
        time.sleep(1.0)
    return [f"{pool.namespace}/{pool.name}: {_differences(pool)}" for pool in left]


def _exists(pool: FaultPool) -> bool:
    return bool(pool.plane.api.exists(f"{pool.path}/{pool.name}"))


def _differences(pool: FaultPool) -> list[str]:
    try:
        others = len(pool.all_pods()) - len(pool.pods())
        return pool.differences(foreign=others)
    except (ApiError, KeyError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]


def _sample(url: str, at: float) -> Sample:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    return Sample(
        at=at,
        rss_mb=float(values["process_resident_memory_bytes"]) / 1e6,
        tasks=float(values["sglang_operator_tasks"]),
        descriptors=float(values["process_open_fds"]),
    )


def thirds(samples: Sequence[Sample], name: str) -> tuple[float, float, float]:
    """The medians of the three thirds of the run."""
    values = [float(getattr(sample, name)) for sample in samples]
    size = max(1, len(values) // 3)
    parts = (values[:size], values[size : 2 * size] or values, values[2 * size :] or values)
    first, second, third = (statistics.median(part) for part in parts)
    return first, second, third


def _grown(samples: Sequence[Sample]) -> list[str]:
    problems = []
    for name, factor in GROWTH.items():
        first, _, last = thirds(samples, name)
        if last > first * factor + SLACK[name]:
            problems.append(f"{name} grew from {first:g} to {last:g}")
    return problems


def report(soak: Soak) -> None:
    """Print what was seen."""
    print(f"churn: {dict(soak.churned)}\nfaults: {dict(soak.broken)}")
    print(f"{soak.writes} writes of the operator, {soak.checks} checks of promises")
    for name in GROWTH:
        values = [getattr(sample, name) for sample in soak.samples]
        parts = " → ".join(f"{value:.1f}" for value in thirds(soak.samples, name))
        print(f"{name}: {parts} (medians of thirds), {min(values):.1f}–{max(values):.1f}")
    print("\n".join([f"PROBLEM: {problem}" for problem in soak.problems] or ["no problems"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Soak; 1 if a promise was broken or the process has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3.0, help="changes a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(argv)
    address = f"{HOST}:{free()}"
    nodes = f"{-(-options.pools * ENGINES * 2 // 8)}x8"
    with ControlPlane(nodes) as plane, lab(plane) as made:
        made.operator.kill()
        arguments = [f"--metrics-address={address}"]
        operator = ProxiedOperator(plane, made.proxy, arguments=arguments)
        operator.start()
        try:
            soak = run(made, operator, f"http://{address}/metrics", options)
        finally:
            operator.kill()
            made.operator.start()
    report(soak)
    if options.json:
        options.json.write_text(json.dumps(soak.record(), indent=1))
    return int(bool(soak.problems))


if __name__ == "__main__":
    sys.exit(main())
