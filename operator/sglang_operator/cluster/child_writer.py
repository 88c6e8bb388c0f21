"""What is written of the children of a pool that are no pods."""

from collections.abc import Iterable, Mapping
from typing import Any

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import gang_groups, kinds
from sglang_operator.cluster import identity
from sglang_operator.cluster.child_store import ChildStore
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.writer import Writer
from sglang_operator.kube import paths
from sglang_operator.kube.client import JSON, MERGE_PATCH, ApiClient
from sglang_operator.kube.decoding import Decoder
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.observed import wire

_decoder = Decoder(wire.Child)


class ChildWriter:
    """Creates, updates and deletes them, and has the stores know what came of it."""

    def __init__(self, client: ApiClient, work: Writer, children: Mapping[str, ChildStore]) -> None:
        self._client = client
        self._work = work
        self._children = children

    async def write(
        self, key: PoolKey, owner: names.Uid, batch: Iterable[actions.ChildAction]
    ) -> Outcome:
        """Create, update and delete the children that are not pods, one after another."""
        outcome = Outcome()
        for action in batch:
            try:
                await self.write_one(key, owner, action, outcome)
            except ApiUnreachableError as error:
                outcome.failed, outcome.failing = error, (action.kind, action.name)
            except ApiError as error:
                # A conflict or a missing object: what was seen is old, so it is tried again.
                if not (error.missing and isinstance(action, actions.DeleteChild)):
                    outcome.failed, outcome.failing = error, (action.kind, action.name)
            outcome.done = outcome.done and outcome.failed is None
        return outcome

    async def write_one(
        self,
        key: PoolKey,
        owner: names.Uid,
        action: actions.ChildAction,
        outcome: Outcome,
    ) -> None:
        """One of these.  Raises :class:`ApiError`, :class:`ApiUnreachableError`."""
        store = self._children[action.kind]
        path = paths.child(action.kind, key.namespace, action.name)
        params = {"fieldManager": names.FIELD_MANAGER}
        if isinstance(action, actions.DeleteChild):
            exactly: dict[str, str] = {"uid": action.uid}
            if action.resource_version:
                exactly["resourceVersion"] = action.resource_version
            options = {"preconditions": exactly, "propagationPolicy": "Background"}
            await self._work.send("DELETE", key.namespace, path, options, JSON, {})
            return
        if isinstance(action, actions.UpdateChild):
            # The UID makes it an update of this very object, never a take-over of another.  A
            # merge patch, because what was created by POST keeps, under server-side apply, what
            # is no longer wanted of it (a port under its old number).
            compared = kinds.of(action.kind).compared
            content = {key: action.body[key] for key in compared if key in action.body}
            given = action.body["metadata"]
            metadata: dict[str, Any] = {"uid": action.uid, "labels": given["labels"]}
            if gang_groups.made_of(action.body):
                metadata["annotations"] = given["annotations"]
            body = {"metadata": metadata, **content}
            answer = await self._work.send("PATCH", key.namespace, path, body, MERGE_PATCH, params)
            store.put(_decoder.object(answer))
            return
        try:
            collection = paths.children(action.kind, key.namespace)
            answer = await self._work.send(
                "POST", key.namespace, collection, action.body, JSON, params
            )
        except ApiError as error:
            if not error.already_exists:
                raise
            answer = await self._client.request("GET", path)
            meta = _decoder.object(answer).metadata
            if identity.of_earlier_pool(meta.controller, key, owner):
                raise  # it is about to be collected: tried again until then
            if meta.controller is None or meta.controller.uid != owner:
                outcome.conflicts.append((action.kind, action.name))
                return
            if kinds.is_of_gang(action.kind) and _is_another(action.body, meta):
                store.put(_decoder.object(answer))
                raise  # of an earlier try, and out of sight until now, or on its way out
            if labels := identity.lost(action.body, meta.labels):
                # It is ours, and out of sight without them: the watch said that it is gone.
                body = {"metadata": {"uid": meta.uid, "labels": labels}}
                answer = await self._work.send(
                    "PATCH", key.namespace, path, body, MERGE_PATCH, params
                )
        store.put(_decoder.object(answer))


def _is_another(wanted: Mapping[str, Any], meta: wire.Meta) -> bool:
    """Whether a group that is there is none that the next try's pods may be of."""
    found = meta.annotations.get(names.ANNOTATION_MADE_OF, "")
    return meta.deletion_timestamp is not None or found != gang_groups.made_of(wanted)
