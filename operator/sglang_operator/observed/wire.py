"""Objects as the API server sends them, reduced to what is used, and turned into what was seen.

Decoding goes from bytes into these structs, and builds no others (explanation/kubernetes.md).
"""

from collections.abc import Collection, Iterator
from datetime import datetime
from sys import intern
from typing import Any

import msgspec

from sglang_operator.api import bounds, names
from sglang_operator.memory import cards
from sglang_operator.observed import queues, sightings, variables
from sglang_operator.observed.model import (
    Companion,
    ContainerKind,
    Gate,
    ObservedChild,
    ObservedNode,
    ObservedPod,
    Termination,
)
from sglang_operator.observed.moment import Moment
from sglang_operator.weights import lease_state


class OwnerReference(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []

    @property
    def version(self) -> int:
        """Resource versions are ordered integers (Kubernetes KEP-5504)."""
        return int(self.resource_version)

    @property
    def controller(self) -> OwnerReference | None:
        return next((owner for owner in self.owner_references if owner.controller), None)


class PodCondition(msgspec.Struct, frozen=True, rename="camel"):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerWaiting(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerRunning(msgspec.Struct, frozen=True, rename="camel"):
    started_at: datetime | None = None


class ContainerState(msgspec.Struct, frozen=True):
    terminated: Terminated | None = None
    waiting: ContainerWaiting | None = None
    running: ContainerRunning | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    container_id: str = msgspec.field(name="containerID", default="")
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class Resources(msgspec.Struct, frozen=True):
    limits: dict[str, str] = {}
    claims: list[dict[str, str]] = []


class ExitCodes(msgspec.Struct, frozen=True):
    operator: str = ""
    values: list[int] = []


class RestartRule(msgspec.Struct, frozen=True, rename="camel"):
    """What becomes of a container that ended with one of these codes (Kubernetes from 1.34)."""

    action: str = ""
    exit_codes: ExitCodes = ExitCodes()

    def restarts(self, code: int) -> bool:
        """Whether kubelet starts the container again, alone or with all others of the pod."""
        listed = code in self.exit_codes.values
        meant = {"In": listed, "NotIn": not listed}.get(self.exit_codes.operator, False)
        return meant and self.action.startswith("Restart")


class Container(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    restart_policy: str = ""  # its own; empty: the pod's
    restart_policy_rules: list[RestartRule] = []  # they go before it
    resources: Resources = Resources()
    args: list[str] = []
    env: list[dict[str, Any]] = []


class SchedulingGate(msgspec.Struct, frozen=True):
    name: str = ""


class ReadinessGate(msgspec.Struct, frozen=True, rename="camel"):
    condition_type: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    restart_policy: str = ""
    scheduler_name: str = ""
    scheduling_gates: list[SchedulingGate] = []
    readiness_gates: list[ReadinessGate] = []
    scheduling_group: dict[str, Any] | None = None
    resource_claims: list[dict[str, Any]] = []
    containers: list[Container] | None = None  # null in a bookmark, which is an object of its kind
    init_containers: list[Container] = []


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: list[PodCondition] = []
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Taint(msgspec.Struct, frozen=True):
    key: str = ""
    effect: str = ""


class NodeSpec(msgspec.Struct, frozen=True):
    taints: list[Taint] = []
    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True):
    conditions: list[PodCondition] = []
    allocatable: dict[str, str] = {}


class NodeObject(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class CustomResource(msgspec.Struct, frozen=True):
    """A pool.  Its spec is kept as it is written: built, it is up to twenty times as large."""

    metadata: Meta
    written: msgspec.Raw = msgspec.field(name="spec", default=msgspec.Raw(b"{}"))
    status: dict[str, Any] = {}
    # Why the rest of it could not be read; of no field of the object.
    unreadable: str = msgspec.field(name="/unreadable", default="")
    # Bytes that it would take, where its spec is left out for want of room.
    left_out: int = msgspec.field(name="/leftOut", default=0)

    @property
    def spec(self) -> dict[str, Any]:
        """What is written, built anew each time.  Of a decoder's record, that raises nothing."""
        return msgspec.json.decode(self.written, type=dict[str, Any])


class Child(msgspec.Struct, frozen=True):
    """An object of any of ``children.kinds``: what may be compared with the desired one."""

    metadata: Meta
    spec: dict[str, Any] | None = None
    data: dict[str, str] | None = None
    revision: int | None = None  # of a ControllerRevision
    whole: bool = msgspec.field(name="/whole", default=True)  # all of it; no field of the object


# What of an object the differ sees beside its metadata.
PARTS = tuple(name for name in Child.__struct_fields__ if name not in ("metadata", "whole"))

_MOST_OF_A_KIND = 64  # scheduling gates, or limits: who may make pods writes as many as he likes
_MAX_SAID = 12_288  # of what kubelet and scheduler say; a container's last words are 4 KiB
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def seconds(time: datetime | None) -> float:
    """Seconds since the epoch; 0 if there is no time, or none that can be written."""
    return bounds.moment(time.timestamp()) if time else 0.0


# Of an engine pod's labels and annotations (with how many characters) no others reach this far.
READ_LABELS = names.OWN_LABELS | {names.LABEL_POOL, names.LABEL_ENGINE, names.LABEL_REVISION}
READ_LABELS |= queues.LABELS
READ_ANNOTATIONS = {
    names.ANNOTATION_ATTEMPT: 16,
    names.ANNOTATION_FAILURES: 16,
    names.ANNOTATION_STARTUP_FAILURES: 16,
    names.ANNOTATION_STARTUP_REASON: 256,
    names.ANNOTATION_DEVICES: 16_384,
    names.ANNOTATION_NODES: 16,
    names.ANNOTATION_SLOT: 64,
    names.ANNOTATION_START: 63,
    names.ANNOTATION_QUEUE_SEEN: 1,  # whether it is there
    names.ANNOTATION_KAI_GROUP: 253,
}


def _annotation(meta: Meta, name: str) -> str:
    """An annotation of an engine pod.  Raises KeyError for one that is not among those read."""
    return meta.annotations.get(name, "")[: READ_ANNOTATIONS[name]]


def observed_pod(pod: Pod, at: Moment, before: ObservedPod | None = None) -> ObservedPod:
    """What the planner sees of an engine pod at this moment; ``before`` is how it was last seen."""
    meta, status = pod.metadata, pod.status
    conditions = {condition.type: condition for condition in status.conditions}
    engine = next(
        (c for c in status.container_statuses if c.name == names.ENGINE_CONTAINER),
        ContainerStatus(),
    )
    waiting = engine.state.waiting or ContainerWaiting()
    scheduled = conditions.get("PodScheduled", PodCondition())
    disruption, words = queues.disruption(meta.labels, conditions)
    containers_ready = conditions.get("ContainersReady", PodCondition())
    known = tuple(before.terminations) if before is not None else ()
    companions = sightings.companions(_companions(pod, known), at, before)
    termination = _termination(engine.state.terminated, known)
    own = next(
        (c for c in pod.spec.containers or () if c.name == names.ENGINE_CONTAINER), Container()
    )
    over = termination is not None and not _restarts(pod.spec, own, termination.exit_code)
    last, restarts = sightings.container(engine.container_id, engine.restart_count, before)
    seen = ObservedPod(
        name=meta.name,
        uid=names.Uid(meta.uid),
        resource_version=meta.version,
        engine=names.EngineName(meta.labels.get(names.LABEL_ENGINE, "")),
        attempt=names.attempt_of(meta.name),  # as it was made: an annotation can be edited
        # What a thousand pods have in common is kept once.
        revision=intern(meta.labels.get(names.LABEL_REVISION, "")),
        nodes=variables.nodes(meta.name, own.args, _annotation(meta, names.ANNOTATION_NODES)),
        node_rank=names.node_rank_of(meta.name) or 0,
        devices=bounds.counts(_annotation(meta, names.ANNOTATION_DEVICES)),
        slot=_annotation(meta, names.ANNOTATION_SLOT),
        start=_annotation(meta, names.ANNOTATION_START),
        gpus_seen=variables.gpus(own.env)
        or variables.claimed(meta.namespace, own.resources.claims, pod.spec.resource_claims),
        failures=bounds.count(_annotation(meta, names.ANNOTATION_FAILURES)),
        startup_failures=bounds.count(_annotation(meta, names.ANNOTATION_STARTUP_FAILURES)),
        startup_reason=_annotation(meta, names.ANNOTATION_STARTUP_REASON),
        node=intern(pod.spec.node_name),
        phase=intern(status.phase),
        reason=bounds.reason(status.reason),
        message=(status.message or words)[:_MAX_SAID],
        created=seconds(meta.creation_timestamp),
        seen=sightings.of_pod(
            pod.spec.node_name,
            seconds(meta.deletion_timestamp),
            meta.deletion_grace_period_seconds,
            at,
            before,
        ),
        deleting=meta.deletion_timestamp is not None,
        deletion_asked=_deletion_asked(meta, before),
        deletion_due=seconds(meta.deletion_timestamp),
        over=over,
        companions=companions,
        engine_ready=engine.ready,
        engine_runs=engine.state.running is not None,
        answered=engine.ready
        or (before is not None and before.answered and before.last_container_id == last),
        started=bool(engine.started),
        containers_ready=_true(conditions, "ContainersReady"),
        containers_ready_changed=seconds(containers_ready.last_transition_time),
        ready=_true(conditions, "Ready"),
        keeps_images=variables.keeps_images(own.env),
        gated=_gated(pod),
        gate=gate(pod),
        unschedulable=intern(scheduled.message[:_MAX_SAID]) if scheduled.status == "False" else "",
        scheduling=intern(scheduled.reason) if scheduled.status == "False" else scheduled.status,
        scheduling_gates=tuple(
            intern(gate.name) for gate in pod.spec.scheduling_gates[:_MOST_OF_A_KIND]
        ),
        queue=queues.of(meta.labels),
        queue_seen=bool(_annotation(meta, names.ANNOTATION_QUEUE_SEEN)),
        group=_annotation(meta, names.ANNOTATION_KAI_GROUP),
        scheduler=intern(pod.spec.scheduler_name),
        has_sandbox=_true(conditions, "PodReadyToStartContainers"),
        memory_limit=intern(own.resources.limits.get("memory", "")),
        limits=variables.limits(own.resources.limits, _MOST_OF_A_KIND),
        disruption=bounds.reason(disruption),
        waiting_reason=bounds.reason(waiting.reason),
        waiting_message=waiting.message[:_MAX_SAID],
        termination=termination,
        last_termination=_termination(engine.last_state.terminated, known),
        restarts=restarts,
        container_id=engine.container_id,
        last_container_id=last,
        ip=status.pod_ip,
    )
    return (sightings.ended if seen.ended else sightings.running)(seen, at, before)


def _restarts(spec: PodSpec, container: Container, exit_code: int) -> bool:
    """Whether kubelet starts a container again that ended with this code.

    The pod's phase does not say so: it is Running while any container of the pod runs, and a
    webhook may have put others beside the engine.
    """
    if any(rule.restarts(exit_code) for rule in container.restart_policy_rules):
        return True
    policy = container.restart_policy or spec.restart_policy
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def _companions(pod: Pod, known: Collection[Termination]) -> Iterator[Companion]:
    """The containers beside the engine that are not as they should be, in the pod's order."""
    for kind, specs, statuses in (
        (ContainerKind.INIT, pod.spec.init_containers, pod.status.init_container_statuses),
        (ContainerKind.SIDECAR, pod.spec.containers or [], pod.status.container_statuses),
    ):
        told = {container.name: container for container in specs}
        for status in statuses:
            if status.name == names.ENGINE_CONTAINER:
                continue
            container = told.get(status.name, Container())
            seen = _companion(kind, pod.spec, container, status, known)
            if not seen.well:
                yield seen


def _companion(
    kind: ContainerKind,
    spec: PodSpec,
    container: Container,
    status: ContainerStatus,
    known: Collection[Termination],
) -> Companion:
    if kind is ContainerKind.INIT and container.restart_policy == "Always":
        kind = ContainerKind.NATIVE_SIDECAR
    waiting = status.state.waiting or ContainerWaiting()
    ended = _termination(status.state.terminated, known)
    return Companion(
        name=intern(status.name),
        kind=kind,
        ready=status.ready,
        runs=status.state.running is not None,
        since=seconds((status.state.running or ContainerRunning()).started_at),
        waiting_reason=bounds.reason(waiting.reason),
        waiting_message=waiting.message[:_MAX_SAID],
        termination=ended,
        last_termination=_termination(status.last_state.terminated, known),
        over=ended is not None and not _restarts(spec, container, ended.exit_code),
    )


def observed_node(node: NodeObject, *, gone: bool = False) -> ObservedNode:
    """What the planner sees of a node."""
    ready = next((c for c in node.status.conditions if c.type == "Ready"), PodCondition())
    return ObservedNode(
        name=node.metadata.name,
        # A node that has not reported yet is new, not lost.
        ready=ready.status in ("True", ""),
        ready_changed=seconds(ready.last_transition_time),
        out_of_service=any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints),
        gone=gone,
        cordoned=node.spec.unschedulable,
        resources={
            name: bounds.count(count)
            for name, count in node.status.allocatable.items()
            if "/" in name
        },
        card=cards.of_labels(node.metadata.labels),
    )


def observed_child(child: Child) -> ObservedChild:
    """What the differ sees of a child that is not a pod."""
    controller = child.metadata.controller
    body: dict[str, Any] = {
        "metadata": {
            "name": child.metadata.name,
            "namespace": child.metadata.namespace,
            "labels": child.metadata.labels,
            "annotations": child.metadata.annotations,
            "resourceVersion": child.metadata.resource_version,
            "deletionTimestamp": child.metadata.deletion_timestamp,
        }
    }
    body |= {key: part for key in PARTS if (part := getattr(child, key)) is not None}
    return ObservedChild(
        uid=names.Uid(child.metadata.uid),
        owner=names.Uid(controller.uid) if controller else None,
        owner_pool=controller.name if controller and controller.kind == names.KIND else "",
        body=body,
        whole=child.whole,
    )


def _true(conditions: dict[str, PodCondition], type_: str) -> bool:
    condition = conditions.get(type_)
    return condition is not None and condition.status == "True"


def gate(pod: Pod) -> Gate | None:
    """Its readiness gate; None if that was never set, or it was made without one.

    There a condition of that name keeps nobody away.
    """
    conditions = {condition.type: condition for condition in pod.status.conditions}
    found = conditions.get(names.CONDITION_WEIGHTS_SYNCED)
    return _gate(found) if _gated(pod) else None


def _gated(pod: Pod) -> bool:
    wanted = names.CONDITION_WEIGHTS_SYNCED
    return any(each.condition_type == wanted for each in pod.spec.readiness_gates)


def _gate(condition: PodCondition | None) -> Gate | None:
    """The readiness gate's condition; its message is the version that it was opened with."""
    if condition is None:
        return None
    is_open = condition.status == "True"
    return Gate(
        is_open=is_open,
        version=intern(bounds.label(condition.message)) if is_open else "",
        reason=condition.reason,
        released=None if is_open else lease_state.marked(condition.message),
    )


def _termination(
    terminated: Terminated | None, known: Collection[Termination]
) -> Termination | None:
    """An end; one that is known stays the same object, with what was read of it."""
    if terminated is None:
        return None
    seen = Termination(
        exit_code=terminated.exit_code,
        reason=bounds.reason(terminated.reason),
        message=terminated.message[-_MAX_SAID:],
        started=seconds(terminated.started_at),
        finished=seconds(terminated.finished_at),
    )
    return next((end for end in known if end == seen), seen)


def _deletion_asked(meta: Meta, before: ObservedPod | None) -> float:
    """When the deletion was asked for: the timestamp in the object is the end of its grace.

    Kubelet's own delete, its last word on a pod that has ended, moves both to the present (seen
    on a real node): it tells nothing of when the deletion was asked for before.
    """
    if meta.deletion_timestamp is None:
        return 0.0
    if before is not None and before.deleting:
        return before.deletion_asked
    if meta.deletion_grace_period_seconds == 0 and not (before is not None and before.ended):
        return 0.0
    return seconds(meta.deletion_timestamp) - meta.deletion_grace_period_seconds
