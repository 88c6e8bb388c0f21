"""A cluster to look at: nodes, pools and their pods, as the API server would send them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.observed import wire
from sglang_operator.pool.resolve import Engine, Owner, Pool, resolve_pool
from sglang_operator.status import compute
from sglang_operator.view import grid
from sglang_operator.view.cluster_view import ClusterView, Leader, NodeView, cluster_view
from sglang_operator.view.drawing import Map
from sglang_operator.weights import lease_state
from tests.builders import NOW, guide_spec, weighed

TIME = "2027-01-15T08:00:00Z"


class DrawnCluster:
    """Nodes with eight GPUs; pools that are placed on them engine by engine."""

    def __init__(self, nodes: int = 3, gpus: int = 8) -> None:
        self.nodes = [self._node(f"gpu-node-{number}", gpus) for number in range(nodes)]
        self.pools: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self._free = {node["metadata"]["name"]: gpus for node in self.nodes}

    def _node(self, name: str, gpus: int) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "resourceVersion": "1"},
            "spec": {},
            "status": {
                "allocatable": {"cpu": "64", "nvidia.com/gpu": str(gpus)},
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": TIME}],
            },
        }

    def node(self, number: int) -> dict[str, Any]:
        return self.nodes[number]

    def pool(
        self,
        name: str = "actor-infer",
        *,
        namespace: str = "rl",
        ready: bool = True,
        reason: str = "",
        message: str = "",
        status: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Pool:
        """A pool with a pod for each engine that finds room; the others are Pending."""
        spec = guide_spec(**changes)
        uid = f"uid-{namespace}-{name}"
        said = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": reason or "PoolReady",
            "message": message or "all is well",
            "observedGeneration": 1,
            "lastTransitionTime": TIME,
        }
        working = [said, {**said, "type": "Reconciling", "status": "True"}]
        self.pools.append(
            {
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": uid,
                    "generation": 1,
                    "resourceVersion": "9",
                    "creationTimestamp": TIME,
                },
                "spec": spec,
                "status": {
                    "observedGeneration": 1,
                    "conditions": [said] if ready else working,
                    **(status or {}),
                },
            }
        )
        owner = Owner(name=name, namespace=namespace, uid=names.Uid(uid), generation=1)
        resolved = resolve_pool(owner, spec)
        assert isinstance(resolved, Pool), resolved
        for engine in resolved.running:
            self.pods += [self._pod(resolved, engine, rank) for rank in range(engine.pods)]
        return resolved

    def _pod(self, pool: Pool, engine: Engine, rank: int) -> dict[str, Any]:
        name = engine_pod.member_name(pool, engine, 0, rank)
        node = next((n for n, free in self._free.items() if free >= pool.gpus_per_pod), "")
        if node:
            self._free[node] -= pool.gpus_per_pod
        pod: dict[str, Any] = {
            "metadata": {
                "name": name,
                "namespace": pool.owner.namespace,
                "uid": f"uid-{name}",
                "resourceVersion": "5",
                "creationTimestamp": TIME,
                "labels": {
                    names.LABEL_ENGINE: engine.name,
                    names.LABEL_REVISION: pool.revision,
                    names.LABEL_POOL: pool.owner.name,
                },
                "annotations": {
                    names.ANNOTATION_ATTEMPT: "0",
                    names.ANNOTATION_DEVICES: ",".join(map(str, engine_pod.devices(engine, rank))),
                    names.ANNOTATION_NODES: str(engine.pods),
                },
                "ownerReferences": [
                    {
                        "kind": names.KIND,
                        "name": pool.owner.name,
                        "uid": pool.owner.uid,
                        "controller": True,
                    }
                ],
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running" if node else "Pending", "podIP": "10.0.0.1"},
        }
        up = [("PodScheduled", "True"), ("ContainersReady", "True"), ("Ready", "True")]
        conditions: list[dict[str, str]] = [{"type": t, "status": s} for t, s in up]
        if not node:
            message = "0/6 nodes are available: 6 Insufficient nvidia.com/gpu."
            conditions = [{"type": "PodScheduled", "status": "False", "message": message}]
        pod["status"]["conditions"] = conditions
        return pod

    def find(self, pool: str, engine: str) -> dict[str, Any]:
        """The pod of this engine."""
        name = names.pod_name(pool, names.EngineName(engine), 0)
        return next(pod for pod in self.pods if pod["metadata"]["name"] == name)

    def close(self, pool: str, engine: str) -> None:
        """Up, its gate closed."""
        self._say(pool, engine, Ready="False")

    def put_to_sleep(self, pool: str, engine: str) -> None:
        """The same, by a trainer that has its memory."""
        self.close(pool, engine)
        pod, condition = self.find(pool, engine), names.CONDITION_WEIGHTS_SYNCED
        pod["spec"]["readinessGates"] = [{"conditionType": condition}]
        pod["status"]["conditions"].append(
            {
                "type": condition,
                "status": "False",
                "reason": "Sleeping",
                "message": lease_state.mark(["weights", "kv_cache"]),
                "lastTransitionTime": TIME,
            }
        )

    def leave(self, pool: str, engine: str) -> None:
        """Deleted, and not yet gone from its node."""
        self.find(pool, engine)["metadata"]["deletionTimestamp"] = TIME

    def starting(self, pool: str, engine: str) -> None:
        self._say(pool, engine, Ready="False", ContainersReady="False")

    def fail(self, pool: str, engine: str, *, failures: int = 9) -> None:
        """Ended at this moment, so often that it waits now."""
        pod = self.find(pool, engine)
        pod["metadata"]["annotations"][names.ANNOTATION_FAILURES] = str(failures)
        self._say(pool, engine, Ready="False", ContainersReady="False")
        pod["status"]["phase"] = "Failed"
        ended = {"exitCode": 1, "reason": "Error", "message": "out of memory", "finishedAt": TIME}
        pod["status"]["containerStatuses"] = [{"name": "engine", "state": {"terminated": ended}}]

    def _say(self, pool: str, engine: str, **said: str) -> None:
        for condition in self.find(pool, engine)["status"]["conditions"]:
            condition["status"] = said.get(condition["type"], condition["status"])

    def cluster_view(
        self,
        *,
        nodes: bool = True,
        now: float = NOW,
        notes: Sequence[str] = (),
        holders: Sequence[Leader] | None = None,
    ) -> ClusterView:
        return cluster_view(
            msgspec.json.decode(msgspec.json.encode(self.pools), type=list[wire.CustomResource]),
            msgspec.convert(self.pods, list[wire.Pod]),
            msgspec.convert(self.nodes, list[NodeView]) if nodes else None,
            now=now,
            notes=notes,
            holders=holders,
        )

    def observe(self, now: float = NOW) -> None:
        """Let the operator's own code write every status."""
        by_name = {pool["metadata"]["name"]: pool for pool in self.pools}
        for seen in self.cluster_view(now=now).pools:
            assert isinstance(seen.resolved, Pool)
            raw = by_name[seen.name]
            raw["status"] = compute.compute(
                seen.resolved,
                seen.plan,
                weighed(seen.resolved, list(seen.pods), now),
                ignored=(),
                troubles=(),
                previous=raw["status"],
                now=now,
            )

    def map(self, **options: Any) -> Map:
        return grid.gpu_map(self.cluster_view(), **options)


def guide() -> DrawnCluster:
    """The guide's pool, all gates closed."""
    world = DrawnCluster()
    pool = world.pool(status={"readySummary": "12/12", "syncedSummary": "0/12"})
    for engine in pool.running:
        world.close("actor-infer", engine.name)
    return world


def trouble() -> DrawnCluster:
    """Two pools that share ids, in every state that can be drawn."""
    world = DrawnCluster(nodes=6)
    world.pool(
        ready=False,
        reason="EnginesFailing",
        message="1 engine waiting to be started again after KVCacheTooSmall: "
        "Not enough memory for the KV cache; raise mem_fraction_static above 0.002 (now 0.001)",
        status={
            "readySummary": "12/14",
            "syncedSummary": "10/14",
            "lastFailures": [
                {
                    "reason": "KVCacheTooSmall",
                    "message": "Not enough memory for the KV cache",
                    "advice": "raise mem_fraction_static above 0.002 (now 0.001)",
                    "exitCode": 1,
                    "engines": ["g14-15"],
                    "pod": "actor-infer-g14-15-0",
                    "firstTime": TIME,
                    "lastTime": TIME,
                }
            ],
        },
        device_mapping="list(range(0,28))",
    )
    world.pool(
        "judge",
        ready=False,
        reason="DevicesPending",
        message="1 engine waiting for a node with 4 free nvidia.com/gpu: 0/6 nodes are available",
        status={"readySummary": "5/6", "syncedSummary": "5/6"},
        device_mapping="list(range(16,40))",
        num_gpus_per_worker=4,
        strategy_args={"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}},
    )
    world.close("actor-infer", "g0-1")
    world.close("actor-infer", "g2-3")
    world.starting("actor-infer", "g10-11")
    world.fail("actor-infer", "g14-15")
    world.node(2)["status"]["conditions"][0] |= {"status": "False"}
    world.node(5)["spec"]["unschedulable"] = True
    return world
