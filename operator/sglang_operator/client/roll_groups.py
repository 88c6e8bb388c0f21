"""The process groups of ROLL's that one worker's engine is in.

ROLL sets them up outside of any sync, each worker for its engine, by names that are the same in
every job.  So the Lease says whose they are before an engine is told anything (``groups.Forming``),
and the operator that it has seen that, and where the engines are (``confirming``).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from sglang_operator.client import groups, texts
from sglang_operator.client.calls import Json
from sglang_operator.client.confirming import confirmed_groups
from sglang_operator.client.errors import EngineError, GroupsTaken, NotReady, StaleEpoch
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.registry import Engine, changes
from sglang_operator.weights.lease_state import LEASE_SECONDS, Transaction

log = logging.getLogger(__name__)

READY_SECONDS = 1800.0
# A trainer that was killed amid an update and is started again waits for its own dead Lease; less
# than the others wait for worker 0 (following.FOLLOW_SECONDS).
HELD_SECONDS = LEASE_SECONDS + 15.0
# Until the registry tells that an engine ended: seconds for a container, a minute for a node.  An
# engine amid a broadcast that does not come, as another engine of the group ended, answers nothing
# until NCCL's watchdog ends it: after ten minutes, unless its image says otherwise.
_ENDED_SECONDS = 660.0
_LOOK_SECONDS = 0.5


class RollGroups:
    """Those of one engine."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        pool.groups.shared = True
        self._names: set[str] | None = None  # None: ROLL has formed none
        self._left = set[str]()  # their names: groups that are set up anew have others
        trainer = pool.trainer(LEASE_SECONDS)
        self._forming = groups.Forming(pool.groups, pool.lease, trainer)

    @property
    def names(self) -> list[str]:
        return sorted(self._names or ())

    def forget(self) -> None:
        """No bucket for them is sent from now on."""
        if self._names:
            self._names.clear()

    def give_up(self) -> list[str]:
        """As ``forget``, for good: the engine is to leave them.  Their names."""
        left = self.names
        self._left.update(left)
        self.forget()
        return left

    def refuse_left(self, name: str) -> None:
        """Raises StaleEpoch for a group that was given up."""
        if name in self._left:
            self.require(name)

    async def claim(self, name: str) -> None:
        """Say whose the groups are, before engines are told; that of this name is to be anew.

        Raises Held while another trainer is at it, or the operator: of that one's next bucket an
        engine would end, out of its group.  Raises NotReady if no operator tells of the engines.
        """
        self._names = (self._names or set()) - {name}
        await self._claim()

    async def _claim(self, *engines: Engine, own: bool = False) -> None:
        """Say it, unless that was said a moment ago, and wait until the operator has seen it.

        Of many groups that are set up one after the other, that is for the first.
        """
        await self._forming.claim(HELD_SECONDS, own=own)
        await self._confirmed(engines)
        if not self._forming.fresh:  # another operator had to come first
            await self._forming.claim(HELD_SECONDS, own=True)
            await self._confirmed(engines)

    async def _confirmed(self, engines: Iterable[Engine]) -> None:
        """The operator has told of these engines since the last claim.

        Raises NotReady if it does not, StaleEpoch if it tells of others, or the groups are
        another's by now: such a claim is never told of.
        """
        assert self._forming.owner is not None, "claim first"
        told = asyncio.ensure_future(confirmed_groups(self._pool, self._forming.owner, engines))
        try:
            while not (await asyncio.wait({told}, timeout=_LOOK_SECONDS))[0]:
                self._pool.groups.owned(await self._pool.lease.current())
            await told
        finally:
            told.cancel()
            await asyncio.wait({told})

    async def join(self, engine: Engine, payload: Json) -> None:
        """Let the engine join the group of this payload; ``claim`` comes before.

        Raises StaleEpoch if the engine is another one by now, NotReady if no operator tells.
        """
        name, calls = payload["group_name"], self._pool.calls
        post = partial(calls.post, allowed=self._forming.alive)
        await self._confirmed([engine])
        with self._pool.groups.joining(name, [engine]):
            if engine.features.destroy_group:
                await groups.leave(post, engine, name)  # of a trainer that is gone
                await self._claim(engine, own=True)  # that may have taken its time
            await post(engine, groups.JOIN, payload, timeout=None)
        self._names = (self._names or set()) | {name}

    async def leave(self, engine: Engine, names: Iterable[str]) -> None:
        """Let the engine leave these groups once the pool is up, unless it has ended by then.

        A worker may know before the registry that its engine ended: until that tells of the end,
        or the engine answers, nothing can be set up again.  What ends the wait is said at once.
        Raises NotReady if it lasts, or no operator tells of the engine.
        """
        self._pool.groups.cleared(names)
        deadline, is_told = time.monotonic() + _ENDED_SECONDS, False
        while True:
            registry = await self._pool.wait_ready(READY_SECONDS)
            if changes((engine,), registry):
                return  # with its process
            try:
                await self._pool.calls.find(engine)
                await self._leave(engine, names if engine.features.destroy_group else ())
                if not changes((engine,), await self._pool.registry()):
                    return
            except EngineError as error:
                if 0 < error.status < 500:
                    raise
                if time.monotonic() > deadline:
                    seconds = _ENDED_SECONDS
                    words = texts.ROLL_SILENT.format(error=error, seconds=seconds, pod=engine.pod)
                    raise NotReady(words) from error
                if not is_told:
                    log.warning(texts.ROLL_STUCK.format(error=error, pod=engine.pod))
                    is_told = True
            await asyncio.sleep(_LOOK_SECONDS)

    async def _leave(self, engine: Engine, names: Iterable[str]) -> None:
        post = partial(self._pool.calls.post, allowed=self._forming.alive)
        try:
            for name in names:
                await self._claim(engine, own=True)
                await groups.leave(post, engine, name)
        except GroupsTaken:
            raise
        except StaleEpoch:
            return  # it has left them: a reset was quicker, or its process ended

    async def obstacle(self, look: Callable[[], Awaitable[None]], *, also: bool = False) -> str:
        """Why they cannot be used as they are; "" if they can.  ``look`` raises StaleEpoch.

        ``also``: it is to look where there are none, because weights come in another way.

        Raises StaleEpoch if that cannot be mended: the engines are in another job's.
        """
        if not (self._names or also):
            return ""
        try:
            await look()
            if self._names:
                self._pool.groups.owned(await self._pool.lease.current())
        except GroupsTaken:
            raise  # that one would take them again
        except StaleEpoch as error:
            return str(error)
        return ""

    def require(self, name: str) -> None:
        """Raises StaleEpoch for a group that the engine has not joined, or has left."""
        if self._names is not None and name not in self._names:
            what = texts.ROLL_GROUP.format(name=name)
            raise StaleEpoch(texts.ROLL_STALE.format(what=what))

    async def require_in(self, name: str, engine: Engine) -> None:
        """The engine is the one that joined this group, which is this job's still.

        SGLang ends over a bucket of a group that it is not in.  Raises StaleEpoch.
        """
        if what := changes((engine,), await self._pool.registry()):
            raise StaleEpoch(texts.ROLL_STALE.format(what="; ".join(what)))
        self.require(name)
        self._pool.groups.owned(self._pool.lease.seen or Transaction())
        self._pool.groups.require(name, [engine])
