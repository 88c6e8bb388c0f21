"""Passes over one pool, one at a time: nothing wakes them, and they see what a test lets them see.

The API server is ``fake_api.Api``.  Its stores are filled from it by ``see``, as watches would.
"""

import time
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.cluster.child_store import child_store
from sglang_operator.cluster.dry_runs import DryRuns
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.lookups import Lookups
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.stores import PodStore, PoolKey, PoolStore
from sglang_operator.controller.explaining import Explainer
from sglang_operator.controller.observing import View
from sglang_operator.controller.reconcile import Reconciler
from sglang_operator.controller.requeue import Requeue
from sglang_operator.kube import paths
from sglang_operator.kube.decoding import Decoder
from sglang_operator.observed import wire
from tests.unit.controller.fake_api import Api, Json

KEY = PoolKey("rl", "pool")
LEASE = paths.child("Lease", KEY.namespace, names.weights_lease_name(KEY.name))
# Longer than a test takes: nothing is published a second time but for a reason.
INTERVAL = 3600.0


class Clock:
    """All clocks of this machine; they go, and are ahead by what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        monotonic, clock_gettime, wall = time.monotonic, time.clock_gettime, time.time
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self._ahead)
        monkeypatch.setattr(time, "clock_gettime", lambda of: clock_gettime(of) + self._ahead)
        monkeypatch.setattr(time, "time", lambda: wall() + self._ahead)

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


class Passes:
    """One pool, its operator's stores, and the reconciler."""

    def __init__(
        self, clock: Clock, *, interval: float = INTERVAL, api: Api | None = None, **spec: Any
    ) -> None:
        self.clock = clock
        self.api = api or Api()
        self.readable = True
        self.caught_up = True  # its stream of pods, with what was before it was elected
        self.looks = 0  # of passes, whether they may go on
        self.woken: list[PoolKey] = []
        self.pools = PoolStore(self._wake)
        self.pods = PodStore(self._wake)
        self.nodes = NodeStore(lambda name: None)
        self.children = {
            each.kind: child_store(each.kind, self._wake, self.pools.has) for each in kinds.CHILDREN
        }
        client: Any = self.api
        executor = Executor(client, self.pods, self.children, self.pools)
        view = View(
            pools=self.pools,
            pods=self.pods,
            children=self.children,
            nodes=self.nodes,
            reads=self._reads,
            caught_up=lambda namespace: self.caught_up,
        )
        self.reconciler = Reconciler(
            view,
            executor,
            Recorder(client, "operator"),
            None,
            Explainer(Lookups(client), self.woken.append),
            DryRuns(client, executor.work),
            publish_interval=interval,
        )
        if api is None:
            self.api.make(*KEY)
            self.api.pool(*KEY)["spec"] |= spec

    def _reads(self, namespace: str) -> bool:
        self.looks += 1
        return self.readable

    def _wake(self, key: PoolKey, urgent: bool) -> None:
        self.woken.append(key)

    # --- what passes see

    async def see(self) -> None:
        """The stores are as the server is."""
        streams: tuple[tuple[str, Any, type], ...] = (
            (paths.pools(""), self.pools, wire.CustomResource),
            (paths.pods(""), self.pods, wire.Pod),
            *((paths.children(k, ""), store, wire.Child) for k, store in self.children.items()),
        )
        for path, store, kind in streams:
            body = await self.api.request("GET", path)
            page: Any = Decoder[Any](kind).page(body)
            store.replace("", page.records, int(page.version))

    async def run(self) -> Requeue:
        """One pass over the pool as it is; its writes are in ``writes``."""
        await self.see()
        return await self.blind()

    async def blind(self) -> Requeue:
        """One pass over the pool as it was seen last."""
        self.api.calls.clear()
        return await self.reconciler.reconcile(KEY)

    async def settle(self) -> None:
        """Passes until nothing is written any more, each after the interval."""
        await self.settle_within(10 * INTERVAL)

    async def settle_within(self, seconds: float) -> None:
        """Passes until nothing is written any more, while no more than this time goes by."""
        for _ in range(10):
            self.clock.advance(seconds / 10)
            await self.run()
            if not self.writes:
                return
        raise AssertionError(f"it goes on writing: {self.writes}")

    # --- what became of them

    @property
    def writes(self) -> list[str]:
        """What the last pass wrote, Events aside: method and what to, in order."""
        return [
            f"{method} {_short(path)}"
            for method, path in self.api.calls
            if not path.endswith("/events")
        ]

    @property
    def status(self) -> Json:
        found: Json = self.api.pool(*KEY).get("status", {})
        return found

    @property
    def reason(self) -> str:
        return self.api.reason(*KEY)

    def pod_names(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.api.pods("rl"))

    def fail(self, name: str) -> None:
        """The engine of this pod ends with an error."""
        ended = {"exitCode": 1, "reason": "Error", "message": "no such model"}
        container = {"name": names.ENGINE_CONTAINER, "state": {"terminated": ended}}
        status = {"phase": "Failed", "containerStatuses": [container], "conditions": []}
        self.api.touch(paths.pod("rl", name), {"status": status})

    def change(self, **spec: Any) -> None:
        """Somebody changes these fields of the pool's spec."""
        self.api.change(*KEY, {**self.api.pool(*KEY)["spec"], **spec})

    def sync(self, seconds: int = 60) -> None:
        """A trainer takes the Lease to write weights."""
        held = {"holderIdentity": "trainer", "leaseDurationSeconds": seconds}
        self.api.touch(LEASE, {"spec": held})
        self.api.transact(*KEY, "Syncing")

    def abort(self) -> None:
        """A trainer has failed: nobody knows what the engines hold."""
        self.api.touch(LEASE, {"spec": {"holderIdentity": None}})
        self.api.transact(*KEY, "Aborted")

    def commit(self) -> None:
        """A trainer has written the engines that run."""
        runs = ",".join(run for run in (e.pod.instance for e in self.pods.of(KEY)) if run)
        self.api.touch(LEASE, {"spec": {"holderIdentity": None}})
        self.api.transact(*KEY, "Committed", runs)


def _short(path: str) -> str:
    """The part of a path after its namespace; the names of engines' pods are left out."""
    parts = path.split("/namespaces/")[-1].split("/")[1:]
    return "/".join(parts) if parts[0] != "pods" else "/".join([parts[0], *parts[2:]])
