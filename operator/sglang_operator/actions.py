"""Desired × observed → actions: what to ask of the API server, each with its reason.  Pure.

The executor performs them, and decides only whether they still apply.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_operator.api import names, texts
from sglang_operator.children import drift, engine_pod, gang_groups, kinds, weights_lease
from sglang_operator.gates.decide import GatePlan
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.observed.model import Gate, Observed, ObservedChild, ObservedPod
from sglang_operator.plan.decision import ENDED_GRACE_SECONDS, CreateEngine, RemovePod
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Owner, Pool
from sglang_operator.weights import lease_state


@dataclass(frozen=True, kw_only=True)
class CreatePod:
    name: str
    engine: names.EngineName
    body: Mapping[str, Any]
    reason: str
    after: names.Uid | None = None  # the pod whose delete has to be taken first


@dataclass(frozen=True, kw_only=True)
class DeletePod:
    """A delete of exactly this pod in this state: anything else under the name is left alone."""

    name: str
    uid: names.Uid
    resource_version: int | None  # None: in any state
    grace_seconds: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CreateChild:
    kind: str
    name: str
    body: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class UpdateChild:
    kind: str
    name: str
    uid: names.Uid
    body: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeleteChild:
    kind: str
    name: str
    uid: names.Uid
    reason: str
    resource_version: str = ""  # of the state in which alone it may go; empty: any


@dataclass(frozen=True, kw_only=True)
class SetGate:
    """Set the readiness gate of exactly this pod, if that is still as it was seen."""

    name: str
    uid: names.Uid
    resource_version: int
    seen: Gate | None
    is_open: bool
    reason: str
    message: str
    after: names.Uid | None = None  # the pod whose gate has to be open first: it takes over


@dataclass(frozen=True, kw_only=True)
class WriteLease:
    """Take the operator's own step in the weights Lease, if that is still as it was seen."""

    name: str
    patch: Mapping[str, Any]  # bound to UID and version of the Lease that was seen
    reason: str


PodAction = CreatePod | DeletePod
GateAction = SetGate | WriteLease | CreateChild
ChildAction = CreateChild | UpdateChild | DeleteChild


def pod_actions(
    pool: Pool,
    plan: Plan,
    template: Mapping[str, Any],
    near: Callable[[CreateEngine, int], str] = lambda create, node_rank: "",
) -> list[PodAction]:
    """Deletes first: they free the GPUs that the creates need.

    ``near``: the node that a pod of this node rank is rather to be on; "" if none is better.
    """
    shared = dict(template)
    deletes: list[PodAction] = [
        DeletePod(
            name=removal.pod.name,
            uid=removal.pod.uid,
            resource_version=removal.pod.resource_version,
            grace_seconds=_grace(pool, removal),
            reason=removal.reason,
        )
        for removal in plan.removals
    ]
    creates: list[PodAction] = []
    for create in plan.creates:
        after = create.after.uid if create.after is not None else None
        for node_rank in create.node_ranks:
            seat = create.seats[node_rank] if create.seats else None
            body = engine_pod.pod(
                pool,
                shared,
                create.engine,
                create.attempt,
                create.failures,
                create.streak,
                node_rank=node_rank,
                seat=seat,
                near=near(create, node_rank),
                start=create.start,
            )
            name = body["metadata"]["name"]
            engine = create.engine.name
            creates.append(
                CreatePod(name=name, engine=engine, body=body, reason=create.reason, after=after)
            )
    return deletes + creates


def left_behind(pods: Iterable[ObservedPod]) -> list[PodAction]:
    """Deletes of pods whose trainer is gone, where no spec says how long they may drain."""
    return [
        DeletePod(
            name=pod.name,
            uid=pod.uid,
            resource_version=pod.resource_version,
            grace_seconds=ENDED_GRACE_SECONDS,
            reason=texts.SEAT_LEFT,
        )
        for pod in pods
    ]


def _grace(pool: Pool, removal: RemovePod) -> int:
    """An engine that has ended has nothing to drain; what runs beside it gives its GPUs free."""
    grace = pool.spec.drain.grace_period_seconds
    drains = removal.drains and not removal.pod.ended
    return grace if drains else min(grace, ENDED_GRACE_SECONDS)


def gate_actions(owner: Owner, weights: GatePlan) -> list[GateAction]:
    """The abort comes alone: what follows from it is planned when it stands in the Lease."""
    name = names.weights_lease_name(owner.name)
    if weights.abort is not None:
        return [_write_lease(name, weights.abort)]
    if weights.restore is not None:
        body = weights_lease.weights_lease(owner, weights.restore)
        return [CreateChild(kind=kinds.LEASE.kind, name=name, body=body, reason="it is gone")]
    step = [] if weights.recovery is None else [_write_lease(name, weights.recovery)]
    takes_over = _takes_over(weights)
    gates = [
        SetGate(
            name=gate.pod.name,
            uid=gate.pod.uid,
            resource_version=gate.pod.resource_version,
            seen=gate.pod.gate,
            is_open=gate.is_open,
            reason=gate.reason,
            message=gate.message,
            after=None if gate.is_open else takes_over.get(gate.pod.uid),
        )
        for gate in weights.gates
    ]
    return [*step, *gates]


def _takes_over(weights: GatePlan) -> dict[names.Uid, names.Uid]:
    """Of engines that make way for others the leader, and whose gate opens now in its place."""
    opening = {gate.pod.uid for gate in weights.gates if gate.is_open}
    found = ((engine, weights.heirs.get(engine.name)) for engine in weights.engines)
    return {
        engine.leader.uid: heir.leader.uid
        for engine, heir in found
        if heir is not None and engine.leader is not None and heir.leader is not None
        if heir.leader.uid in opening
    }


def _write_lease(name: str, step: LeaseStep) -> WriteLease:
    patch = lease_state.patch(step.lease.body, step.state)
    exactly = {"uid": step.uid, "resourceVersion": step.resource_version}
    metadata = {**patch["metadata"], **exactly}
    return WriteLease(name=name, patch={**patch, "metadata": metadata}, reason=step.reason)


def child_actions(
    pool: Pool,
    wanted: Sequence[Mapping[str, Any]],
    observed: Observed,
    *,
    pods_first: bool = False,
) -> list[ChildAction]:
    """What makes the ``wanted`` objects, of any kind in ``children.kinds``, so.

    ``pods_first`` leaves out what is not there yet and waits for pods.  The headless Service does
    not wait: engines need the names that it gives them.
    Of a pool that goes, what is there is kept right, and nothing is made or deleted.
    """
    made = [body for body in wanted if not (pods_first and _waits(body, observed))]
    have = kept_actions(pool.owner, made, observed)
    return have if observed.leaving else [*have, *_to_drop(pool, wanted, observed)]


def group_actions(
    pool: Pool, plan: Plan, observed: Observed
) -> dict[tuple[names.EngineName, ...], list[ChildAction]]:
    """What makes the groups of a gang's scheduler that the plan's pods are to be of, by the engines
    of each."""
    return {
        before.engines: steps
        for before in gang_groups.before_pods(pool, plan, observed)
        if (steps := list(_group_steps(pool, before, observed)))
    }


def _group_steps(
    pool: Pool, before: gang_groups.Before, observed: Observed
) -> Iterator[ChildAction]:
    """Another try's of the same name goes first.  What is somebody else's is met, and told."""
    body = before.body
    kind, name = kinds.kind_of(body), body["metadata"]["name"]
    found = observed.children.get((kind, name))
    if found is not None and found.owner == pool.owner.uid:
        if before.begun or _is_as_made(body, found.body):
            return
        yield DeleteChild(kind=kind, name=name, uid=found.uid, reason="it is of an earlier try")
    why = "its pods are about to be made"
    yield CreateChild(kind=kind, name=name, body=body, reason=why)


def _is_as_made(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a group is as it would be made now.

    What its scheduler's webhooks and defaults have added is theirs, and no difference; what the
    operator wrote for an earlier spec is.
    """
    same = gang_groups.made_of(wanted) == gang_groups.made_of(found)
    same = same and found["metadata"].get("deletionTimestamp") is None
    return same and not drift.difference(wanted["spec"], found.get("spec"))


def kept_actions(
    owner: Owner, wanted: Sequence[Mapping[str, Any]], observed: Observed
) -> list[ChildAction]:
    """What makes these children so, and leaves others alone."""
    have = list(_to_have(owner, wanted, observed))
    if observed.leaving:
        return [action for action in have if isinstance(action, UpdateChild)]
    return have


def _waits(body: Mapping[str, Any], observed: Observed) -> bool:
    kind, name = kinds.kind_of(body), body["metadata"]["name"]
    return (
        kinds.of(kind).waits_for_pods
        and not drift.is_headless(body)
        and (kind, name) not in observed.children
    )


def _to_have(
    owner: Owner, wanted: Sequence[Mapping[str, Any]], observed: Observed
) -> Iterator[ChildAction]:
    for body in wanted:
        kind, name = kinds.kind_of(body), body["metadata"]["name"]
        child = observed.children.get((kind, name))
        if child is not None and _unknown(kind, child):
            continue
        if child is None:
            yield CreateChild(kind=kind, name=name, body=body, reason="it does not exist")
        elif child.owner == owner.uid and (found := drift.drift(body, child.body)):
            why = f"{found.path} differs"
            if found.immutable and kinds.of(kind).pruned:
                yield DeleteChild(kind=kind, name=name, uid=child.uid, reason=why)
            else:
                yield UpdateChild(kind=kind, name=name, uid=child.uid, body=found.body, reason=why)


def _unknown(kind: str, child: ObservedChild) -> bool:
    """Whether it is one of many that pools do without, and known by name alone for want of room."""
    return kinds.is_spare(kind) and not child.whole


def _to_drop(
    pool: Pool, wanted: Sequence[Mapping[str, Any]], observed: Observed
) -> Iterator[ChildAction]:
    kept = {(kinds.kind_of(body), body["metadata"]["name"]) for body in wanted}
    for (kind, name), child in observed.children.items():
        if (kind, name) in kept or child.owner != pool.owner.uid or _unknown(kind, child):
            continue
        if kinds.of(kind).pruned:
            why, version = "no longer wanted", ""
            if kinds.of(kind).exact:
                version = str(child.body["metadata"].get("resourceVersion") or "")
            yield DeleteChild(
                kind=kind, name=name, uid=child.uid, reason=why, resource_version=version
            )


def foreign(
    pool: Pool, wanted: Sequence[Mapping[str, Any]], observed: Observed
) -> list[tuple[str, str]]:
    """Kind and name of everything that is seen to stand where something of the pool's should."""
    pods = [("Pod", name) for name in sorted(observed.orphans)]
    return [*foreign_children(pool, wanted, observed), *pods]


def foreign_children(
    pool: Pool, wanted: Sequence[Mapping[str, Any]], observed: Observed
) -> list[tuple[str, str]]:
    """Kind and name of objects that stand where a child should, and are somebody else's."""
    return [
        (kind, name)
        for body in wanted
        for kind, name in [(kinds.kind_of(body), body["metadata"]["name"])]
        if _is_foreign(pool, observed.children.get((kind, name)))
    ]


def _is_foreign(pool: Pool, child: ObservedChild | None) -> bool:
    """Somebody else's.  One of an earlier pool of this name is not: it is about to be collected."""
    return (
        child is not None and child.owner != pool.owner.uid and child.owner_pool != pool.owner.name
    )
