"""The engine pod.

``template`` renders what all engines of a revision share; ``pod`` adds what makes one engine.
A template of a large pool is rendered once and stamped a thousand times.
"""

from typing import Any

from sglang_operator.api import names, pod_volumes, spec
from sglang_operator.children import constrained, metadata, seated
from sglang_operator.engine import arguments, environment, probes
from sglang_operator.placement.seats import Seat
from sglang_operator.plan.startup import FailureStreak
from sglang_operator.pool import shared_memory
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.scheduling import gangs
from sglang_operator.scheduling.base import Member

# Volumes of every pod, and where they are mounted; what the user mounts there takes their place.
_OWN_MOUNTS = (
    (pod_volumes.SHM_VOLUME, pod_volumes.SHM_DIR),
    (pod_volumes.CACHE_VOLUME, pod_volumes.CACHE_DIR),
)
NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def pod(
    pool: Pool,
    shared: dict[str, Any],
    engine: Engine,
    attempt: int,
    failures: int = 0,
    streak: FailureStreak | None = None,
    *,
    node_rank: int = 0,
    seat: Seat | None = None,
    near: str = "",
    start: str = "",
) -> dict[str, Any]:
    """One engine's pod, or that of this node rank.  ``shared`` is ``template(pool)``; it is not
    changed.  ``seat``: where it belongs, if that is not the scheduler's to say; ``near``: the node
    that it is rather to be on; ``start``: the group that it starts in with other engines."""
    meta, own = shared["metadata"], _of_rank(shared, engine)
    name = member_name(pool, engine, attempt, node_rank)
    if node_rank:
        own |= _following(pool, {**shared["spec"], **own}, engine, attempt, node_rank)
    revisions = tuple(sorted(pool.accepted))
    member = Member(pool.owner.name, engine.name, attempt, engine.pods, node_rank, revisions, start)
    own |= gangs.member_spec(pool.spec, member)
    own |= constrained.spec({**shared["spec"], **own}, gangs.constraints(pool.spec, member))
    if near and seat is None:
        own |= constrained.near({**shared["spec"], **own}, near)
    if seat is not None:
        own |= seated.spec({**shared["spec"], **own}, seat)
    if streak is not None:
        # What fails at its start is started again by the operator, which counts and gives up.
        own["restartPolicy"] = "Never"
    if named(pool):
        # A Service names only pods that say their host name, though it would be this anyway.
        own["hostname"] = name
    annotations = {
        **meta["annotations"],
        **gangs.annotations(pool.spec, member),
        names.ANNOTATION_ATTEMPT: str(attempt),
        names.ANNOTATION_DEVICES: ",".join(map(str, devices(engine, node_rank))),
    }
    labels = {
        **gangs.labels(pool.spec, member),
        **meta["labels"],
        names.LABEL_ENGINE: engine.name,
    }
    if seat is not None:
        annotations |= seated.annotations(seat)
    if start:
        annotations[names.ANNOTATION_START] = start
    if engine.pods > 1:
        annotations[names.ANNOTATION_NODES] = str(engine.pods)
    if node_rank:
        labels[names.LABEL_COMPONENT] = names.FOLLOWER
    if failures:
        annotations[names.ANNOTATION_FAILURES] = str(failures)
    if streak is not None:
        annotations[names.ANNOTATION_STARTUP_FAILURES] = str(streak.count)
        annotations[names.ANNOTATION_STARTUP_REASON] = streak.reason
    return {
        **shared,
        # As it is where there is nothing of its own: a large pool shares one for all.
        "spec": {**shared["spec"], **own} if own else shared["spec"],
        "metadata": {**meta, "name": name, "labels": labels, "annotations": annotations},
    }


def member_name(pool: Pool, engine: Engine, attempt: int, node_rank: int = 0) -> str:
    """The name of one of the pods that an engine is."""
    member = node_rank if engine.pods > 1 else None
    return names.pod_name(pool.owner.name, engine.name, attempt, member)


def named(pool: Pool) -> bool:
    """Whether pods have names in DNS: who follows finds its leader by that."""
    return pool.spec.network.headless_service or pool.nodes > 1


def devices(engine: Engine, node_rank: int) -> tuple[int, ...]:
    """The GPU ids of one of the pods that an engine is: each has as many."""
    share = len(engine.devices) // engine.pods
    return engine.devices[node_rank * share : (node_rank + 1) * share]


def _following(
    pool: Pool, spec: dict[str, Any], engine: Engine, attempt: int, node_rank: int
) -> dict[str, Any]:
    """What a follower has of its own: nobody asks it for anything, so it has no gate."""
    owner = pool.owner
    service = names.engines_service_name(owner.name)
    leader = f"{member_name(pool, engine, attempt)}.{service}.{owner.namespace}.svc"
    probing = probes.follower(
        pool.features, port=pool.spec.network.port, startup_seconds=pool.startup_seconds
    )
    containers = [
        {**each, **probing, "args": arguments.following(each["args"], node_rank, leader)}
        if each["name"] == names.ENGINE_CONTAINER
        else each
        for each in spec["containers"]
    ]
    return {"containers": containers, "readinessGates": []}


def _of_rank(shared: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """What depends on the rank alone, and is no part of the revision: the seed.

    Engines with GPU ids are ROLL's, which all have its one seed.
    """
    if engine.devices or not engine.rank:
        return {}
    containers = shared["spec"]["containers"]
    seeded = [
        {**each, "args": arguments.seeded(each["args"], engine.rank)}
        if each["name"] == names.ENGINE_CONTAINER
        else each
        for each in containers
    ]
    return {"containers": seeded}


def template(pool: Pool) -> dict[str, Any]:
    """Everything that the engine pods of one revision have in common."""
    overlay = pool.template
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pool.owner.namespace,
            "labels": {
                **overlay.labels,
                **metadata.labels(pool.owner, names.ENGINE),
                names.LABEL_REVISION: pool.revision,
            },
            "annotations": dict(overlay.annotations),
            "ownerReferences": [metadata.owner_reference(pool.owner)],
        },
        "spec": {**overlay.spec, **_pod_spec(pool)},
    }


def _pod_spec(pool: Pool) -> dict[str, Any]:
    body: dict[str, Any] = {
        # A gated engine never comes back in place: it would do so with random weights.  Nor does
        # one of several pods, which would meet nobody, or one whose trainer may have its memory.
        "restartPolicy": "Never" if _stays_down(pool) else "Always",
        # SGLang that crashes as PID 1 exits with 0 (explanation/sglang.md, Ends).
        "shareProcessNamespace": True,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pool.spec.drain.grace_period_seconds,
        "securityContext": _pod_security(pool.spec.security),
        "tolerations": _tolerations(pool),
        "containers": [_container(pool)],
        "volumes": _volumes(pool),
    }
    if pool.gated:
        body["readinessGates"] = [{"conditionType": names.CONDITION_WEIGHTS_SYNCED}]
    if named(pool):
        body["subdomain"] = names.engines_service_name(pool.owner.name)
    return body | dict(gangs.pod_spec(pool.spec)) | dict(pool.parts.spec)


def _stays_down(pool: Pool) -> bool:
    """Whether an engine that ends is not run again in its pod."""
    return pool.gated or pool.nodes > 1 or pool.takes_turns


def _container(pool: Pool) -> dict[str, Any]:
    overlay = dict(pool.template.container)
    mounts = [
        pod_volumes.mount({"name": name, "mountPath": path}, pool.template.volumes)
        for name, path in _OWN_MOUNTS
        if not pool.template.mounts_at(path)
    ]
    resources = overlay.get("resources", {})
    gpus = pool.placement.requests(pool.spec, pool.gpus_per_pod)
    return {
        **overlay,
        "name": names.ENGINE_CONTAINER,
        "image": pool.image,
        "command": [*pool.parts.entry, *arguments.command(())],
        "args": list(pool.argv),
        "env": _environment(pool),
        "ports": [{"name": names.ENGINE_PORT_NAME, "containerPort": pool.spec.network.port}],
        "resources": {
            **resources,
            "limits": {**resources.get("limits", {}), **gpus},
            "requests": {**resources.get("requests", {}), **gpus},
        },
        "volumeMounts": [*mounts, *overlay.get("volumeMounts", [])],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _container_security(pool),
        **probes.probes(
            pool.features,
            port=pool.spec.network.port,
            startup_seconds=pool.startup_seconds,
            has_api_key=pool.spec.security.api_key is not None,
        ),
    }


def _environment(pool: Pool) -> list[dict[str, Any]]:
    """The operator's variables, then the user's own: of two with one name Kubernetes takes the
    last, so a user's podTemplate has the final word over a default."""
    keys = [
        (arguments.API_KEY_VARIABLE, pool.spec.security.api_key),
        (arguments.ADMIN_API_KEY_VARIABLE, pool.spec.security.admin_api_key),
    ]
    given = pool.template.container.get("env", [])
    overridden = {variable.get("name") for variable in given}
    beside = environment.beside(pool.features)
    plain = [
        {"name": name, "value": value}
        for name, value in sorted({**beside, **pool.environment}.items())
        if name not in overridden
    ]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        for name, ref in keys
        if ref is not None
    ]
    return [*plain, *secret, *_pod_ip(pool), *given]


def _pod_ip(pool: Pool) -> list[dict[str, Any]]:
    if not pool.spec.network.listen_on_pod_ip and pool.nodes == 1:
        return []
    source = {"fieldRef": {"fieldPath": "status.podIP"}}
    return [{"name": arguments.POD_IP_VARIABLE, "valueFrom": source}]


def _pod_security(security: spec.Security) -> dict[str, Any]:
    optional = {
        "runAsUser": security.run_as_user,
        "runAsGroup": security.run_as_group,
        "runAsNonRoot": security.run_as_non_root,
        "fsGroup": security.fs_group,
    }
    chosen = {key: value for key, value in optional.items() if value is not None}
    return {"seccompProfile": {"type": "RuntimeDefault"}, **chosen}


def _container_security(pool: Pool) -> dict[str, Any]:
    capabilities: dict[str, list[str]] = {"drop": ["ALL"]}
    if pool.spec.network.rdma:
        capabilities["add"] = ["IPC_LOCK"]  # RDMA pins memory
    return {"allowPrivilegeEscalation": False, "capabilities": capabilities}


def _tolerations(pool: Pool) -> list[dict[str, Any]]:
    """How long a pod stays bound to a node that is silent; for ever if it is to wait for it."""
    policy = pool.spec.restart
    bound = (
        {"tolerationSeconds": policy.node_lost_seconds}
        if policy.on_node_lost is spec.OnNodeLost.REPLACE
        else {}
    )
    own = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", **bound} for key in NODE_TAINTS
    ]
    given = pool.template.spec.get("tolerations", [])
    return [*own, *(dict(each) for each in pool.parts.tolerations if each not in given), *given]


def _volumes(pool: Pool) -> list[dict[str, Any]]:
    given = [dict(volume) for volume in pool.template.volumes]
    taken = {volume.get("name") for volume in given}
    sources: dict[str, dict[str, Any]] = {
        # Counted as the pod's memory; NCCL and the tokenizer processes share it.
        pod_volumes.SHM_VOLUME: dict(pool.parts.shm or {})
        or {
            "emptyDir": {
                "medium": "Memory",
                "sizeLimit": f"{shared_memory.gib(pool.gpus_per_pod)}Gi",
            }
        },
        pod_volumes.CACHE_VOLUME: {"emptyDir": {}},
    }
    own = [
        {"name": name, **sources[name]}
        for name, path in _OWN_MOUNTS
        if name not in taken and not pool.template.mounts_at(path)
    ]
    return [*own, *given]
