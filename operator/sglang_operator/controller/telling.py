"""The end of the fourth stage of a pass: the status, if it changed, then what is told of that.

A status that cannot be written is logged with its cause, whatever that is.  A field that the
definition on the server does not know (it is older than this operator: a rollback, an upgrade
that stopped half-way) costs that field, not the status.  That a field is not known at all holds for
every pool; any other refusal is about what one pool has in it, and costs that pool's alone.
"""

import contextlib
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from sglang_operator import supervision
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.outcome import Confirmation
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.stores import PoolKey, PoolStore
from sglang_operator.controller.memory import Pass
from sglang_operator.controller.requeue import Reason
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed import edits
from sglang_operator.observed.wire import CustomResource
from sglang_operator.status import transitions

# After so long a field that was refused is tried again: the definition may be another by now.
LEFT_OUT_SECONDS = 600.0
_UNKNOWN = "field not declared in schema"
# ".status.engines.up: field not declared in schema", "status.conditions[0].type: Unsupported …"
_FIELD = re.compile(r"(?<![\w.])\.?status((?:\.\w+)+)(?:\[[^][]*\][.\w\[\]]*)?: ")

log = logging.getLogger(__name__)

Path = tuple[str, ...]


class Declared:
    """Which fields of a status the definition on the server takes."""

    def __init__(self) -> None:
        # When each was refused, monotonic: by the pool's UID, or "" for all pools.
        self._left_out: dict[tuple[str, Path], float] = {}

    def known(self, status: Mapping[str, Any], uid: str) -> dict[str, Any]:
        """The status of a pool without the fields that were refused lately."""
        oldest = time.monotonic() - LEFT_OUT_SECONDS
        self._left_out = {refused: at for refused, at in self._left_out.items() if at > oldest}
        told = dict(status)
        for whose, path in self._left_out:
            if whose in ("", uid):
                told = _without(told, path)
        return told

    def learn(self, error: ApiError, status: Mapping[str, Any], uid: str) -> bool:
        """Take in a refusal; whether there is something to leave out that was written."""
        if not error.of_schema or error.of_admission:
            return False
        new = False
        for match in _FIELD.finditer(error.message):
            path = tuple(match[1].split(".")[1:])
            unknown = error.undeclared and error.message.startswith(_UNKNOWN, match.end())
            refused = ("" if unknown else uid, path)
            if refused in self._left_out or _without(status, path) == status:
                continue
            new = True
            log.error(
                "the API server takes no status.%s%s: its definition is of another version, apply "
                "that of this one; until then the status is told without it (%s)",
                ".".join(path),
                "" if unknown else f" of the pool with the UID {uid}",
                error.told[:500],
            )
            self._left_out[refused] = time.monotonic()
        return new


def _without(status: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A copy without this field."""
    name, *rest = path
    left = dict(status)
    if rest and isinstance(left.get(name), Mapping):
        left[name] = _without(left[name], tuple(rest))
    elif not rest:
        left.pop(name, None)
    return left


class Teller:
    """Writes statuses and has Events posted."""

    def __init__(self, pools: PoolStore, executor: Executor, recorder: Recorder) -> None:
        self._pools = pools
        self._executor = executor
        self._recorder = recorder
        self._declared = Declared()

    def latest(self, key: PoolKey, record: CustomResource) -> CustomResource:
        """The pool as it is known by now, if it still asks for the same."""
        known = self._pools.get(key)
        return known if known is not None and edits.same_spec(known, record) else record

    async def tell(self, this: Pass, status: Mapping[str, Any]) -> bool:
        """Write the status if it changed, then tell; whether it is told, or nobody listens."""
        key, memory, record = this.key, this.memory, this.record
        new = self._declared.known(status, memory.uid)
        if new == record.status:
            return True
        memory.published_at = time.monotonic()
        try:
            told = await self._write(key, memory.uid, record, new)
        except (ApiError, ApiUnreachableError) as error:
            if isinstance(error, ApiError) and await self._is_gone(this, error):
                return True  # deleted: its informer will say so
            delay = memory.telling.failed(error)
            log.warning("%s: the status is not written: %s; next try in %.1f s", key, error, delay)
            this.requeue.after(Reason.STATUS_FAILED, delay)
            return False
        events = list(transitions.events(record.status, told))
        if events:
            supervision.begun("events", self._recorder.post(key, memory.uid, events))
        return True

    async def _write(
        self, key: PoolKey, uid: str, record: CustomResource, status: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Write as much of the status as the server takes; what that is."""
        while True:
            try:
                await self._executor.status(key, self.latest(key, record), status)
            except ApiError as error:
                if not self._declared.learn(error, status, uid):
                    raise
                status = self._declared.known(status, uid)
            else:
                return status

    async def read_again(self, this: Pass) -> None:
        """Read a pool whose spec was left out and has room now."""
        key, uid = this.key, this.memory.uid
        try:
            found = await self._executor.confirm_pool(key, uid, this.record)
        except (ApiError, ApiUnreachableError) as error:
            this.requeue.after(Reason.SPEC_READ, this.memory.telling.failed(error))
            return
        if found is Confirmation.GONE:
            self._pools.gone(key, uid)
        this.requeue.now(Reason.SPEC_READ)

    async def _is_gone(self, this: Pass, error: ApiError) -> bool:
        """Take in the pool as it is, where it is not in the state that was seen."""
        if not (error.missing or error.status == 409):
            return False
        with contextlib.suppress(ApiError, ApiUnreachableError):
            found = await self._executor.confirm_pool(this.key, this.memory.uid, this.record)
            known = self._pools.get(this.key)
            leaves = known is not None and known.metadata.deletion_timestamp is not None
            return found is Confirmation.GONE or leaves
        return False
