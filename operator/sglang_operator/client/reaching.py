"""Whether the engines can be reached from here, asked before anything is taken from clients.

A trainer outside the pods' network would take the Lease, fail at its first call, and abort: that
closes every gate.  Only engines that have not answered lately are asked, all at once.  So would
one that asks of an engine what its version does not know: each run of an engine is asked once which
it is, for nobody else can ask where the engines have a key.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.calls import together
from sglang_operator.client.errors import EngineError, NotReady, StaleEpoch, Unsupported
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.engine import versions

if TYPE_CHECKING:
    from sglang_operator.client.calls import EngineCalls
    from sglang_operator.client.pool import AsyncPool

PAUSE = "/pause_generation"
_SEES_IMAGES = "has_image_understanding"  # in what SGLang says of its model
LATELY_SECONDS = 30.0
# How long an engine that does not answer is waited for to be seen to have ended.
ENDED_SECONDS = 2.0


async def reach(pool: "AsyncPool", registry: Registry, words: str = texts.UNREACHED) -> None:
    """Raises NotReady, or StaleEpoch if an engine does not answer because it has ended.

    NotReady and Unsupported also for one that is of another version than the registry says, where
    that matters.
    """
    calls = pool.calls
    up = [engine for engine in registry.engines if engine.up]
    asked = [engine for engine in up if calls.silent(engine) > LATELY_SECONDS]
    outcomes = await asyncio.gather(
        *(_found(calls, engine) for engine in asked), return_exceptions=True
    )
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and outcome not in failed:
            raise outcome
    if not failed:
        await as_said(pool, up, keyless=True)
        return
    silent = {error.rank for error in failed if error.status == 0}
    await _ended(pool, [e for e in asked if e.rank in silent], registry.epoch)
    error = str(failed[0])
    if len(failed) > 1:
        error = texts.SEVERAL.format(error=error, failed=len(failed), asked=len(asked))
    raise NotReady(words.format(error=error)) from failed[0]


async def _found(calls: "EngineCalls", engine: Engine) -> None:
    """It is there, and can be paused if its version says so.  Raises EngineError, Unsupported.

    An image whose version is told wrong would end what was begun by it with a 404.
    """
    await calls.find(engine)
    if engine.features.pause and await calls.lacks(engine, PAUSE):
        words = texts.LACKS_PATH.format(
            rank=engine.rank, engine=engine.engine, version=engine.engine_version, path=PAUSE
        )
        raise Unsupported(words)


async def forgets_images(pool: "AsyncPool", engines: Iterable[Engine]) -> None:
    """Raises Unsupported where an engine sees images, and keeps what its tower makes of them.

    It would answer from the tower of before for each image that it has seen.  It is asked with this
    pool's key: the operator has told of it just now.
    """
    keeping = [engine for engine in engines if engine.keeps_images]
    told = await together(pool.calls.get(e, e.features.model_info_path) for e in keeping)
    seeing = [e for e, each in zip(keeping, told, strict=True) if each.get(_SEES_IMAGES) is True]
    if seeing:
        which = ", ".join(f"engine {e.rank} ({e.engine})" for e in seeing[:8])
        which += f" and {len(seeing) - 8} more" if len(seeing) > 8 else ""
        raise Unsupported(texts.KEEPS_IMAGES.format(which=which, pool=pool.name))


async def as_said(pool: "AsyncPool", engines: Iterable[Engine], *, keyless: bool) -> None:
    """Raises NotReady if an engine, of the version that it says, is asked in other words."""
    asked = tuple(engines)
    told = await together(pool.calls.told_version(each, keyless=keyless) for each in asked)
    for engine, said in zip(asked, told, strict=True):
        _as_said(engine, said)


def _as_said(engine: Engine, said: str) -> None:
    version = versions.reported(said)
    if version is not None and versions.features(version) != engine.features:
        raise NotReady(
            texts.OTHER_VERSION.format(
                rank=engine.rank,
                engine=engine.engine,
                url=engine.url,
                said=version,
                version=engine.engine_version,
            )
        )


async def _ended(pool: "AsyncPool", silent: list[Engine], epoch: str) -> None:
    """Raises StaleEpoch if one of these is seen soon to be another than it was."""
    if not silent:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENDED_SECONDS):
            async for registry in pool.changes():
                now = {e.instance for e in registry.engines if e.up}
                if any(engine.instance not in now for engine in silent):
                    words = texts.STALE_BEFORE.format(given=epoch, epoch=registry.epoch)
                    raise StaleEpoch(words)
