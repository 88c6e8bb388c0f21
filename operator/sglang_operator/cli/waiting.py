"""The command ``wait``: until pools are so, or until it is certain that they will not be."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sglang_operator.api import conditions, texts
from sglang_operator.cli import looking
from sglang_operator.cli.kubectl import Cluster, ClusterError, Why
from sglang_operator.cli.verdict import Level, verdicts
from sglang_operator.picture.scene import SeenPool

READY, SYNCED, DELETED = "ready", "synced", "deleted"
AIMS = (READY, SYNCED, DELETED)
# Seconds between two looks: first and most.
PAUSE = (0.5, 3.0)


@dataclass(frozen=True, kw_only=True)
class End:
    """How the wait ended."""

    reached: bool
    lines: tuple[str, ...]


def reached(pool: SeenPool, aim: str) -> bool:
    """Whether the pool is so at its present generation."""
    if not pool.observed:
        return False
    type_ = conditions.READY if aim == READY else conditions.WEIGHTS_SYNCED
    return pool.condition(type_).get("status") == conditions.TRUE


def hopeless(pool: SeenPool, now: float) -> str:
    """Why it will not be so without a human, or nothing."""
    if pool.record.metadata.deletion_timestamp is not None:
        return texts.DELETING
    if not pool.observed:
        return ""
    stalled = pool.condition(conditions.STALLED)
    if not stalled:
        return ""
    worst = next((v for v in verdicts(pool, now) if v.level is Level.BROKEN), None)
    advice = f"; {worst.do}" if worst and worst.do else ""
    return f"{stalled['reason']}: {stalled['message']}{advice}"


def wait(
    cluster: Cluster,
    pools: Sequence[str],
    aim: str,
    seconds: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> End:
    """Wait; ``tell`` gets a line whenever something changed.  Raises :class:`ClusterError`."""
    deadline, pause, told = time.monotonic() + seconds, PAUSE[0], {""}
    while True:
        left: list[str] = []
        for name, pool in _look(cluster, pools):
            if pool is None:
                if aim != DELETED:
                    return End(reached=False, lines=(f"{name}: {texts.POOL_GONE}",))
                continue
            line = f"{name}: {_progress(pool)}"
            if aim == DELETED or not reached(pool, aim):
                left.append(line)
                why = "" if aim == DELETED else hopeless(pool, time.time())
                if why:
                    return End(reached=False, lines=(f"{name}: {why}",))
            if line not in told:
                told.add(line)
                tell(line)
        if not left:
            return End(reached=True, lines=())
        if time.monotonic() >= deadline:
            timed_out = texts.WAIT_TIMED_OUT.format(seconds=int(seconds), aim=aim)
            return End(reached=False, lines=(timed_out, *left))
        sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, PAUSE[1])


def _look(cluster: Cluster, pools: Sequence[str]) -> Iterator[tuple[str, SeenPool | None]]:
    """Each pool that is meant, None for one that is not there."""
    try:
        scene = looking.look(cluster, pools, nodes=False)
    except ClusterError as error:
        if error.why is not Why.NOT_FOUND or not pools:
            raise
        for name in pools:
            yield from _one(cluster, name)
        return
    for pool in scene.pools:
        yield f"{pool.namespace}/{pool.name}", pool


def _one(cluster: Cluster, name: str) -> Iterator[tuple[str, SeenPool | None]]:
    try:
        scene = looking.look(cluster, [name], nodes=False)
    except ClusterError as error:
        if error.why is not Why.NOT_FOUND:
            raise
        yield name, None
        return
    for pool in scene.pools:
        yield f"{pool.namespace}/{pool.name}", pool


def _progress(pool: SeenPool) -> str:
    if not pool.observed:
        return texts.UNSEEN.format(generation=pool.record.metadata.generation)
    status, ready = pool.record.status, pool.condition(conditions.READY)
    counts = f"READY {status.get('readySummary', '-')} SYNCED {status.get('syncedSummary', '-')}"
    return f"{counts} {ready.get('reason', '')}: {ready.get('message', '')}"
