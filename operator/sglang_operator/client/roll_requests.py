"""The requests of one of ROLL's workers, and who answers them when its engine ends.

A request goes to the worker's own engine while that very instance runs: ROLL sends the samples of a
prompt to one worker for the sake of its prefix cache.  One that this job has not written is asked
behind an open gate only, and none that gave up what was written.  Where the instance has ended, or
ends over the request, another engine answers that holds the same policy: one whose gate is open at
the committed version, or in a pool without gates one that got all of this job's updates.  Where
there is none for a while, nobody answers, and ROLL is told that the request was aborted: it goes on
with others.  A job that has written nothing itself waits for a commit instead.  Where there is none
for long, that is an error: nothing but a model update may help, and ROLL makes none before it has
its answers.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sglang_operator import supervision
from sglang_operator.client import texts
from sglang_operator.client.calls import GENERATE, Json, together
from sglang_operator.client.errors import EngineError, NotReady, PoolError
from sglang_operator.client.registry import OPEN, Engine, Registry
from sglang_operator.engine.arguments import SENTINEL
from sglang_operator.weights.lease_state import Phase

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

log = logging.getLogger(__name__)

WITHOUT_SECONDS = 60.0  # that a request may be without an engine
GIVE_UP_SECONDS = 1800.0  # that all requests may be
AGAIN_SECONDS = 1.0  # before an engine that did not answer is asked again
ABORTS_AT_ONCE = 64
_MOST_FAILURES = 3  # answers that an engine failed, rather than ended, before that is told
_MOST_ENDS = 3  # engines that ended over a request: it may be what ends them
_ELSEWHERE = (404, 405, 429, 502, 503, 504)  # full, about to end, or no SGLang


@dataclass(kw_only=True, eq=False)
class _Open:
    """A request that is not answered yet: where it is, and under which name."""

    rid: str | None
    engine: Engine | None = None
    asking: asyncio.Task[Any] | None = None
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False  # its engine did, says the registry
    since: float = field(default_factory=time.monotonic)  # without an engine that has it
    why: str = ""  # of the last one that did not take it
    tries: int = 0
    failures: int = 0
    ends: int = 0
    failed: dict[str, float] = field(default_factory=dict)  # instances, and when


class Requests:
    """Those of one worker.  Used in one event loop."""

    def __init__(self, pool: "AsyncPool") -> None:
        self._pool = pool
        self._open: set[_Open] = set()
        self._next = itertools.count()
        self._looking: asyncio.Task[None] | None = None
        self._told: set[str] = set()  # instances whose end was told
        self._answered = 0.0  # when any was
        self._without_since = 0.0  # when the first had none, since any was answered; 0: none has

    async def answer(
        self,
        own: Engine,
        body: Json,
        *,
        written: Sequence[Engine],
        wrote: Collection[str | None],
    ) -> list[Json] | None:
        """The answers to a request; None if nobody gave any, or it was aborted meanwhile.

        ``written``: engines that get all of this job's updates.  ``wrote``: the instances that got
        the last one, which name its version; none before there was any.  Raises EngineError if
        engines refuse the request, or fail over it, NotReady.
        """
        request = _Open(rid=body.get("rid"))
        self._open.add(request)
        self._look()
        try:
            while not request.aborted.is_set():
                registry = await self._pool.registry()
                engine = self._choice(request, own, written, wrote, registry)
                if engine is not None:
                    found = await self._asked(request, engine, body, bool(wrote))
                    if found is not None:
                        self._answered, self._without_since = time.monotonic(), 0.0
                        return found
                    if request.ends >= _MOST_ENDS:
                        words = texts.ROLL_ENDED_OVER.format(count=request.ends, rid=request.rid)
                        log.error(words)
                        return None
                # Engines that are tried and do not take it are none, unless they answer others.
                if time.monotonic() > max(request.since, self._answered) + WITHOUT_SECONDS:
                    self._give_up(request, registry)
                    if wrote or own.gate is None or engine is not None:
                        log.warning(
                            texts.ROLL_NOBODY.format(seconds=WITHOUT_SECONDS, why=request.why)
                        )
                        return None
                    log.warning(texts.ROLL_NOT_OPEN.format(states=_states(registry)))
                    request.since = time.monotonic()
                elif engine is None:
                    await self._news(request)
            return None
        finally:
            self._open.discard(request)
            self._look()

    def _give_up(self, request: _Open, registry: Registry) -> None:
        """Raises NotReady if nobody has answered anything for too long."""
        now = time.monotonic()
        self._without_since = self._without_since or now - WITHOUT_SECONDS
        if now - self._without_since > GIVE_UP_SECONDS:
            states = _states(registry)
            words = texts.ROLL_GIVES_UP.format(
                seconds=GIVE_UP_SECONDS, states=states, why=request.why
            )
            raise NotReady(words)

    async def abort(self, own: Engine, rids: Sequence[str] | None) -> None:
        """End these requests, or all, wherever they are."""
        named = None if rids is None else set(rids)
        known = [each for each in self._open if named is None or each.rid in named]
        places: list[tuple[Engine, Json]] = []
        for each in known:
            each.aborted.set()
            if each.engine is not None and (each.engine != own or named is not None):
                places.append((each.engine, {"rid": _name(each)}))
        if named is None:
            places.append((own, {"abort_all": True}))
        else:  # some were sent by others: ROLL's SglangRouter
            others = named - {each.rid for each in known}
            places += [(own, {"rid": rid}) for rid in sorted(others)]
        await self._end_all(places)
        if any(each in self._open for each in known):
            self._pool.beside("aborts again", self._insist(known))

    async def _insist(self, requests: Sequence[_Open]) -> None:
        """An abort that comes before its request ends nothing, and ROLL waits for the end."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            left = [each for each in requests if each in self._open]
            if not left:
                return
            try:
                await self._end_all(
                    [
                        (each.engine, {"rid": _name(each)})
                        for each in left
                        if each.engine is not None
                    ]
                )
            except PoolError as error:
                log.warning(texts.ROLL_NOT_ABORTED.format(error=error))

    async def _end_all(self, places: Iterable[tuple[Engine, Json]]) -> None:
        turns = asyncio.Semaphore(ABORTS_AT_ONCE)
        registry = await self._pool.registry()
        await together(self._end(registry, turns, engine, body) for engine, body in places)

    async def _end(
        self, registry: Registry, turns: asyncio.Semaphore, engine: Engine, body: Json
    ) -> Json:
        if not _runs(engine, _found(engine, registry)):
            return {}  # with all its requests
        async with turns:
            try:
                return await self._pool.calls.post(engine, "/abort_request", body)
            except EngineError as error:
                if error.status:
                    raise
                log.warning(texts.ROLL_NOT_ABORTED.format(error=error))
                return {}

    # --- one try

    async def _asked(
        self, request: _Open, engine: Engine, body: Json, labelled: bool
    ) -> list[Json] | None:
        """What the engine answers; None if it ended over it, or is not the one it was."""
        request.engine, request.ended = engine, False
        request.tries += 1
        begun = time.monotonic()
        if request.rid is not None:
            body = {**body, "rid": _name(request)}
        asking = asyncio.create_task(self._pool.calls.post_any(engine, GENERATE, body))
        request.asking = asking
        try:
            found: Any = await asking
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if not request.ended or (own is not None and own.cancelling()):
                asking.cancel()  # it is this process that wants no answer any more
                raise
            request.ends += 1
            request.since = time.monotonic()
        except EngineError as error:
            self._judge(request, error)
            request.why = f" ({error})"
            if error.sent:  # it had one for so long
                request.since = min(request.since + time.monotonic() - begun, time.monotonic())
        else:
            answers = found if isinstance(found, list) else [found]
            if not labelled or not any(_by_a_stranger(each) for each in answers):
                return answers
        finally:
            request.engine = request.asking = None
        request.failed[engine.instance or ""] = time.monotonic()
        self._tell(engine)
        return None

    @staticmethod
    def _judge(request: _Open, error: EngineError) -> None:
        """Raises what is the request's fault, or may be."""
        if error.status == 0 or error.status in _ELSEWHERE:
            if not error.status and error.sent:
                request.ends += 1
                request.since = time.monotonic()
            return
        request.failures += 1
        if error.status < 500 or request.failures >= _MOST_FAILURES:
            raise error

    def _tell(self, engine: Engine) -> None:
        if engine.instance not in self._told:
            self._told.add(engine.instance or "")
            log.warning(
                texts.ROLL_ELSEWHERE.format(rank=engine.rank, engine=engine.engine, url=engine.url)
            )

    def _choice(
        self,
        request: _Open,
        own: Engine,
        written: Sequence[Engine],
        wrote: Collection[str | None],
        registry: Registry,
    ) -> Engine | None:
        """Who is to answer: its own engine, that of its rank, or each other one in turn."""
        late = time.monotonic() - AGAIN_SECONDS
        tired = {instance for instance, when in request.failed.items() if when > late}
        now = _found(own, registry)
        if now is not None and _runs(own, now) and own.instance not in tired:
            lacks = _gave_up(now) or now.leaving
            if not lacks and (own.instance in wrote or _is_open(now)):
                return own
        known = {each.instance for each in written}
        able = [
            each
            for each in registry.present
            if each.up and each.instance not in tired and _holds_the_policy(each, registry, known)
        ]
        at_home = [each for each in able if each.rank == own.rank]
        if at_home or not able:
            return at_home[0] if at_home else None
        fresh = [each for each in able if each.instance not in request.failed] or able
        return fresh[next(self._next) % len(fresh)]

    async def _news(self, request: _Open) -> None:
        try:
            async with asyncio.timeout(AGAIN_SECONDS):
                await request.aborted.wait()
        except TimeoutError:
            pass

    # --- engines that end in silence

    def _look(self) -> None:
        """Look at the registry while there are requests."""
        if self._open and self._looking is None:
            name = "engines that end"
            self._looking = self._pool.beside(name, supervision.kept(name, self._follow))
        elif not self._open and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _follow(self) -> None:
        """End the wait for engines of which the registry says that they ended: nothing else may
        tell, where a node is gone."""
        while True:
            try:
                async for registry in self._pool.changes():
                    self._end_with(self._open, registry)
            except PoolError:
                await asyncio.sleep(AGAIN_SECONDS)

    @staticmethod
    def _end_with(requests: Iterable[_Open], registry: Registry) -> None:
        for request in requests:
            engine, asking = request.engine, request.asking
            if engine is None or asking is None:
                continue
            if not _runs(engine, _found(engine, registry)):
                request.ended = True
                asking.cancel()


def _name(request: _Open) -> str | None:
    """An engine takes no name twice: it may not have noticed yet that nobody waits any more."""
    return request.rid if request.tries < 2 else f"{request.rid}-try{request.tries}"


def _found(engine: Engine, registry: Registry) -> Engine | None:
    """This very instance, as the registry has it.

    Beside the pool's engines too: where a new one is up in its place, the old one serves on until
    the next commit; and one that is on its way out answers what it has, and takes nothing new for
    long.
    """
    run = engine.engine, engine.instance
    every = itertools.chain(registry.engines, registry.unlisted)
    return next((each for each in every if (each.engine, each.instance) == run), None)


def _runs(engine: Engine, now: Engine | None) -> bool:
    """Whether this very instance still does, as far as is known.  Its address says nothing."""
    return now is not None and now.runs and now.url == engine.url


def _is_open(now: Engine) -> bool:
    """Whether clients reach it, as far as it is for the weights."""
    return now.gate in (None, OPEN)


def _gave_up(now: Engine) -> bool:
    """Whether its memory is released, or came back without the weights that were in it.

    It is paused, and keeps whatever it is asked until it has weights again.
    """
    return now.asleep or now.behind


def _states(registry: Registry) -> str:
    shown = (
        f"engine {e.rank}: {e.state}" + (f", gate {e.gate}" if e.gate else "")
        for e in registry.present[:8]
    )
    return "; ".join(shown) or "none"


def _holds_the_policy(engine: Engine, registry: Registry, written: set[str | None]) -> bool:
    if engine.gate is None:
        return engine.instance in written and not _gave_up(engine)
    committed = registry.weights.phase == Phase.COMMITTED.value
    return engine.gate == OPEN and (not committed or engine.version == registry.weights.version)


def _by_a_stranger(answer: Any) -> bool:
    """Whether an engine gave it that nobody has written to: another one at the same address."""
    about = answer.get("meta_info") if isinstance(answer, dict) else None
    return isinstance(about, dict) and about.get("weight_version") == SENTINEL
