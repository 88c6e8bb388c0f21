"""What the weights cost: ``make bench-weights``.

One pool on KWOK nodes, a trainer that writes the Lease by hand, and the clock.  Printed: the size
of the registry, the time for an epoch, from a commit to all gates open, and the operator's writes
for each engine over steps of sleep, wake, sync and commit.
"""

import argparse
import json
import statistics
import time
from collections import Counter

from sglang_operator.api import names
from sglang_operator.gates import decide
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.weights.times import micro_time
from tests import leases
from tests.builders import a_pool, all_pods, weighed
from tests.integration.pools import PoolUnderTest

WAIT = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=1000, help="of one GPU each")
    parser.add_argument("--steps", type=int, default=5, help="of sleep, wake, sync and commit")
    options = parser.parse_args()
    figures: dict[str, object] = {
        "engines": options.engines,
        "epoch ms": _epoch_ms(options.engines),
    }
    with ControlPlane(f"{-(-options.engines // 8)}x8") as plane, InstalledOperator(plane):
        pool = PoolUnderTest(plane, "default")
        pool.apply(num_gpus_per_worker=1, device_mapping=f"list(range(0,{options.engines}))")
        pool.wait_ready(WAIT)
        pool.wait(lambda: all(e["instance"] for e in pool.registry()["engines"]), "known", WAIT)
        bench = _Steps(pool)
        figures["registry KiB"] = round(bench.registry_bytes() / 1024, 1)
        rows = [bench.step(f"step-{index}") for index in range(options.steps)]
        for name in rows[0]:
            values = [row[name] for row in rows]
            figures[name] = f"{statistics.median(values):.3g} [{min(values):.3g}–{max(values):.3g}]"
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value}")


def _epoch_ms(engines: int) -> str:
    pool = a_pool(num_gpus_per_worker=1, device_mapping=f"list(range(0,{engines}))")
    pods = all_pods(pool, container_id="containerd://" + "0" * 64)
    views = weighed(pool, pods).engines
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        decide.epoch(views)
        times.append((time.perf_counter() - begun) * 1e3)
    return f"{statistics.median(times):.2f} [{min(times):.2f}–{max(times):.2f}]"


class _Steps:
    """A trainer's steps, each with what it took and what the operator wrote meanwhile."""

    def __init__(self, pool: PoolUnderTest) -> None:
        self._pool = pool
        base = f"/api/v1/namespaces/{pool.namespace}"
        self._registry = f"{base}/configmaps/{pool.name}-engines"
        self._pods = f"{base}/pods"
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{pool.namespace}/leases"
        self._lease = f"{leases}/{pool.name}-weights"
        self._engines = len(pool.registry()["engines"])
        self._written = self._writes()

    def registry_bytes(self) -> int:
        return len(json.dumps(self._pool.plane.api.get(self._registry)))

    def step(self, version: str) -> dict[str, float]:
        instances = [engine["instance"] for engine in self._pool.registry()["engines"]]
        row = {}
        begun = time.monotonic()
        self._write("trainer", phase="Sleeping", transaction=f"{version}-s", released="weights")
        self._acknowledged(f"{version}-s")
        row["sleep acknowledged s"] = time.monotonic() - begun
        self._wait_ready(0)
        row["nobody in service s"] = time.monotonic() - begun
        self._write("trainer", phase="Awake", transaction=f"{version}-w", released="")
        self._write("trainer", phase="Syncing", transaction=version, target_version=version)
        time.sleep(1)  # the trainer's update
        begun = time.monotonic()
        self._write(
            None,
            phase="Committed",
            transaction=version,
            version=version,
            instances=",".join(instances),
            committed=micro_time(time.time()),
        )
        self._wait_ready(self._engines)
        row["commit to all in service s"] = time.monotonic() - begun
        self._acknowledged(version)
        self._pool.wait(
            lambda: self._pool.status["syncedSummary"] == f"{self._engines}/{self._engines}",
            "synced",
        )
        time.sleep(2)  # what is still told of this step
        writes = self._writes()
        row["operator's writes per engine"] = (writes - self._written).total() / self._engines
        self._written = writes
        return row

    def _write(self, holder: str | None, **notes: str) -> None:
        told = {key: value or None for key, value in notes.items()}
        self._pool.plane.api.merge(self._lease, leases.held(holder, 30, **told))

    def _acknowledged(self, transaction: str) -> None:
        self._pool.wait(
            lambda: self._pool.registry()["weights"]["transaction"] == transaction,
            transaction,
            WAIT,
        )

    def _wait_ready(self, engines: int) -> None:
        self._pool.wait(lambda: self._ready() == engines, f"{engines} in service", WAIT)

    def _ready(self) -> int:
        listed = self._pool.plane.api.get(self._pods)["items"]
        return sum(
            condition["type"] == "Ready" and condition["status"] == "True"
            for pod in listed
            for condition in pod["status"].get("conditions", [])
        )

    def _writes(self) -> Counter[str]:
        user = "system:serviceaccount:sglang-operator:sglang-operator"
        return Counter(
            event.resource
            for event in self._pool.plane.audit(user=user)
            if event.verb not in ("get", "list", "watch")
            # Its own Lease, by which replicas agree who writes, is no matter of the pool.
            and not (event.resource == "leases" and event.name == names.LEASE_NAME)
        )


if __name__ == "__main__":
    main()
