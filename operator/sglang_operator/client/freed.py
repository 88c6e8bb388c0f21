"""Whether a release has freed memory: by what the engines say, and by the GPUs that are seen here.

SGLang has no answer that says so: a release answers 200 whether it freed anything or not, and what
/server_info tells of memory (``internal_states[0].memory_usage``) is what the engine took at its
start, in all versions that tell it (0.4.10.post2 to 0.5.23).  It does say whether its memory saver
is on; and a process that sees the GPUs, as a trainer does that has them too, can look.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sglang_operator.client import beside, texts, turn_texts
from sglang_operator.client.errors import NotReady, Unsupported
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.weights import lease_state

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

LOOK_SECONDS = 0.2
SEEN_SECONDS = 5.0  # until which memory that was released has to be seen to be free
LEAST = 2 * 2**20  # bytes: a page of GPU memory; less is what others do meanwhile
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Freed:
    """What a sleep gave back: bytes by the UUID of each GPU on which it was seen.

    Empty where this process does not see the engines' GPUs, or nothing was left to release.
    """

    engines: int = 0  # that released memory now
    gpus: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all GPUs together."""
        return sum(self.gpus.values())

    def __str__(self) -> str:
        if not self.gpus:
            return turn_texts.NOT_MEASURED
        count = len(self.gpus)
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        return turn_texts.FREED.format(size=_size(self.bytes), gpus=gpus)


def known_tags(tags: tuple[str, ...], registry: Registry) -> None:
    """Raises Unsupported where these engines cannot release this memory."""
    for engine in registry.present:
        _check_tags(tags, engine.features.memory_tags, engine.engine_version)
    if registry.memory_saver is False:
        raise Unsupported(texts.NO_MEMORY_SAVER)


def _check_tags(tags: tuple[str, ...], known: tuple[str, ...], version: str) -> None:
    named = " and ".join(tags)
    unknown = [tag for tag in tags if tag not in lease_state.MEMORY_TAGS or tag not in known]
    if unknown and (known or not set(tags) <= set(lease_state.MEMORY_TAGS)):
        raise Unsupported(
            texts.TAGS_UNKNOWN.format(
                version=version,
                tags=" and ".join(unknown),
                known=", ".join(known or lease_state.SLEEP_TAGS),
            )
        )
    if not known and not set(lease_state.SLEEP_TAGS) <= set(tags):
        raise Unsupported(texts.TAGS_NOT_APART.format(version=version, tags=named))


async def can_release(pool: "AsyncPool", engines: Iterable[Engine]) -> None:
    """Raises Unsupported where an engine says that its memory saver is off."""
    asked = [engine for engine in engines if engine.up]
    told = await asyncio.gather(*(pool.calls.told_saver(engine) for engine in asked))
    if off := [engine for engine, saver in zip(asked, told, strict=True) if saver is False]:
        raise Unsupported(turn_texts.SAVER_OFF.format(engines=beside.named(off)))


async def before(pool: "AsyncPool", engines: Iterable[Engine]) -> Mapping[str, int]:
    """Bytes in use on those of the engines' GPUs that this process sees."""
    known = {uuid for engine in engines for uuid in engine.uuids}
    if not known:
        return {}
    used = await asyncio.to_thread(pool.gpu_memory)
    return {uuid: used[uuid] for uuid in known & used.keys()}


async def since(
    pool: "AsyncPool", held: Mapping[str, int], engines: Sequence[Engine], tags: Iterable[str]
) -> Freed:
    """What these have freed, which held so much ``before``.

    Raises NotReady where that is nothing on a GPU, for some seconds.
    """
    begun = time.monotonic()
    while held:
        used = await asyncio.to_thread(pool.gpu_memory)
        now = {uuid: used.get(uuid, bytes_) for uuid, bytes_ in held.items()}
        kept = [uuid for uuid in held if held[uuid] - now[uuid] < LEAST]
        if not kept:
            gpus = {uuid: held[uuid] - now[uuid] for uuid in sorted(held)}
            return Freed(engines=len(engines), gpus=gpus)
        if time.monotonic() - begun > SEEN_SECONDS:
            cards = "; ".join(
                turn_texts.CARD.format(uuid=u, before=_size(held[u]), after=_size(now[u]))
                for u in sorted(kept)[:8]
            )
            words = turn_texts.NOTHING_FREED.format(cards=cards, tags=" and ".join(sorted(tags)))
            raise NotReady(words)
        await asyncio.sleep(LOOK_SECONDS)
    return Freed(engines=len(engines))


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
