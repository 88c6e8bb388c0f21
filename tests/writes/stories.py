"""One story for each write: an object as it was seen, and what then makes the write happen."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import orjson

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import ClusterError
from sglang_operator.client.lease import WeightsLease
from sglang_operator.cluster import stores
from sglang_operator.cluster.child_store import child_store
from sglang_operator.cluster.dry_runs import DryRuns
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.writer import Writer
from sglang_operator.gates.decide import GatePlan
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.kube import paths
from sglang_operator.kube.client import JSON, Lane
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.kube.leader_election import Elector, Terms
from sglang_operator.observed import wire
from sglang_operator.observed.model import ObservedChild
from sglang_operator.placement.slots import Slot
from sglang_operator.pool.resolve import Owner
from sglang_operator.status.transitions import Event
from sglang_operator.weights import lease_state, steps
from tests.memory_api import Json, MemoryApi
from tests.writes.guards import Guarded

KEY = stores.PoolKey("rl", "pool")
OWNER = names.Uid("uid-of-the-pool")
POD, CHILD, LEASE = "pool-0", "pool-engines", names.weights_lease_name("pool")
POD_PATH = paths.pod(KEY.namespace, POD)

Story = Callable[[MemoryApi, Guarded], Awaitable[None]]


def _owned() -> Json:
    owner = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": KEY.name}
    return {"ownerReferences": [{**owner, "uid": OWNER, "controller": True}]}


def _pool(api: MemoryApi) -> wire.CustomResource:
    body = {"metadata": {"generation": 1}, "spec": {}}
    made = api.add(paths.pool(*KEY), body, uid=OWNER)
    return msgspec.json.decode(msgspec.json.encode(made), type=wire.CustomResource)


def _executor(api: MemoryApi, client: Guarded) -> tuple[Executor, wire.CustomResource]:
    def woken(*_: Any) -> None:
        pass

    pools = stores.PoolStore(woken)
    children = {k.kind: child_store(k.kind, woken, pools.has) for k in kinds.CHILDREN}
    executor = Executor(client, stores.PodStore(woken), children, pools)  # type: ignore[arg-type]
    pool = _pool(api)
    pools.put(pool)
    return executor, pool


async def _pods(api: MemoryApi, client: Guarded, action: actions.PodAction) -> None:
    executor, pool = _executor(api, client)
    await executor.pods(KEY, OWNER, [action], asked=pool, confirm=None, go_on=lambda: True)


async def a_pod_is_created(api: MemoryApi, client: Guarded) -> None:
    body = {"metadata": {"name": POD, **_owned()}}
    action = actions.CreatePod(name=POD, engine=names.EngineName("g0"), body=body, reason="")
    await _pods(api, client, action)


async def a_pod_is_tried(api: MemoryApi, client: Guarded) -> None:
    trials = DryRuns(client, Writer(client, Lane.WORK))  # type: ignore[arg-type]
    await trials.pod(KEY, {"metadata": {"name": POD, **_owned()}})


async def a_pod_is_deleted(api: MemoryApi, client: Guarded) -> None:
    meta = api.add(POD_PATH, {"metadata": _owned()})["metadata"]
    action = actions.DeletePod(
        name=POD,
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        grace_seconds=0,
        reason="",
    )
    await _pods(api, client, action)


async def a_pod_is_taken_back(api: MemoryApi, client: Guarded) -> None:
    meta = api.add(POD_PATH, {"metadata": _owned()})["metadata"]
    delete = actions.DeletePod(
        name=POD, uid=meta["uid"], resource_version=None, grace_seconds=0, reason=""
    )
    executor, _ = _executor(api, client)
    with contextlib.suppress(ApiError, ApiUnreachableError):  # its pass tries again
        await executor.take_back(KEY, delete)


async def a_gate_is_set(api: MemoryApi, client: Guarded) -> None:
    meta = api.add(POD_PATH, {"metadata": _owned(), "status": {}})["metadata"]
    executor, _ = _executor(api, client)
    gate = actions.SetGate(
        name=POD,
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        seen=None,
        is_open=True,
        reason="r",
        message="v",
    )
    await executor.gates(KEY, OWNER, [gate])


async def a_sync_is_aborted(api: MemoryApi, client: Guarded) -> None:
    state = lease_state.Transaction(
        phase=lease_state.Phase.SYNCING, id="t", holder="h", transitions=1
    )
    lease = lease_state.written({"metadata": _owned()}, state)
    meta = api.add(paths.lease(KEY.namespace, LEASE), lease)["metadata"]
    executor, _ = _executor(api, client)
    owner = Owner(name=KEY.name, namespace=KEY.namespace, uid=OWNER, generation=1)
    child = ObservedChild(uid=meta["uid"], owner=OWNER, body={**lease, "metadata": meta})
    after = steps.aborted(state, "gone")
    plan = GatePlan(
        engines=(), transaction=state, abort=LeaseStep(lease=child, state=after, reason="")
    )
    await executor.gates(KEY, OWNER, actions.gate_actions(owner, plan))


async def _children(api: MemoryApi, client: Guarded, action: actions.ChildAction) -> None:
    executor, _ = _executor(api, client)
    await executor.children(KEY, OWNER, [action])


def _service(**metadata: Any) -> Json:
    return {"metadata": {"name": CHILD, "labels": {}, **_owned(), **metadata}, "spec": {}}


async def a_child_is_created(api: MemoryApi, client: Guarded) -> None:
    await _children(
        api, client, actions.CreateChild(kind="Service", name=CHILD, body=_service(), reason="")
    )


async def a_child_gets_its_label_back(api: MemoryApi, client: Guarded) -> None:
    api.add(paths.child("Service", KEY.namespace, CHILD), _service())
    body = _service(labels={names.LABEL_MANAGED_BY: names.MANAGED_BY})
    await _children(
        api, client, actions.CreateChild(kind="Service", name=CHILD, body=body, reason="")
    )


async def a_child_is_updated(api: MemoryApi, client: Guarded) -> None:
    meta = api.add(paths.child("Service", KEY.namespace, CHILD), _service())["metadata"]
    action = actions.UpdateChild(
        kind="Service", name=CHILD, uid=meta["uid"], body=_service(), reason=""
    )
    await _children(api, client, action)


async def a_child_is_deleted(api: MemoryApi, client: Guarded) -> None:
    meta = api.add(paths.child("Service", KEY.namespace, CHILD), _service())["metadata"]
    await _children(
        api,
        client,
        actions.DeleteChild(kind="Service", name=CHILD, uid=meta["uid"], reason=""),
    )


async def a_status_is_written(api: MemoryApi, client: Guarded) -> None:
    executor, pool = _executor(api, client)
    with contextlib.suppress(ApiError, ApiUnreachableError):
        await executor.status(KEY, pool, {"observedGeneration": 1})


async def _elected(api: MemoryApi, client: Guarded) -> None:
    terms = Terms(duration=0.05, deadline=0.04, retry=0.01)
    elector = Elector(client, KEY.namespace, LEASE, "me", terms=terms)  # type: ignore[arg-type]
    task = asyncio.create_task(elector.run())
    await _first_write(client, task)


async def the_operators_lease_is_made(api: MemoryApi, client: Guarded) -> None:
    await _elected(api, client)


async def the_operators_lease_is_taken_over(api: MemoryApi, client: Guarded) -> None:
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 1}
    api.add(paths.lease(KEY.namespace, LEASE), {"spec": spec})
    await _elected(api, client)


async def an_event_is_told_twice(api: MemoryApi, client: Guarded) -> None:
    recorder = Recorder(client, "me")  # type: ignore[arg-type]
    event = Event(type="Warning", reason="Reason", message="words")
    await recorder.post(KEY, OWNER, [event, event])


async def _first_write(client: Guarded, task: "asyncio.Task[Any]") -> None:
    """Let it write once: what it tries next, on what it then reads, may well go through."""
    wrote = asyncio.create_task(client.wrote.wait())
    await asyncio.wait({task, wrote}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    failed = task.exception() if task.done() else None
    wrote.cancel()
    while not task.done():  # Python 3.11's wait_for may swallow a cancellation
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if failed is not None and not client.wrote.is_set():
        raise failed


class _Cluster(Cluster):
    """The trainer's client over an API server in memory."""

    def __init__(self, client: Guarded) -> None:
        self.namespace, self.pool = KEY
        self.lease_name = LEASE
        self.slots_name = names.slots_name(self.pool)
        self._client = client

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = JSON
    ) -> Json:
        try:
            sent = orjson.dumps(body) if body is not None else None
            answer: Json = orjson.loads(
                await self._client.request(method, path, body=sent, fenced=False, content_type=kind)
            )
            return answer
        except ApiError as error:
            raise ClusterError(str(error), error.status) from error


async def a_trainer_takes_a_step(api: MemoryApi, client: Guarded) -> None:
    api.add(paths.lease(KEY.namespace, LEASE), {"metadata": _owned()})
    trainer = steps.Trainer(holder="trainer", transaction="t")

    def begin(state: lease_state.Transaction, sight: Any) -> lease_state.Transaction:
        return steps.begin(state, trainer, epoch="e", version="v", now=sight.now, seen=sight.seen)

    task = asyncio.create_task(WeightsLease(_Cluster(client)).step(begin, patience=0.1))
    await _first_write(client, task)


async def a_trainer_says_which_gpus_it_has(api: MemoryApi, client: Guarded) -> None:
    path = paths.child("ConfigMap", KEY.namespace, names.slots_name(KEY.name))
    api.add(path, {"metadata": _owned()})
    slot = Slot(node_rank=0, node="gpu-0", pod="trainer-0", uid="uid", gpus=("GPU-1",))
    await _Cluster(client).patch_slots(slot)


STORIES: tuple[Story, ...] = (
    a_pod_is_created,
    a_pod_is_tried,
    a_pod_is_deleted,
    a_pod_is_taken_back,
    a_gate_is_set,
    a_sync_is_aborted,
    a_child_is_created,
    a_child_gets_its_label_back,
    a_child_is_updated,
    a_child_is_deleted,
    a_status_is_written,
    the_operators_lease_is_made,
    the_operators_lease_is_taken_over,
    an_event_is_told_twice,
    a_trainer_takes_a_step,
    a_trainer_says_which_gpus_it_has,
)
