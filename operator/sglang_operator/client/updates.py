"""What a trainer does to the engines within a sync: SGLang's calls, as its version wants them.

``weight_version`` is never sent with a bucket: whoever reads it would take the first bucket for the
whole.  The end of the sync labels all engines at once.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from sglang_operator.client import beside, given, groups, pausing, waking
from sglang_operator.client.calls import CONTROL_SECONDS, Json, Payload, together
from sglang_operator.client.entered import entered
from sglang_operator.client.errors import EngineError
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.ledger import WHOLE, Ledger
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.client.registry import Engine, NcclPlan, Registry
from sglang_operator.engine import versions
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import whole
from sglang_operator.weights.lease_state import Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

T = TypeVar("T")

# SGLang managers/scheduler_components/weight_updater.py
_SESSION_OPEN = "already open"


async def open_session(post: Callable[..., Awaitable[Json]]) -> Json:
    """Open SGLang's session for buckets at one engine, which is paused.

    It changes the form of some weights in their place.  ``post``: to the engine, by path and
    payload.  Raises EngineError, Expired.
    """
    try:
        return await post("/begin_weight_update", {})
    except EngineError as error:
        # Left open by a sync that was torn: its weights are written over anyway.
        if _SESSION_OPEN not in error.said:
            raise
        with contextlib.suppress(EngineError):
            await post("/end_weight_update", {}, timeout=None)
        return await post("/begin_weight_update", {})


async def end_session(post: Callable[..., Awaitable[Json]]) -> bool:
    """End SGLang's session at one engine, whoever opened it; whether one was open.

    While one is, weights stand in the form in which they are loaded, and answers are wrong.
    """
    try:
        await post("/end_weight_update", {}, timeout=None)
    except EngineError as error:
        if versions.NO_SESSION not in error.said:
            raise
        return False
    return True


@dataclass(frozen=True)
class _Unflushed:
    """SGLang's payload of tensors by engine; equal for an equal one, as the ledger wants it."""

    payload: Payload

    def __call__(self, engine: Engine) -> Mapping[str, Any]:
        own = self.payload(engine) if callable(self.payload) else self.payload
        return {"flush_cache": False, **own}


class Updates(ABC):
    """The update calls of a sync, over all of its engines at once."""

    engines: tuple[Engine, ...]
    registry: Registry | None
    _pool: "AsyncPool"
    _hold: LeaseHold | None
    _before: Transaction
    _state: Transaction
    _options: SyncOptions

    def __init__(self) -> None:
        self._checkpoint = ""
        self._session_open = False
        self._opening = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._grouped = False  # whether buckets are broadcast in groups
        self._writes = Ledger()

    @property
    def checkpoint(self) -> str:
        """A path with exactly these weights, for weights.recovery; "" if there is none."""
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, path: str | PathLike[str]) -> None:
        self._checkpoint = given.checkpoint(path)

    def _mine(self) -> tuple[Engine, ...]:
        """The engines that this process writes into."""
        return self.engines

    @abstractmethod
    def check(self) -> None:
        """Raises if the sync is over."""

    @abstractmethod
    def _may_write(self) -> bool:
        """The fence."""

    @abstractmethod
    async def _guarded(self, awaitable: Awaitable[T]) -> T:
        """Await it, unless the sync is lost before."""

    @entered
    async def call(
        self,
        path: str,
        payload: Payload,
        *,
        timeout: float | None = CONTROL_SECONDS,
        engines: Sequence[Engine] | None = None,
    ) -> list[Json]:
        """POST to all engines of the sync, or to these, at once; ``payload`` may be by engine.

        ``timeout`` in seconds, None for none.  Answers are in the engines' order, which is that of
        ranks.  Raises EngineError, StaleEpoch, Expired.
        """
        asked = self.engines if engines is None else engines
        with self._writes.update(path, payload, asked):
            self.check()
            bodies = [(e, payload(e) if callable(payload) else payload) for e in asked]
            each = (self._post(engine, path, body, timeout) for engine, body in bodies)
            return await self._guarded(together(each))

    @entered
    async def call_one(
        self,
        engine: Engine,
        path: str,
        payload: Mapping[str, Any],
        *,
        timeout: float | None = CONTROL_SECONDS,
    ) -> Json:
        """POST to one engine of the sync; raises as ``call``."""
        with self._writes.update(path, payload, (engine,)):
            self.check()
            return await self._guarded(self._post(engine, path, payload, timeout))

    async def _post(
        self, engine: Engine, path: str, payload: Mapping[str, Any], timeout: float | None
    ) -> Json:
        post, may = self._pool.calls.post, self._may_write
        with self._writes.update(path, payload, (engine,)):
            await self._may_group(path)
            return await post(engine, path, payload, timeout=timeout, allowed=may)

    def nccl_plan(self, master_address: str, master_port: int, **options: Any) -> NcclPlan:
        """As ``Registry.nccl_plan``, over the engines of this sync."""
        assert self.registry is not None
        return self.registry.nccl_plan(master_address, master_port, **options)

    async def init_weights_update_group(
        self, plan: NcclPlan, *, timeout: float | None = None
    ) -> None:
        """Let every engine join the group.  Blocks until the trainer has joined as rank 0 too.

        An older group of this name, which an earlier sync or a trainer that is gone has left, ends
        before: torch keeps names for the life of a process.
        """
        name, join = plan.group_name, groups.JOIN
        await self._guarded(self._claim())
        with self._pool.groups.joining(name, self.engines):
            leaves = [engine for engine in self.engines if engine.features.destroy_group]
            await together(groups.leave(self.call_one, e, name) for e in leaves)
            await self.call(join, lambda e: plan.payload(e.rank), timeout=timeout)

    async def destroy_weights_update_group(self, group_name: str) -> None:
        """Let every engine leave the group, unless it is in another's by now."""
        group_name = given.version(group_name, "group_name")
        own = self._pool.groups
        own.left(group_name)
        if own.id and not own.are_owned(self._state):
            return
        await self.call(groups.LEAVE, {"group_name": group_name})

    async def _may_group(self, path: str) -> None:
        """Before this call of SGLang's: the Lease says whose groups the engines are in."""
        if path == groups.JOIN:
            await self._claim()
        elif path in (groups.LEAVE, groups.BUCKET):
            self._pool.groups.owned(self._state)
            self._grouped = self._grouped or path == groups.BUCKET

    async def _claim(self) -> None:
        async with self._claiming:
            own, owner = self._pool.groups, self._state.groups
            if owner is not None and owner.id == own.id:
                return
            assert self._hold is not None
            self._state = await groups.claim_within(own, self._hold)

    def _with_groups(self, state: Transaction, now: float) -> Transaction:
        """The state of which a step is taken: they are its own still, and it lives.

        Raises StaleEpoch.
        """
        if self._grouped:
            self._pool.groups.owned(state)
        return weights_groups.acts(state, self._pool.groups.id, now)

    @entered
    async def update_weights_from_distributed(
        self,
        names: list[str],
        dtypes: list[str],
        shapes: list[list[int]],
        *,
        group_name: str,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """One bucket that the trainer broadcasts in the group meanwhile.

        Raises StaleEpoch, before anything is sent, if the group was set up without an engine that
        is here now, or the engines have left it for another trainer's: SGLang ends over a group
        that it is not in.
        """
        path = groups.BUCKET
        with self._writes.update(path, names, self.engines):
            await self._may_group(path)
            self._pool.groups.require(group_name, self.engines)
            payload = {
                "names": names,
                "dtypes": [dtype.removeprefix("torch.") for dtype in dtypes],
                "shapes": shapes,
                "group_name": given.version(group_name, "group_name"),
                "flush_cache": False,
                **options,
            }
            await self.begin_weight_update()
            await self.call(path, payload, timeout=timeout)

    @entered
    async def update_weights_from_tensor(
        self, payload: Payload, *, timeout: float | None = None
    ) -> None:
        """One bucket by handle or value; ``payload`` is SGLang's, one for all or by engine."""
        path = "/update_weights_from_tensor"
        with self._writes.update(path, payload, self.engines):
            await self.begin_weight_update()
            await self.call(path, _Unflushed(payload), timeout=timeout)

    @entered
    async def update_weights_from_disk(
        self,
        path: str,
        *,
        load_format: str = "auto",
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """All weights from a path that every engine can read.

        The format is always sent: a server that started with dummy weights would else use its own.
        The end of the sync empties the caches: a flush that a late request stands in the way of
        ends an engine here.  Before 0.5.7 SGLang does not know the field, and ignores it.
        """
        with self._writes.update(WHOLE, path, self.engines):
            await self.end_weight_update()  # one that was torn would pack what the load has packed
            payload = {
                "model_path": given.path(path),
                "load_format": load_format,
                "flush_cache": False,
                **options,
            }
            await self.call(WHOLE, payload, timeout=timeout)

    async def begin_weight_update(self) -> None:
        """Open SGLang's session for buckets, where the version has one; else nothing."""
        async with self._opening:  # buckets that are sent at once share one session
            if not self._session_open:
                have_one = _with_session(self._mine())
                await together(open_session(partial(self.call_one, each)) for each in have_one)
                self._session_open = True

    async def end_weight_update(self) -> None:
        """Close the session, whoever opened it; the end of the sync does it by itself."""
        have_one = _with_session(self.engines)
        await together(end_session(partial(self.call_one, each)) for each in have_one)
        self._session_open = False

    # --- pause and memory

    async def _pause(self) -> None:
        """No request runs any more, and no engine has a cache of the old weights."""
        calls, mode, may = self._pool.calls, self._options.pause, self._may_write
        mine, before = self._mine(), self._before
        # Not all that the Lease names: of those that were woken since it has each tag.
        asleep = [e.instance for e in mine if self._state.sleeps(e.instance)]
        held = whole.whole((e.instance for e in mine), before)
        stopped = pausing.stop(calls, mine, mode, asleep=asleep, whole=held, allowed=may)
        await self._guarded(stopped)
        assert self.registry is not None
        others = beside.passed_over(self.registry, self.engines, before)
        await self._guarded(pausing.silence(calls, others, may))

    async def _resume(self, tags: set[str]) -> None:
        """Resume memory that a sleep released: weights before, the rest after the update."""
        # One without tags resumes everything, whatever it is told.
        if tags and not all(engine.features.memory_tags for engine in self.engines):
            tags = set(self._state.released)
        if tags and self._hold is not None:
            self._state = await self._pool.to_its_end(self._resumed(self._hold, tags))
            self.check()

    async def _resumed(self, hold: LeaseHold, tags: set[str]) -> Transaction:
        await waking.resume_all(self._pool, hold, self._state, self.engines, tags)
        return await hold.step(waking.woken(hold, tags), patience=waking.PATIENCE)


def _with_session(engines: Iterable[Engine]) -> list[Engine]:
    return [engine for engine in engines if engine.features.begin_end_weight_update]
