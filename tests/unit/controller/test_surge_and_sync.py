"""A rollout with maxSurge of a pool that a trainer syncs, by the operator at work."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from tests.unit.controller import fake_api

KEY = PoolKey("rl", "pool")
LEASE = paths.child("Lease", "rl", names.weights_lease_name("pool"))
REGISTRY = paths.child("ConfigMap", "rl", names.registry_name("pool"))
ENGINES = 2  # of one GPU each


class Cluster:
    """Kubelets, and a trainer that goes by the registry."""

    def __init__(self, api: fake_api.Api) -> None:
        self.api = api
        self.fewest = 0

    def serving(self) -> set[str]:
        """The engines that clients reach."""
        pods = (p for p in self.api.pods("rl") if _status(p, "Ready") == "True")
        return {pod["metadata"]["labels"][names.LABEL_ENGINE] for pod in pods}

    async def kubelets(self) -> None:
        """Pods are Ready by their gates; how few engines served at any time is kept."""
        while True:
            for pod in self.api.pods("rl"):
                gate = _status(pod, names.CONDITION_WEIGHTS_SYNCED) or "False"
                if _status(pod, "Ready") != gate:
                    kept = [c for c in pod["status"]["conditions"] if c["type"] != "Ready"]
                    told = [*kept, {"type": "Ready", "status": gate}]
                    (container,) = pod["status"]["containerStatuses"]
                    runs = [{**container, "state": {"running": {}}}]
                    path = paths.pod("rl", pod["metadata"]["name"])
                    status = {"conditions": told, "containerStatuses": runs}
                    self.api.touch(path, {"status": status})
            self.fewest = min(self.fewest, len(self.serving()))
            await asyncio.sleep(0.005)

    def registry(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.api.objects[REGISTRY]["data"]["engines.json"])
        return found

    def told(self) -> list[str]:
        """The pods that trainers know as the engines."""
        return [engine["pod"] for engine in self.registry()["engines"]]

    def beside(self) -> list[str]:
        return [engine["pod"] for engine in self.registry().get("unlisted", ())]

    async def begin(self) -> None:
        """A trainer writes to all engines of which the registry tells."""
        held = {"holderIdentity": "trainer", "leaseDurationSeconds": 60}
        self.api.touch(LEASE, {"spec": held})
        self.api.transact(*KEY, "Syncing", self._covered)
        await self.api.until(lambda: self.registry()["weights"]["phase"] == "Syncing")

    async def commit(self) -> None:
        self._covered = ",".join(each["instance"] for each in self.registry()["engines"])
        self.api.touch(LEASE, {"spec": {"holderIdentity": None}})
        self.api.transact(*KEY, "Committed", self._covered)
        await self.api.until(lambda: len(self.serving()) == ENGINES)


@asynccontextmanager
async def a_cluster(api: fake_api.Api) -> AsyncIterator[Cluster]:
    cluster = Cluster(api)
    kubelets = asyncio.create_task(cluster.kubelets())
    try:
        yield cluster
    finally:
        kubelets.cancel()


def _status(pod: dict[str, Any], kind: str) -> str:
    found = (c["status"] for c in pod["status"].get("conditions", ()) if c["type"] == kind)
    return next(found, "")


def _change(api: fake_api.Api, **spec: Any) -> None:
    api.change(*KEY, {**api.pool(*KEY)["spec"], **spec})


@pytest.mark.parametrize("restarts", [False, True], ids=["", "the operator restarts"])
def test_each_sync_lets_new_engines_take_over_and_clients_never_have_fewer(restarts):
    async def story() -> None:
        api = fake_api.Api()
        async with a_cluster(api) as cluster:
            async with fake_api.operator(api):
                api.make(*KEY, num_gpus_per_worker=1, rollout={"maxSurge": 1})
                await api.until(lambda: api.up(*KEY))
                await api.until(lambda: len(cluster.told()) == ENGINES and all(cluster.told()))
                olds = cluster.told()
                await cluster.commit()
                cluster.fewest = ENGINES
                _change(api, seed=7)
                await api.until(lambda: cluster.beside() == olds[-1:])
                assert len(cluster.serving()) == ENGINES
                told = cluster.told()
                assert told[:-1] == olds[:-1]
                await cluster.begin()
                # Whatever is edited now: the sync is of whom the registry names.
                _change(api, seed=8)
                await asyncio.sleep(0.2)
                assert cluster.told() == told
                if not restarts:
                    await _ends(api, cluster, told)
            if restarts:
                async with fake_api.operator(api):
                    await asyncio.sleep(0.2)
                    assert cluster.told() == told
                    await _ends(api, cluster, told)
            assert cluster.fewest == ENGINES

    asyncio.run(story())


async def _ends(api: fake_api.Api, cluster: Cluster, told: list[str]) -> None:
    """Synced as often as another engine is to be synced, the rollout comes to rest."""

    def at_rest() -> bool:
        revision = api.pool(*KEY)["status"]["revision"]
        labels = [pod["metadata"]["labels"] for pod in api.pods("rl")]
        updated = [each[names.LABEL_REVISION] for each in labels] == [revision] * ENGINES
        return updated and not cluster.beside() and all(cluster.told())

    for _ in range(2 * ENGINES):
        await cluster.commit()
        covered = told
        await api.until(lambda: at_rest() or cluster.told() != covered)  # noqa: B023
        await api.until(lambda: all(each["instance"] for each in cluster.registry()["engines"]))
        if at_rest():
            break
        told = cluster.told()
    assert at_rest()
