"""Actions → API calls → outcomes.  Decides nothing but whether what it was told still
applies to the object as it is now; learns what the server said.

Ambiguity is harmless here: a create that may or may not have happened is found again under its
name, a delete carries the UID and version it means (explanation/kubernetes.md).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.cluster import gate_order, identity, stores
from sglang_operator.cluster.child_store import ChildStore
from sglang_operator.cluster.child_writer import ChildWriter
from sglang_operator.cluster.outcome import Confirmation, Outcome
from sglang_operator.cluster.roll_call import RollCall
from sglang_operator.cluster.writer import UnwantedError, Writer
from sglang_operator.kube import paths
from sglang_operator.kube.client import (
    APPLY_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    ApiClient,
    Lane,
)
from sglang_operator.kube.decoding import Decoder
from sglang_operator.kube.errors import ApiError, ApiUnreachableError, FencedError
from sglang_operator.kube.window import Window
from sglang_operator.observed import edits, wire

GATE_TRIES = 3  # of one write to a gate, while others change the rest of its pod

_pod_decoder = Decoder(wire.Pod)
_child_decoder = Decoder(wire.Child)
_pool_decoder = Decoder(wire.CustomResource)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """A pool's pod actions that are performed together, and what came of them so far."""

    key: stores.PoolKey
    owner: names.Uid
    outcome: Outcome
    creating: Callable[[actions.CreatePod], bool]  # whether that is still wanted
    current: Callable[[actions.DeletePod], actions.DeletePod | None]


class Executor:
    """Performs actions for one identity."""

    def __init__(
        self,
        client: ApiClient,
        pods: stores.PodStore,
        children: Mapping[str, ChildStore],
        pools: stores.PoolStore,
    ) -> None:
        self._client = client
        self._pods = pods
        self._children = children
        self._pools = pools
        self.work = Writer(client, Lane.WORK)
        # Gates, and our steps in a Lease that is there, do not wait where pods have to.  What is
        # created does, a Lease in place of a lost one too, and so does the registry.
        self._gates = Writer(client, Lane.GATES)
        self._child_writer = ChildWriter(client, self.work, children)
        self.roll_call = RollCall(client, pods)

    @property
    def window(self) -> Window:
        """What bounds the writes that are no gates."""
        return self.work.window

    # --- pods

    async def pods(
        self,
        key: stores.PoolKey,
        owner: names.Uid,
        batch: Sequence[actions.PodAction],
        *,
        asked: wire.CustomResource,
        confirm: Callable[[], Coroutine[None, None, Confirmation]] | None,
        go_on: Callable[[], bool],
        current: Callable[[actions.DeletePod], actions.DeletePod | None] = lambda delete: delete,
        wanted: Callable[[actions.CreatePod], bool] = lambda create: True,
        proven: bool = False,
    ) -> Outcome:
        """Perform deletes and creates until done, refused, or told by ``go_on`` to stop.

        It begins with one and widens with each success, so that a quota or an admission policy
        that refuses them costs one request, not a thousand.
        Creates end at once when the pool is seen to be deleted or changed: what they were planned
        for is no more.  ``asked`` is that pool, as it was read.

        ``confirm`` asks whether the pool really is still there and unchanged.  Only one create
        goes out before it has answered yes, and no delete: a view that is behind must not take
        away what the present spec wants.

        A create that comes ``after`` a pod goes out once that one's delete is taken: both of an
        engine would run, if it is refused.

        ``current`` is asked of each delete in its turn: the pod as it is by then, None if it stays;
        ``wanted`` of each create, whether it is still to be made, and as it was planned.

        ``proven``: creates of this very pool went through a moment ago, so the whole window is
        used from the start, unless there is something to confirm.
        """
        outcome = Outcome()
        queue = _chained(batch)
        outcome.done = sum(map(len, queue)) == len(batch)
        steps = iter(queue)
        confirmed = asyncio.create_task(confirm()) if confirm else None
        if any(isinstance(action, actions.DeletePod) for action in batch) and not (
            await _confirmed(confirmed, outcome)
        ):
            return outcome
        workers: set[asyncio.Task[None]] = set()

        def creating() -> bool:
            return go_on() and not outcome.stop and self._asked_for(key, asked)

        together = _Batch(
            key=key,
            owner=owner,
            outcome=outcome,
            creating=lambda create: creating() and wanted(create),
            current=current,
        )

        async def work() -> None:
            for step in steps:
                for action in step:
                    if not (creating() if isinstance(action, actions.CreatePod) else go_on()):
                        outcome.done = False
                        if action is step[0]:
                            return
                        break
                    taken = await self._pod(together, action)
                    if not await _confirmed(confirmed, outcome):
                        return
                    if not taken:
                        break
                if len(workers) < min(self.window.size, len(batch)):
                    workers.add(asyncio.create_task(work()))

        at_once = min(self.window.size, len(batch)) if proven and not confirm else 1
        workers |= {asyncio.create_task(work()) for _ in range(at_once)}
        try:
            while pending := [task for task in workers if not task.done()]:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in workers:
                task.result()
        finally:
            if confirmed is not None:
                confirmed.cancel()
            for task in workers:
                task.cancel()
        return outcome

    def _asked_for(self, key: stores.PoolKey, asked: wire.CustomResource) -> bool:
        """Whether the pool is still the one that the batch was planned for, as far as is seen."""
        record = self._pools.get(key)
        return (
            record is not None
            and edits.same_spec(asked, record)
            and record.metadata.deletion_timestamp is None
        )

    async def _pod(self, batch: _Batch, action: actions.PodAction) -> bool:
        """Perform one; whether what comes after it may be."""
        outcome = batch.outcome
        try:
            if isinstance(action, actions.CreatePod):
                await self._create_pod(batch, action)
            else:
                return await self._delete_pod(batch, action)
        except ApiUnreachableError as error:
            outcome.failed, outcome.done = error, False
            if isinstance(action, actions.CreatePod) and not isinstance(error, FencedError):
                outcome.unsure[action.name] = action
        return False

    async def _create_pod(self, batch: _Batch, action: actions.CreatePod) -> None:
        path, outcome = paths.pods(batch.key.namespace), batch.outcome
        try:
            wanted = partial(batch.creating, action)
            answer = await self.work.create(batch.key.namespace, path, action.body, wanted)
        except UnwantedError:
            outcome.done = False
            return
        except ApiError as error:
            if error.already_exists:
                await self._meet(batch, action)
            else:
                outcome.refuse(kinds.POD, action.name, error)
            return
        pod = _pod_decoder.object(answer)
        if change := identity.changed(action.body, pod):
            outcome.refuse(kinds.POD, action.name, change)
            delete = identity.taken_back(action.body, pod)
            try:
                await self.take_back(batch.key, delete)
                outcome.deleted += 1
            except (ApiError, ApiUnreachableError):
                self._pods.answered(pod)  # nobody else may tell of it
                outcome.spoilt[delete.uid] = delete
            return
        outcome.created += 1
        self._pods.answered(pod)

    async def _meet(self, batch: _Batch, action: actions.CreatePod) -> None:
        """A pod of that name exists: it is ours and we had not seen it, or it is foreign."""
        key, outcome, name = batch.key, batch.outcome, action.name
        try:
            answer = await self._client.request("GET", paths.pod(key.namespace, name))
        except ApiError as error:
            if not error.missing:
                outcome.refuse(kinds.POD, name, error)
            outcome.done = False  # it went away meanwhile: plan again
            return
        pod = _pod_decoder.object(answer)
        controller = pod.metadata.controller
        if controller is not None and controller.uid == batch.owner:
            self._pods.answered(pod)
            if self._pods.has(pod.metadata.uid, batch.owner):
                outcome.created += 1  # before, but it was not seen
            else:  # ours, and its labels were taken away: it is stepped around
                outcome.aside[action.engine] = names.attempt_of(name)
                outcome.done = False
            return
        if identity.of_earlier_pool(controller, key, batch.owner):
            self._pods.answered(pod)  # from now on it is stepped around
            outcome.done = False
            return
        outcome.conflicts.append(("Pod", name))

    async def _delete_pod(self, batch: _Batch, action: actions.DeletePod) -> bool:
        """Whether the pod is gone, or on its way."""
        key, outcome = batch.key, batch.outcome
        path = paths.pod(key.namespace, action.name)
        try:
            async with self.work.turn(key.namespace):
                now = batch.current(action)
                if now is None:
                    raise UnwantedError
                answer = await self._client.request("DELETE", path, body=_exactly(now))
        except UnwantedError:
            outcome.done = False
            return False
        except ApiError as error:
            if error.missing:
                outcome.taken.add(action.uid)
                return True
            outcome.done = False
            if error.status == 409:  # changed meanwhile: what was seen is old
                with contextlib.suppress(ApiError, ApiUnreachableError):
                    await self.look_for(key, action.name)
            elif error.congested:
                outcome.failed = error
            else:
                outcome.refused_delete = error
            return False
        outcome.deleted += 1
        outcome.taken.add(action.uid)
        self._take_in(action, answer)
        return True

    async def take_back(self, key: stores.PoolKey, delete: actions.DeletePod) -> None:
        """Delete a pod that came out otherwise than it was asked for; raises what keeps it."""
        path = paths.pod(key.namespace, delete.name)
        try:
            async with self.work.turn(key.namespace):
                answer = await self._client.request("DELETE", path, body=_exactly(delete))
        except ApiError as error:
            if error.missing:
                return
            there = await self.look_for(key, delete.name) if error.status == 409 else None
            if error.status == 409 and (there is None or there.metadata.uid != delete.uid):
                return
            raise
        self._take_in(delete, answer)

    def _take_in(self, delete: actions.DeletePod, answer: bytes) -> None:
        pod = _pod_decoder.object(answer)
        if pod.metadata.uid == delete.uid and pod.metadata.deletion_timestamp:
            self._pods.answered(pod)

    async def look_for(self, key: stores.PoolKey, name: str) -> wire.Pod | None:
        """Take in the pod as it is, if there is one; raises what keeps that from being learnt."""
        try:
            answer = await self._client.request("GET", paths.pod(key.namespace, name))
        except ApiError as error:
            if not error.missing:
                raise
            return None
        pod = _pod_decoder.object(answer)
        self._pods.answered(pod)
        return pod

    # --- gates, and the Lease that they follow

    async def gates(
        self, key: stores.PoolKey, owner: names.Uid, batch: Sequence[actions.GateAction]
    ) -> Outcome:
        """Set gates, as many at a time as the server bears, or take a step in the Lease.

        What changed meanwhile is left alone: the next pass sees it as it is.
        """
        outcome = Outcome()
        outcome.moved = await gate_order.write(
            batch, lambda action: self._gate_action(key, owner, action, outcome)
        )
        return outcome

    async def _gate_action(
        self,
        key: stores.PoolKey,
        owner: names.Uid,
        action: actions.GateAction,
        outcome: Outcome,
    ) -> bool:
        try:
            if isinstance(action, actions.SetGate):
                await self._set_gate(key, action)
            elif isinstance(action, actions.CreateChild):
                await self._child_writer.write_one(key, owner, action, outcome)
                return not outcome.conflicts
            else:
                await self._write_lease(key, action)
                outcome.stepped = True
        except ApiUnreachableError as error:
            outcome.failed = error
        except ApiError as error:
            if not (error.missing or error.status == 409):
                outcome.failed = error
        else:
            return True
        outcome.done = False
        return False

    async def _set_gate(self, key: stores.PoolKey, action: actions.SetGate) -> None:
        """It lands over no gate but the one that was seen, whatever else changes of the pod.

        Over the mark of a sleep it lands on the pod that was seen alone: that of a later sleep
        says the same, and is not to be taken off by what was decided of the earlier one.
        """
        asleep = action.seen is not None and action.seen.released is not None
        for left in reversed(range(GATE_TRIES)):
            try:
                await self._patch_gate(key, action)
                return
            except ApiError as error:
                pod = await self.look_for(key, action.name) if error.status == 409 else None
                if pod is None or not left or pod.metadata.uid != action.uid:
                    raise
                if wire.gate(pod) != action.seen or asleep:
                    raise  # it was set meanwhile, maybe by who knows more
                action = replace(action, resource_version=pod.metadata.version)

    async def _patch_gate(self, key: stores.PoolKey, action: actions.SetGate) -> None:
        condition = {
            "type": names.CONDITION_WEIGHTS_SYNCED,
            "status": "True" if action.is_open else "False",
            "reason": action.reason,
            "message": action.message,
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        # The UID makes it this very pod; conditions are merged by their type.
        exactly = {"uid": action.uid, "resourceVersion": str(action.resource_version)}
        body = {"metadata": exactly, "status": {"conditions": [condition]}}
        path = paths.pod(key.namespace, action.name) + "/status"
        params = {"fieldManager": names.FIELD_MANAGER}
        answer = await self._gates.send("PATCH", key.namespace, path, body, STRATEGIC_PATCH, params)
        self._pods.answered(_pod_decoder.object(answer))

    async def _write_lease(self, key: stores.PoolKey, action: actions.WriteLease) -> None:
        path = paths.child(kinds.LEASE.kind, key.namespace, action.name)
        params = {"fieldManager": names.FIELD_MANAGER}
        answer = await self._gates.send(
            "PATCH", key.namespace, path, action.patch, MERGE_PATCH, params
        )
        self._children[kinds.LEASE.kind].put(_child_decoder.object(answer))

    # --- other children

    async def children(
        self, key: stores.PoolKey, owner: names.Uid, batch: Iterable[actions.ChildAction]
    ) -> Outcome:
        """Create, update and delete the children that are not pods, one after another."""
        return await self._child_writer.write(key, owner, batch)

    # --- the pool itself

    async def status(
        self, key: stores.PoolKey, record: wire.CustomResource, status: Mapping[str, Any]
    ) -> None:
        """Write the whole status of exactly this pool in this state: 409 if it changed since.

        Raises :class:`ApiError`, :class:`ApiUnreachableError`.
        """
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": record.metadata.uid,
                "resourceVersion": record.metadata.resource_version,
            },
            "status": status,
        }
        answer = await self.work.send(
            "PATCH",
            key.namespace,
            paths.pool(key.namespace, key.name) + "/status",
            body,
            APPLY_PATCH,
            {"fieldManager": names.STATUS_FIELD_MANAGER, "force": "true"},
        )
        self._pools.put(_pool_decoder.object(answer))

    async def confirm_pool(
        self, key: stores.PoolKey, owner: names.Uid, asked: wire.CustomResource
    ) -> Confirmation:
        """How the pool stands at this moment, by a quorum read, which the store takes in.

        Raises :class:`ApiError`, :class:`ApiUnreachableError`.
        """
        try:
            answer = await self._client.request("GET", paths.pool(key.namespace, key.name))
        except ApiError as error:
            if error.missing:
                return Confirmation.GONE
            raise
        record = _pool_decoder.object(answer)
        if record.metadata.uid != owner:
            return Confirmation.GONE
        self._pools.put(record)
        # One that was on its way out then still is: what has lost its trainer goes before it.
        leaves = record.metadata.deletion_timestamp is not None
        went = asked.metadata.deletion_timestamp is not None
        unchanged = leaves is went and edits.same_spec(asked, record)
        return Confirmation.UNCHANGED if unchanged else Confirmation.CHANGED


def _chained(batch: Sequence[actions.PodAction]) -> list[list[actions.PodAction]]:
    """Creates with the deletes that they come after; those whose delete is left out are too."""
    steps: list[list[actions.PodAction]] = []
    deletes: dict[names.Uid, list[actions.PodAction]] = {}
    for action in batch:
        if isinstance(action, actions.CreatePod) and action.after is not None:
            deletes.get(action.after, []).append(action)
            continue
        step = [action]
        steps.append(step)
        if isinstance(action, actions.DeletePod):
            deletes[action.uid] = step
    return steps


def _exactly(delete: actions.DeletePod) -> bytes:
    exactly = {"uid": str(delete.uid)}
    if delete.resource_version is not None:
        exactly["resourceVersion"] = str(delete.resource_version)
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": delete.grace_seconds,
        "preconditions": exactly,
    }
    return orjson.dumps(options)


async def _confirmed(confirmed: asyncio.Task[Confirmation] | None, outcome: Outcome) -> bool:
    """Whether to go on: the pool is there unchanged, or it was asked a moment ago."""
    if confirmed is None:
        return True
    try:
        answer = await confirmed
        outcome.gone = answer is Confirmation.GONE
        outcome.stale = answer is Confirmation.CHANGED
    except (ApiError, ApiUnreachableError) as error:
        outcome.failed = error
    if outcome.gone or outcome.stale or outcome.failed:
        outcome.done = False
        return False
    return True
