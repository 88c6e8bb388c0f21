"""A quota, pools that wait for it, and how they are looked at."""

import itertools
from typing import Any

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.kueue import Kueue
from tests.integration.pools import PoolUnderTest

GPUS = "nvidia.com/gpu"
QUEUE = "gpus"
WAIT = 60.0
PAIRS = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,32))"}
FOUR = {"device_mapping": "list(range(0,8))"}
_numbers = itertools.count()


class Queue:
    """A quota of its own, and pools in a namespace that wait for it."""

    def __init__(self, plane: ControlPlane, installed: Kueue, most: int) -> None:
        self.plane, self.kueue = plane, installed
        self.namespace = plane.namespace(f"queue-{next(_numbers)}")
        self.pools: list[PoolUnderTest] = []
        preemption = {"withinClusterQueue": "LowerPriority"}
        installed.quota(self.namespace, {GPUS: most}, preemption=preemption)
        installed.queue(self.namespace, QUEUE, of=self.namespace)

    def pool(
        self, name: str = "actor", *, scheduling: dict[str, str] | None = None, **spec: Any
    ) -> PoolUnderTest:
        """A pool in the queue; it is applied."""
        pool = PoolUnderTest(self.plane, self.namespace, name)
        self.pools.append(pool)
        chosen = {"gang": "Kueue", "queueName": QUEUE, **(scheduling or {})}
        pool.apply(scheduling=chosen, **{"weights": {"gate": "Off"}, **FOUR, **spec})
        return pool

    def remove(self) -> None:
        for pool in self.pools:
            pool.delete("--wait=false", "--ignore-not-found")
        self.plane.wait(lambda: not self.left(), WAIT, "no pod and no Workload left")

    def left(self) -> list[str]:
        """Pods and Workloads of the namespace."""
        pods = self.plane.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [each["metadata"]["name"] for each in (*pods, *self.kueue.workloads(self.namespace))]


def running(pool: PoolUnderTest) -> set[str]:
    """The names of its pods that run and stay."""
    return {
        pod["metadata"]["name"]
        for pod in pool.pods()
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


def summary(pool: PoolUnderTest, told: str) -> None:
    pool.wait(lambda: pool.status.get("readySummary") == told, f"READY {told}", WAIT)


def waiting(pool: PoolUnderTest, engines: int) -> dict[str, Any]:
    """The condition Ready, once it tells of so many engines in the queue."""
    begun = f"{engines} engine{'' if engines == 1 else 's'} waiting until Kueue's LocalQueue"

    def told() -> dict[str, Any]:
        found = pool.condition(conditions.READY)
        assert str(found.get("message")).startswith(begun), found
        return found

    found: dict[str, Any] = pool.wait(told, begun, WAIT)
    assert found["reason"] == conditions.WAITING_FOR_QUOTA
    return found


def failures(pool: PoolUnderTest) -> set[str]:
    """What its pods carry of failures."""
    return {
        key
        for pod in pool.pods()
        for key in pod["metadata"]["annotations"]
        if key in (names.ANNOTATION_FAILURES, names.ANNOTATION_STARTUP_FAILURES)
    }
