"""A view of a cluster: pools and nodes as they are, seen with the operator's own eyes.

The objects are decoded and judged by the code that the operator runs, so what is shown here is
what it would decide, also while it is away.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from sglang_operator.api import conditions, names
from sglang_operator.observed import sightings, wire
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed, ObservedNode, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.plan import plan as plans
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Owner, Pool, Refused, resolve_pool
from sglang_operator.view import refused_pool

DEFAULT_RESOURCE = "nvidia.com/gpu"


class _Capacity(msgspec.Struct, frozen=True):
    allocatable: dict[str, str] = {}
    conditions: list[wire.PodCondition] = []


class _Spec(msgspec.Struct, frozen=True):
    taints: list[wire.Taint] = []
    unschedulable: bool = False


class NodeView(msgspec.Struct, frozen=True):
    """A node as the API server sends it, with what it has to give."""

    metadata: wire.Meta
    spec: _Spec = _Spec()
    status: _Capacity = _Capacity()

    def gpus(self, resource: str) -> int:
        """How many of this resource its pods may have."""
        quantity = self.status.allocatable.get(resource, "0")
        return int(quantity) if quantity.isdecimal() and len(quantity) < 9 else 0


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """One pool and its pods."""

    record: wire.CustomResource
    resolved: Pool | Refused
    pods: tuple[ObservedPod, ...]
    plan: Plan  # of one that cannot be run: the engines that it has

    @property
    def name(self) -> str:
        return self.record.metadata.name

    @property
    def namespace(self) -> str:
        return self.record.metadata.namespace

    @property
    def status(self) -> Mapping[str, object]:
        return self.record.status

    def condition(self, type_: str) -> Mapping[str, str]:
        """The condition of this type in the status, or an empty one."""
        found: Mapping[str, str] | None = conditions.find(
            self.record.status.get("conditions", []), type_
        )
        return found or {}

    @property
    def observed(self) -> bool:
        """Whether the status is about the spec as it is now."""
        known = self.record.status.get("observedGeneration")
        return bool(known == self.record.metadata.generation)

    @property
    def ready(self) -> bool:
        return self.observed and self.condition(conditions.READY).get("status") == conditions.TRUE

    @property
    def resource(self) -> str:
        """What its GPUs are counted by; of a refused spec the usual one."""
        return self.resolved.resource if isinstance(self.resolved, Pool) else DEFAULT_RESOURCE

    @property
    def gpus(self) -> int:
        """GPUs of one engine, as the spec has it."""
        if isinstance(self.resolved, Pool):
            return self.resolved.gpus
        return refused_pool.gpus(self.pods, self.status)

    @property
    def desired(self) -> int:
        """How many engines there should be; with a refused spec, by the one before it."""
        found = len(self.plan.engines)
        if isinstance(self.resolved, Pool):
            return found
        counts = self.record.status.get("engines", {})
        return max(found, int(counts.get("desired", 0)))

    @property
    def leaving(self) -> tuple[ObservedPod, ...]:
        """Pods that hold GPUs and stand for no engine any more: on their way out."""
        shown = {pod.uid for pod in self.plan.pods}
        return tuple(
            pod for pod in self.pods if pod.node and pod.holds_gpus and pod.uid not in shown
        )

    def count(self, *states: EngineState) -> int:
        """How many engines stand in one of these."""
        return sum(engine.state in states for engine in self.plan.engines)


@dataclass(frozen=True, kw_only=True)
class Leader:
    """The holder of an operator's Lease, and how long ago it renewed (seconds)."""

    namespace: str
    identity: str
    silent: float
    term: float = 15.0  # for so long after a renewal nobody else may take the Lease
    renewed: str = ""  # as the Lease has it
    name: str = names.LEASE_NAME  # the Lease's
    serves: frozenset[str] | None = None  # the namespaces, or all if empty; None: it does not say

    @property
    def lease(self) -> tuple[str, str]:
        """By which it was elected: namespace and name."""
        return self.namespace, self.name

    @property
    def stopped(self) -> bool:
        """Whether it acts no more."""
        return self.silent >= self.term

    @property
    def pod(self) -> str:
        """The pod that it is, if it is one."""
        return self.identity.rpartition("_")[0]


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """Pools by namespace and name, and the nodes; None where nodes may not be seen."""

    pools: tuple[PoolView, ...]
    nodes: tuple[NodeView, ...] | None
    notes: tuple[str, ...] = field(default=())  # what could not be seen
    holders: tuple[Leader, ...] | None = None  # None: not looked for, or not to be seen

    @property
    def leaders(self) -> tuple[Leader, ...] | None:
        """The operators that act."""
        if self.holders is None:
            return None
        return tuple(holder for holder in self.holders if not holder.stopped)


def cluster_view(
    records: Iterable[wire.CustomResource],
    pods: Iterable[wire.Pod],
    nodes: Sequence[NodeView] | None,
    *,
    now: float,
    notes: Sequence[str] = (),
    holders: Sequence[Leader] | None = None,
) -> ClusterView:
    """The cluster as it is at this time (seconds since the epoch)."""
    by_pool: dict[str, list[ObservedPod]] = {}
    for pod in pods:
        controller = pod.metadata.controller
        if controller is not None and controller.kind == names.KIND:
            seen_pod = sightings.by_stamps(wire.observed_pod(pod, Moment(now, now)))
            by_pool.setdefault(controller.uid, []).append(seen_pod)
    observed = _observed_nodes(nodes)
    seen = [_pool(record, by_pool, observed, now) for record in records]
    return ClusterView(
        pools=tuple(sorted(seen, key=lambda pool: (pool.namespace, pool.name))),
        nodes=None if nodes is None else tuple(sorted(nodes, key=_by_number)),
        notes=tuple(notes),
        holders=None if holders is None else tuple(holders),
    )


def _pool(
    record: wire.CustomResource,
    by_pool: Mapping[str, Sequence[ObservedPod]],
    nodes: Mapping[str, ObservedNode] | None,
    now: float,
) -> PoolView:
    meta = record.metadata
    owner = Owner(
        name=meta.name,
        namespace=meta.namespace,
        uid=names.Uid(meta.uid),
        generation=meta.generation,
    )
    pods = tuple(by_pool.get(meta.uid, ()))
    resolved = resolve_pool(owner, record.spec)
    if isinstance(resolved, Pool):
        plan = plans.plan(resolved, Observed(pods=pods, nodes=nodes), now)
    else:
        plan = Plan(engines=tuple(refused_pool.engines(pods, nodes, now)))
    return PoolView(record=record, resolved=resolved, pods=pods, plan=plan)


def _observed_nodes(nodes: Sequence[NodeView] | None) -> dict[str, ObservedNode] | None:
    if nodes is None:
        return None
    found = {}
    for node in nodes:
        record = wire.NodeObject(
            metadata=node.metadata,
            spec=wire.NodeSpec(taints=node.spec.taints),
            status=wire.NodeStatus(conditions=node.status.conditions),
        )
        seen = wire.observed_node(record)
        # One look has nothing but stamps, and nothing is done by it.
        found[seen.name] = replace(seen, unready=seen.ready_changed)
    return found


def _by_number(node: NodeView) -> tuple[str, int, str]:
    """gpu-node-2 before gpu-node-10."""
    name = node.metadata.name
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return (stem, int(digits) if digits and len(digits) < 9 else -1, name)
