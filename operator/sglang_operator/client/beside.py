"""Engines that run beside the pool's own: wanted no more after an edit, or on their way out.

They hold their GPUs' memory.  A trainer that sleeps the pool takes that of all, and one that wakes
it gives it back to all who slept: their pods stand in the Services, and an edit that is taken back
makes them the pool's again.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sglang_operator.client import texts
from sglang_operator.client.errors import NotReady
from sglang_operator.client.registry import GATE_COMMITTED, IN_SERVICE, LOST, Engine, Registry
from sglang_operator.weights.lease_state import Transaction

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

# After its grace a pod is killed; one that is still there so long after it is waited for no more,
# here as by the operator (observed/health.py), which tells it a little later.
KILLED_SECONDS = 75.0
LOOK_SECONDS = 0.5


def named(engines: Sequence[Engine]) -> str:
    """Engines in words: by rank, or those that have none by their pod."""
    shown = ", ".join(
        f"engine {e.rank} ({e.engine}, {e.state})" if e.rank >= 0 else f"pod {e.pod} ({e.state})"
        for e in engines[:8]
    )
    return shown + (f" and {len(engines) - 8} more" if len(engines) > 8 else "")


def all_known(registry: Registry) -> None:
    """Raises NotReady while engines run that no step reaches: whoever sleeps has their memory."""
    if unreached := registry.unreached:
        pods = ", ".join(engine.pod or "-" for engine in unreached)
        raise NotReady(texts.UNLISTED.format(pods=pods))


def all_in_sight(registry: Registry, seconds: float) -> None:
    """The same, also of engines that may be in pods in which nobody sees any, after so long."""
    all_known(registry)
    if registry.hidden:
        pods = ", ".join(registry.hidden)
        raise NotReady(texts.HIDDEN_FROM_SLEEP.format(pods=pods, seconds=seconds))


def all_clear(engines: Iterable[Engine], state: Transaction) -> None:
    """Raises NotReady for engines of which nobody knows whether they have their memory.

    Telling one again what it has done already ends it, and so does a request that meets it without.
    """
    if unclear := [e for e in engines if e.instance in state.unclear]:
        pods = " ".join(each.pod or each.engine for each in unclear)
        raise NotReady(texts.MEMORY_UNCLEAR.format(engines=named(unclear), pods=pods))


def leaving(registry: Registry, asleep: Collection[str | None] = ()) -> Sequence[Engine]:
    """Those on their way out that still hold memory: they are not among these sleepers."""
    return [e for e in registry.unlisted if e.leaving and e.instance not in asleep]


def patience(going: Iterable[Engine], least: float) -> float:
    """Seconds for which these are waited for; at least so many."""
    ends = (each.leaving.grace + KILLED_SECONDS for each in going if each.leaving)
    return max([least, *ends])


def still_going(going: Sequence[Engine], seconds: float) -> NotReady:
    """The error that tells of these, after so long."""
    pods = ", ".join(
        f"{e.pod} (until {e.leaving.until})" if e.leaving and e.leaving.until else str(e.pod)
        for e in going[:8]
    )
    return NotReady(texts.STILL_GOING.format(pods=pods, seconds=seconds))


async def gone(pool: "AsyncPool", asleep: Collection[str | None], least: float) -> Registry:
    """Wait until nobody is on the way out that still holds memory; the registry then.

    Raises NotReady where that takes longer than their grace.
    """
    begun = time.monotonic()
    while True:
        registry = await pool.fresh()
        if not (going := leaving(registry, asleep)):
            return registry
        waited = time.monotonic() - begun
        if waited > patience(going, least):
            raise still_going(going, waited)
        await asyncio.sleep(LOOK_SECONDS)


def off(engines: Iterable[Engine], state: Transaction, tags: Iterable[str]) -> Sequence[Engine]:
    """Those out of reach with their nodes that have nothing of these tags left to release."""
    wanted = {*tags}
    return [e for e in engines if e.state == LOST and wanted <= state.sleeps(e.instance)]


async def not_up(pool: "AsyncPool", registry: Registry, tags: Iterable[str]) -> Sequence[Engine]:
    """Those that hold memory of these tags, as far as is known, and are not up."""
    found = [engine for engine in registry.present if engine.holds and not engine.up]
    if not any(engine.state == LOST for engine in found):
        return found
    asleep = off(found, await pool.transaction(), tags)
    return [engine for engine in found if engine not in asleep]


def sleepers(
    registry: Registry, state: Transaction, but: Collection[str | None]
) -> Sequence[Engine]:
    """The engines that sleep by the Lease, but for those instances.

    Raises NotReady if others may be among engines of which nobody knows where they answer, or in
    pods in which nobody sees any.
    """
    asleep = {*state.asleep} - {*but}
    found = [e for e in registry.present if e.url and e.instance in asleep]
    if len(found) < len(asleep):
        all_known(registry)
        if registry.hidden:
            raise NotReady(texts.SLEEPERS_HIDDEN.format(pods=", ".join(registry.hidden)))
    return found


def passed_over(
    registry: Registry, covered: Iterable[Engine], state: Transaction
) -> Sequence[Engine]:
    """The engines that a sync of these leaves as they are, and that clients may still reach.

    The commit closes their gates; who was reached before may still have a connection, and one on
    its way out answers over it for as long as it has anything to do.  Without a gate that only a
    commit opens they serve on.
    """
    if registry.weights.gate != GATE_COMMITTED:
        return ()
    known = {engine.instance for engine in covered}
    found = [e for e in (*registry.engines, *registry.unlisted) if e.url and e.instance]
    others = [e for e in found if e.instance not in known and e.gate is not None]
    return [e for e in others if e.instance in state.instances or e.state == IN_SERVICE]


def unwoken(registry: Registry, state: Transaction, reached: Sequence[Engine]) -> Sequence[Engine]:
    """The engines to be woken, beside those that were.

    One that misses a probe sleeps on: it is on record by its instance, up or not.
    """
    known = {engine.instance for engine in reached}
    engines = (engine for engine in registry.present if engine.instance not in known)
    return [e for e in engines if e.url and (e.up or e.instance in state.asleep)]


def out_of_sight(
    registry: Registry, state: Transaction, reached: Sequence[Engine], tags: Iterable[str]
) -> tuple[Sequence[Engine], bool]:
    """The sleepers that cannot be woken now, and whether there may be others that nobody tells of.

    An engine whose run is not known may be a sleeper's that is out of sight, or one that takes the
    place of a sleeper which has ended.  One that runs and is not the pool's any more does not end
    by that: it counts as out of sight.
    """
    awake = {engine.instance for engine in reached}
    wanted = set(tags)
    missed = {run for run in state.asleep if run not in awake and state.sleeps(run) & wanted}
    lost = [engine for engine in registry.present if engine.instance in missed]
    lost += registry.unreached[: len(missed) - len(lost)]
    unknown = bool(registry.hidden) or any(e.instance is None for e in registry.engines)
    return lost, unknown and len(lost) < len(missed)
