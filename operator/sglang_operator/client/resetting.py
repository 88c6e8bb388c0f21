"""Reset: what a trainer that is gone has left in engines that lived on is taken from them.

Process groups keep their names for the life of the engine's process, and SGLang's session for
buckets stays open: who comes next cannot join, and cannot begin.  A trainer that syncs by this
package sees to both by itself.  For others there is this, before they start.

Nothing else changes: no request is ended, no engine is paused or let go on, no gate moves.  The
Lease is held meanwhile, so that no group is left that somebody has just set up.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sglang_operator.client import groups, reaching, texts
from sglang_operator.client.calls import CONTROL_SECONDS, Json
from sglang_operator.client.confirming import confirmed
from sglang_operator.client.errors import (
    ClusterError,
    EngineError,
    Expired,
    NotReady,
    PoolError,
    Unsupported,
)
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.lease import RECOVERY_SECONDS, LeaseObservation
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.client.updates import end_session
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import lease_state
from sglang_operator.weights import reset as weights_reset
from sglang_operator.weights.lease_state import GroupsOwner, Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

PATIENCE = 10.0
REST_PATIENCE = 2.0


@dataclass(frozen=True, kw_only=True)
class Left:
    """What one engine has left.  ``ended``: it ended meanwhile, or never answered as it starts."""

    engine: Engine
    groups: tuple[str, ...] = ()
    session: bool = False
    ended: bool = False


async def reset(
    pool: "AsyncPool", names: Iterable[str], wait: float, force: bool
) -> tuple[Left, ...]:
    """See ``AsyncPool.reset``."""
    registry = await pool.fresh()
    for version, features in registry.features.items():
        if not features.destroy_group:
            raise Unsupported(texts.RESET_VERSION.format(version=version, pool=pool.name))
    if not any(engine.runs for engine in registry.engines):
        raise NotReady(texts.RESET_NONE)
    await _reached(pool, registry)
    with pool.turn.taken("reset()"):
        wanted = tuple(dict.fromkeys((*groups.KNOWN, *names)))
        return await pool.to_its_end(_Reset(pool, registry, wanted, force).run(wait))


async def _reached(pool: "AsyncPool", registry: Registry) -> None:
    """Raises NotReady, before anything is taken, if no engine can be reached from here."""
    engines = [engine for engine in registry.engines if engine.runs]
    found = await asyncio.gather(
        *(pool.calls.find(engine) for engine in engines), return_exceptions=True
    )
    errors = [each for each in found if isinstance(each, BaseException)]
    if len(errors) == len(engines):
        words = texts.UNREACHED.format(error=errors[0])
        raise NotReady(words) from errors[0]


class _Reset:
    """One reset, of the engines that run."""

    def __init__(
        self, pool: "AsyncPool", registry: Registry, names: Sequence[str], force: bool
    ) -> None:
        self._pool = pool
        self._registry = registry
        self._names = names
        self._force = force
        self._engines = [engine for engine in registry.engines if engine.runs]
        self._hold = LeaseHold(pool.lease, pool.trainer(lease_state.LEASE_SECONDS), self._lose)
        self._lost: PoolError | None = None

    def _lose(self, reason: PoolError) -> None:
        self._lost = reason

    async def run(self, wait: float) -> tuple[Left, ...]:
        await self._take(wait)
        try:
            transaction, epoch = self._hold.trainer.transaction, self._registry.epoch
            await confirmed(self._pool, transaction, self._engines, epoch)
            outcomes = await asyncio.gather(
                *map(self._clear, self._engines), return_exceptions=True
            )
        finally:
            await self._give_back()
        return await self._judged(outcomes)

    async def _take(self, wait: float) -> None:
        trainer, epoch = self._hold.trainer, self._registry.epoch
        before: list[GroupsOwner | None] = [None]
        me = GroupsOwner(id=trainer.transaction, holder=trainer.holder, left=True)

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            found, now = self._pool.sleeper.idle(state), sight.now
            taken = weights_reset.begin(found, trainer, epoch=epoch, now=now, seen=sight.seen)
            if not self._force:
                weights_groups.unused(found, trainer.holder, now)
            before[0] = found.groups
            return weights_groups.claimed(taken, me, now=now, seen=sight.groups)

        try:
            await self._hold.take(step, wait=wait, patience=PATIENCE)
        except (asyncio.CancelledError, ClusterError):  # it may have been written all the same
            await self._give_back(patience=0)
            raise
        await self._pool.sleeper.stop()
        self._hold.start()
        groups.tell_whose(before[0], me)

    async def _give_back(self, patience: float = REST_PATIENCE) -> None:
        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            return weights_reset.end(state, self._hold.trainer)

        await self._hold.stop()
        with contextlib.suppress(PoolError):  # it is owed
            await self._hold.give_back(step, patience=patience)

    async def _clear(self, engine: Engine) -> Left:
        """One name after the other; an engine that does not answer is not asked for the next."""

        async def post(each: Engine, path: str, payload: object) -> Json:
            assert isinstance(payload, dict)
            calls, may = self._pool.calls, self._hold.alive
            return await calls.post(each, path, payload, timeout=CONTROL_SECONDS, allowed=may)

        found = [name for name in self._names if await groups.leave(post, engine, name)]
        session = await self._end_session(engine)
        return Left(engine=engine, groups=tuple(found), session=session)

    async def _end_session(self, engine: Engine) -> bool:
        if not engine.features.begin_end_weight_update:
            return False
        calls, may = self._pool.calls, self._hold.alive

        async def post(path: str, payload: Json, *, timeout: float | None) -> Json:
            limit = RECOVERY_SECONDS
            return await calls.post(engine, path, payload, timeout=limit, allowed=may)

        return await end_session(post)

    async def _judged(self, outcomes: Sequence[Left | BaseException]) -> tuple[Left, ...]:
        """What became of each; raises for one that lives on, and did not do what it was told.

        One that ended is in no group any more, and neither is one that only starts.
        """
        both = list(zip(self._engines, outcomes, strict=True))
        silent = [e for e, o in both if isinstance(o, EngineError) and o.status == 0]
        gone = await self._gone([engine for engine in silent if engine.up])
        left = []
        for engine, outcome in both:
            if isinstance(outcome, Left):
                left.append(outcome)
            elif isinstance(outcome, Expired):
                raise self._lost or outcome
            elif engine in silent and (engine in gone or not engine.up):
                left.append(Left(engine=engine, ended=True))
            elif engine in silent:
                words = texts.RESET_STUCK.format(error=outcome, engine=engine.engine)
                raise NotReady(words) from outcome
            else:
                raise outcome
        return tuple(left)

    async def _gone(self, silent: Sequence[Engine]) -> list[Engine]:
        """Those of them that are seen soon to have ended."""
        gone: list[Engine] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(reaching.ENDED_SECONDS if silent else 0):
                async for registry in self._pool.changes():
                    now = {engine.instance for engine in registry.engines if engine.up}
                    gone = [engine for engine in silent if engine.instance not in now]
                    if len(gone) == len(silent):
                        break
        return gone
