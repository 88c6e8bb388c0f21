"""Pause: nothing is answered while weights are written, nor from a cache of the old ones after it.

A prefix cache that the old weights filled outlives them: what is answered from it is of no version
at all.  So a pause ends with a flush, which SGLang refuses while requests hold memory; it tells
that they are gone, too.  What the modes of ``/pause_generation`` leave (managers/scheduler.py and
tokenizer_manager.py of the wheels; measured on SGLang 0.5.14, 2026-11-28, 16 clients, one H200):

- ``abort`` ends what runs, and then looks once a second whether it has ended: 1.0 s under load.
  ``retract`` takes requests off the GPU in 2 ms; ``/abort_request`` ends them where they wait then,
  and the flush goes through at once: 20 to 60 ms for a whole sync, the same partial answers.
- ``retract`` alone keeps requests.  Whether a flush minds those that wait depends on the version.
- ``in_place`` keeps them on the GPU, where no version flushes.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.calls import CONTROL_SECONDS, at_once, together
from sglang_operator.client.errors import EngineError, Unsupported
from sglang_operator.client.registry import Engine, alike
from sglang_operator.sending import Allowed
from sglang_operator.weights.lease_state import LEASE_SECONDS

if TYPE_CHECKING:
    from sglang_operator.client.calls import EngineCalls
    from sglang_operator.engine.versions import Features

ABORT, RETRACT = "abort", "retract"
IDLE_SECONDS = 60.0  # that paused engines may take to become idle
IDLE_POLL_SECONDS = 0.02
# What runs before a pause that ends nothing is not waited for: the trainer says that nothing does.
UNPAUSED_SECONDS = 1.0
SILENCE_SECONDS = 5.0  # that an engine which a sync passes over may take to be paused
# Requests that wait for their grammar are not ended while the scheduler stands still.
QUICK_SECONDS = 1.0

_MODES = (ABORT, RETRACT)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """How a sync treats requests.

    ``pause``: ``abort`` ends running requests, ``retract`` keeps them and has their cache computed
    anew afterwards.  None: the trainer knows that nobody sends any, and none is ended; an engine
    that has some all the same is an error, and one that has none is paused like any other.
    ``label``: engines name the version in each answer (``meta_info.weight_version``).
    ``wait``: seconds to wait for another trainer to finish; loads of the operator's are waited for
    besides.
    ``duration``: seconds without renewal after which the sync counts as aborted; of a short one
    others wait for longer, until what was sent at the last moment cannot arrive any more.
    """

    pause: str | None = "abort"
    label: bool = True
    wait: float = 0.0
    duration: float = float(LEASE_SECONDS)


def check(mode: str | None, features: "Features", version: str) -> None:
    """Raises Unsupported where engines of this version cannot be paused like this."""
    if mode is None:
        return
    if not features.pause:
        raise Unsupported(texts.NO_PAUSE.format(version=version))
    if mode not in _MODES:
        raise Unsupported(texts.PAUSE_UNKNOWN.format(mode=mode))
    if mode == RETRACT and not features.pause_modes:
        raise Unsupported(texts.PAUSE_MODE.format(version=version, mode=mode))
    if mode == RETRACT and not features.flush_keeps_requests:
        raise Unsupported(texts.PAUSE_KEEPS_CACHE.format(version=version, mode=mode))


def ends_quickly(mode: str | None, features: "Features") -> bool:
    """Whether requests are ended where a retraction left them: what comes late without a mode."""
    return _ends(mode, features) and features.pause_modes


def _ends(mode: str | None, features: "Features") -> bool:
    return mode in (ABORT, None) and features.pause


async def stop(
    calls: "EngineCalls",
    engines: Sequence[Engine],
    mode: str | None,
    *,
    asleep: Collection[str | None] = (),
    whole: Collection[str | None] = (),
    allowed: Allowed | None = None,
) -> None:
    """Pause, until no request runs and no cache is left.  Raises EngineError, Expired.

    Without a mode only what is idle is paused.  It is not left running, though nobody sends it
    anything: should the trainer die, it would answer whoever does from half of the weights.
    ``asleep``: the instances that have no memory to flush.  ``whole``: those whose weights are
    those that they are to be answered from, so that they may run on for a moment where that is what
    it takes.
    ``allowed``: the fence of whoever pauses; late, this would pause what another has let go on.
    """
    awake = [engine for engine in engines if engine.instance not in asleep]
    if mode is None:
        await drain(calls, awake, limit=UNPAUSED_SECONDS, allowed=allowed)
    pauses = [engine for engine in engines if engine.features.pause]
    quick = [engine for engine in pauses if ends_quickly(mode, engine.features)]

    def sent(engine: Engine) -> dict[str, str]:
        return {"mode": RETRACT if engine in quick else mode or ABORT}

    await calls.post_all(pauses, "/pause_generation", sent, allowed=allowed)
    if quick:
        await abort(calls, quick, allowed)
    left = awake if mode is not None else [engine for engine in awake if engine in pauses]
    await drain(calls, left, mode=mode, whole=whole, allowed=allowed)


async def silence(calls: "EngineCalls", engines: Iterable[Engine], allowed: Allowed | None) -> None:
    """End the requests of engines that a sync passes over, and have later ones wait in them.

    What they hold is older than what is written now, and a client that keeps its connection reaches
    them though their gates close.  Who does not answer soon is in nobody's way.  Raises Expired.
    """
    await at_once(_silence(calls, e, allowed) for e in engines if e.features.pause)


async def _silence(calls: "EngineCalls", engine: Engine, allowed: Allowed | None) -> None:
    quick = ends_quickly(ABORT, engine.features)
    body, most = {"mode": RETRACT if quick else ABORT}, SILENCE_SECONDS
    try:
        await calls.post(engine, "/pause_generation", body, timeout=most, allowed=allowed)
        if quick:
            await abort(calls, [engine], allowed, timeout=most)
    except EngineError as error:
        log.warning(texts.NOT_SILENCED.format(error=error))


async def drain(
    calls: "EngineCalls",
    engines: Iterable[Engine],
    *,
    mode: str | None = RETRACT,
    whole: Collection[str | None] = (),
    limit: float | None = None,
    allowed: Allowed | None = None,
) -> None:
    """Empty the caches; raises EngineError for one that is still busy after ``limit`` seconds.

    ``mode``: that of the pause.  Where it ends requests, what comes late is ended too, because it
    was on its way when the pause began: the samples of a request with ``n`` > 1 follow its prompt,
    and ask for no pause any more.
    ``whole``: see ``stop``.  Of other weights nothing may be answered, and who runs on answers
    what waits for the end of the pause.
    """
    limit = IDLE_SECONDS if limit is None else limit
    await together(
        _drain(
            calls,
            some,
            aborts=_ends(mode, features),
            stand=ends_quickly(mode, features),
            whole=frozenset(whole),
            limit=limit,
            allowed=allowed,
        )
        for features, some in alike(engines)
    )


async def _drain(
    calls: "EngineCalls",
    engines: Sequence[Engine],
    *,
    aborts: bool,
    stand: bool,
    whole: frozenset[str | None],
    limit: float,
    allowed: Allowed | None,
) -> None:
    """``aborts``: what came late is ended; ``stand``: by schedulers that stand still."""
    may_run = [engine for engine in engines if stand and engine.instance in whole]
    until = time.monotonic() + limit
    busy = await _flush_all(calls, may_run, aborts, QUICK_SECONDS, allowed)
    while busy:
        await at_once(_run_a_moment(calls, engine, allowed) for engine in busy)
        busy = await _flush_all(calls, busy, aborts, QUICK_SECONDS, allowed)
        if time.monotonic() > until:
            break
    others = [engine for engine in engines if not (stand and engine.instance in whole)]
    for engine in busy or await _flush_all(calls, others, aborts, limit, allowed):
        said = texts.BUSY_STILL if stand and engine.instance not in whole else texts.BUSY
        raise EngineError(
            rank=engine.rank,
            url=engine.url or "-",
            path="/flush_cache",
            status=400,
            said=said.format(seconds=limit, engine=engine.engine),
        )


async def _run_a_moment(calls: "EngineCalls", engine: Engine, allowed: Allowed | None) -> None:
    """SGLang's own pause, which ends requests with a scheduler that works.

    It leaves the scheduler at work, and waits for the requests of one tokenizer process: one that
    another process lets in later would be computed between two buckets (tokenizer_manager.py,
    multi_tokenizer_mixin.py).  So it stands still again in the end, as ``stop`` had it.

    Engine by engine: none runs for as long as the slowest takes to answer.
    """
    await calls.post(engine, "/continue_generation", {}, allowed=allowed)
    await calls.post(engine, "/pause_generation", {"mode": ABORT}, allowed=allowed)
    await _flush(calls, engine, True, time.monotonic() + QUICK_SECONDS, allowed)
    await calls.post(engine, "/pause_generation", {"mode": RETRACT}, allowed=allowed)
    await abort(calls, [engine], allowed)


async def abort(
    calls: "EngineCalls",
    engines: Iterable[Engine],
    allowed: Allowed | None,
    *,
    timeout: float = CONTROL_SECONDS,
) -> None:
    """End all requests; clients get what was generated so far."""
    body = {"rid": "", "abort_all": True}
    await calls.post_all(engines, "/abort_request", body, timeout=timeout, allowed=allowed)


async def _flush_all(
    calls: "EngineCalls",
    engines: Sequence[Engine],
    aborts: bool,
    limit: float,
    allowed: Allowed | None,
) -> list[Engine]:
    """The engines that are still busy in the end."""
    deadline = time.monotonic() + limit
    flushed = (_flush(calls, engine, aborts, deadline, allowed) for engine in engines)
    idle = await at_once(flushed)
    return [engine for engine, done in zip(engines, idle, strict=True) if not done]


async def _flush(
    calls: "EngineCalls",
    engine: Engine,
    aborts: bool,
    deadline: float,
    allowed: Allowed | None,
) -> bool:
    while True:
        try:
            await calls.post(engine, "/flush_cache", {}, allowed=allowed)
            return True
        except EngineError as error:
            if error.status != 400:
                raise
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(IDLE_POLL_SECONDS)
        if aborts:
            await abort(calls, [engine], allowed)
