"""Objects that tests begin with: a valid pool, and pods in every state."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from sglang_operator.api import names, spec
from sglang_operator.children import engine_pod
from sglang_operator.gates import decide
from sglang_operator.observed import wire
from sglang_operator.observed.model import (
    Observed,
    ObservedChild,
    ObservedPod,
    Sightings,
    Termination,
)
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Engine, Owner, Pool, Refused, resolve_pool
from sglang_operator.weights.lease_state import Transaction, written

NOW = 1_800_000_000.0

OWNER = Owner(
    name="actor-infer",
    namespace="rl",
    uid=names.Uid("1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"),
    generation=1,
)


def guide_spec(**changes: Any) -> dict[str, Any]:
    """The example of ROLL's guide to SGLang: 24 GPUs, 2 for each engine."""
    guide: dict[str, Any] = {
        "model_args": {
            "model_name_or_path": "Qwen/Qwen3-30B-A3B-Base",
            "disable_gradient_checkpointing": True,
            "dtype": "bf16",
        },
        "generating_args": {"max_new_tokens": 4096, "top_p": 0.99, "top_k": 100},
        "strategy_args": {
            "strategy_name": "sglang",
            "strategy_config": {"mem_fraction_static": 0.7, "load_format": "dummy"},
        },
        "num_gpus_per_worker": 2,
        "device_mapping": "list(range(0,24))",
    }
    return {**guide, **changes}


def with_config(**config: Any) -> dict[str, Any]:
    """The guide's spec with this strategy_config on top of its own."""
    base = {"mem_fraction_static": 0.7, "load_format": "dummy"}
    return guide_spec(
        strategy_args={"strategy_name": "sglang", "strategy_config": {**base, **config}}
    )


def a_pool(raw: dict[str, Any] | None = None, **changes: Any) -> Pool:
    """A pool that can be run: the guide's, with changes to its spec."""
    resolved = resolve_pool(OWNER, raw if raw is not None else guide_spec(**changes))
    assert isinstance(resolved, Pool), resolved
    return resolved


def refused(raw: dict[str, Any] | None = None, **changes: Any) -> Refused:
    """A pool that cannot be run."""
    resolved = resolve_pool(OWNER, raw if raw is not None else guide_spec(**changes))
    assert isinstance(resolved, Refused), resolved
    return resolved


def field_paths(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """The path of each field of a section of the spec, and of the sections within."""
    for field in msgspec.structs.fields(struct):
        path = prefix + field.encode_name
        default = field.default
        if isinstance(default, msgspec.Struct):
            yield from field_paths(type(default), f"{path}.")
        else:
            yield path


def a_pod(pool: Pool, engine: Engine, attempt: int = 0, **changes: Any) -> ObservedPod:
    """The pod of this engine, or that of a ``node_rank``: up, its gate closed."""
    node_rank = changes.get("node_rank", 0)
    name = engine_pod.member_name(pool, engine, attempt, node_rank)
    values: dict[str, Any] = {
        "name": name,
        "uid": names.Uid(f"uid-{name}"),
        "resource_version": 100,
        "engine": engine.name,
        "attempt": attempt,
        "revision": pool.revision,
        "nodes": engine.pods,
        "devices": engine_pod.devices(engine, node_rank),
        "node": f"gpu-node-{node_rank}",
        "phase": "Running",
        "created": NOW - 100,
        "containers_ready": True,
        "engine_runs": True,
        "gated": pool.gated and not node_rank,
        "ip": f"10.0.0.{node_rank + 1}",
    }
    values |= changes
    seen = Sightings(
        first=values["created"],
        placed=values["created"],
        due=values.get("deletion_due", 0.0),
        going=values.get("deletion_asked", 0.0),
        ended=values.get("ended_at", 0.0),
    )
    return ObservedPod(**{"seen": seen, **values})


def told(
    pod: ObservedPod, *, runs: bool = True, deleted: str | None = None, **changes: Any
) -> wire.Pod:
    """The pod as the API server tells of it, up; ``changes``: its uid, ip, container_id, phase."""
    values = {name: getattr(pod, name) for name in ("uid", "ip", "container_id", "phase")} | changes
    status = {
        "name": names.ENGINE_CONTAINER,
        "containerID": values["container_id"],
        "state": {"running": {} if runs else None},
    }
    meta = {"name": pod.name, "uid": values["uid"], "deletionTimestamp": deleted}
    told_of = {"phase": values["phase"], "podIP": values["ip"], "containerStatuses": [status]}
    return msgspec.convert({"metadata": meta, "status": told_of}, wire.Pod)


def an_ended_pod(pool: Pool, engine: Engine, attempt: int = 0, **changes: Any) -> ObservedPod:
    """The pod of this engine after its container crashed at this moment."""
    started = changes.get("created", NOW - 100)
    return a_pod(
        pool,
        engine,
        attempt,
        **{
            "phase": "Failed",
            "containers_ready": False,
            "termination": Termination(
                exit_code=137, reason="Error", message="", finished=NOW, started=started
            ),
            "ended_at": NOW,
            **changes,
        },
    )


CUDA_OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA error: out of memory"


def a_failed_start(
    pool: Pool,
    engine: Engine,
    attempt: int = 0,
    *,
    startup_failures: int = 0,
    message: str = CUDA_OUT_OF_MEMORY,
    reason: str = "CUDAOutOfMemory",
    **changes: Any,
) -> ObservedPod:
    """The pod of this engine after it ended before it was up, as those before it did."""
    ended = Termination(
        exit_code=137, reason="Error", message=message, finished=NOW, started=NOW - 60
    )
    values: dict[str, Any] = {
        "containers_ready_changed": NOW - 61,
        "termination": ended,
        "startup_failures": startup_failures,
        "startup_reason": reason if startup_failures else "",
        "failures": startup_failures,
        "ended_at": NOW - 1000,
    }
    return an_ended_pod(pool, engine, attempt, **{**values, **changes})


def all_pods(pool: Pool, **changes: Any) -> list[ObservedPod]:
    """The pods of each engine that is to run: most often one."""
    members = [(engine, rank) for engine in pool.running for rank in range(engine.pods)]
    return [a_pod(pool, engine, node_rank=rank, **changes) for engine, rank in members]


def planned(pool: Pool, pods: list[ObservedPod], now: float = NOW, **observed: Any) -> Plan:
    """The plan for exactly these pods."""
    return plan(pool, Observed(pods=tuple(pods), **observed), now)


def a_lease(pool: Pool, *, seen: float = NOW, **annotations: str) -> dict[Any, ObservedChild]:
    """The weights' Lease as a child of the pool; annotations by the end of their name, ``_`` for
    ``-``; ``holder`` and ``duration`` go to its spec."""
    holder, duration = annotations.pop("holder", None), annotations.pop("duration", "30")
    notes = {
        f"{names.GROUP}/weights-{key.replace('_', '-')}": value
        for key, value in annotations.items()
    }
    name = names.weights_lease_name(pool.owner.name)
    body = {
        "metadata": {"name": name, "annotations": notes, "resourceVersion": "7"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": int(duration)},
    }
    child = ObservedChild(uid=names.Uid("uid-lease"), owner=pool.owner.uid, body=body, seen=seen)
    return {("Lease", name): child}


def a_registry(pool: Pool, told: Mapping[names.EngineName, str]) -> dict[Any, ObservedChild]:
    """The registry as a child of the pool, as far as it names these instances of engines."""
    name = names.registry_name(pool.owner.name)
    engines = [{"engine": engine, "instance": run} for engine, run in told.items()]
    text = orjson.dumps({"engines": engines}).decode()
    body = {"metadata": {"name": name}, "data": {names.REGISTRY_KEY: text}}
    child = ObservedChild(uid=names.Uid("uid-registry"), owner=pool.owner.uid, body=body)
    return {("ConfigMap", name): child}


def a_lease_saying(
    pool: Pool, state: Transaction, *, seen: float = NOW
) -> dict[Any, ObservedChild]:
    """The weights' Lease as a child of the pool, in this state since then."""
    name = names.weights_lease_name(pool.owner.name)
    body = written({"metadata": {"name": name, "resourceVersion": "7"}}, state)
    child = ObservedChild(uid=names.Uid("uid-lease"), owner=pool.owner.uid, body=body, seen=seen)
    return {("Lease", name): child}


OPERATOR = "operator-a"


def weighed(
    pool: Pool,
    pods: list[ObservedPod],
    now: float = NOW,
    operator: str = OPERATOR,
    **observed: Any,
) -> decide.GatePlan:
    """What is decided about the weights of exactly these pods."""
    seen = Observed(pods=tuple(pods), **observed)
    policy = spec.Weights(gate=pool.gate, recovery=pool.spec.weights.recovery)
    made = plan(pool, seen, now)
    return decide.decide(
        pool.owner, policy, made.engines, seen, now, operator, made.unlisted, made.heirs
    )


def created(result: Plan) -> list[tuple[str, int]]:
    """Group and attempt of each pod that the plan creates."""
    return [(create.engine.name, create.attempt) for create in result.creates]


def removed(result: Plan) -> list[str]:
    """Name of each pod that the plan removes."""
    return [removal.pod.name for removal in result.removals]


def nested(levels: int) -> Any:
    """A list in a list in a list …"""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
