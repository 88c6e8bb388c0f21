"""The command ``wait``: until pools are so, or until it is certain that they will not be."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import click

from sglang_operator.api import conditions
from sglang_operator.api import texts as operator_texts
from sglang_operator.cli import texts
from sglang_operator.cli.cluster import look, operator_leases
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.cli.cluster.verdict import Level, verdicts
from sglang_operator.cli.options import NOT_SO, OK, duration, ends, pool_names, where
from sglang_operator.diagnosis import pod_signatures
from sglang_operator.view.cluster_view import ClusterView, Leader, PoolView

READY, SYNCED, DELETED = "ready", "synced", "deleted"
AIMS = (READY, SYNCED, DELETED)
# Seconds between two looks: first and most.
PAUSE = (0.5, 3.0)
# So long an operator may take to follow another, or to begin after its installation.
LEADERLESS_SECONDS = 20.0
# So long what the pool refers to may still be on its way, applied together with it.
MISSING_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class End:
    """How the wait ended."""

    reached: bool
    lines: tuple[str, ...]


def reached(pool: PoolView, aim: str) -> bool:
    """Whether the pool is so at its present generation."""
    if not pool.observed:
        return False
    type_ = conditions.READY if aim == READY else conditions.WEIGHTS_SYNCED
    return pool.condition(type_).get("status") == conditions.TRUE


def hopeless(pool: PoolView, now: float) -> str:
    """Why it will not be so without a human, or nothing."""
    if pool.record.metadata.deletion_timestamp is not None:
        return texts.DELETING.format(held=operator_texts.held(pool.record.metadata.finalizers))
    if not pool.observed:
        return ""
    suspended = pool.condition(conditions.SUSPENDED)
    if suspended:
        advice = texts.DO_UNSUSPEND.format(name=pool.name, namespace=pool.namespace)
        return f"{suspended['reason']}: {suspended['message']}; {advice}"
    stalled = pool.condition(conditions.STALLED)
    if not stalled:
        return ""
    worst = next((v for v in verdicts(pool, now) if v.level is Level.BROKEN), None)
    advice = f"; {worst.do}" if worst and worst.do else ""
    return f"{stalled['reason']}: {stalled['message']}{advice}"


def _missing(pool: PoolView, since: dict[str, tuple[str, float]]) -> str:
    """What only a human can make, once it has been missing for a while; or nothing."""
    key, told = f"{pool.namespace}/{pool.name}", pool.condition(conditions.RECONCILING)
    reason, now = told.get("reason", ""), time.monotonic()
    if reason not in pod_signatures.ONLY_A_HUMAN:
        since.pop(key, None)
        return ""
    before = since.get(key)
    if before is None or before[0] != reason:
        since[key] = (reason, now)
        return ""
    return f"{reason}: {told['message']}" if now - before[1] >= MISSING_SECONDS else ""


def wait(
    cluster: Cluster,
    pools: Sequence[str],
    aim: str,
    seconds: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> End:
    """Wait; ``tell`` gets a line whenever something changed.  Raises :class:`ClusterError`."""
    begun = led = time.monotonic()
    before: Sequence[Leader] | None = None
    missing: dict[str, tuple[str, float]] = {}
    deadline, pause, told = begun + seconds, PAUSE[0], {""}
    while True:
        left: list[str] = []
        cluster_view, gone = _look(cluster, pools)
        if not pools and not cluster_view.pools and aim != DELETED:
            return End(reached=False, lines=(_nothing(cluster),))
        led = time.monotonic() if _acts(cluster_view, before) else led
        before = cluster_view.holders
        for name, pool in _named(cluster_view, gone):
            if pool is None:
                if aim != DELETED:
                    return End(reached=False, lines=(f"{name}: {texts.POOL_GONE}",))
                continue
            line = f"{name}: {_progress(pool, aim)}"
            if aim == DELETED or not reached(pool, aim):
                left.append(line)
                why = "" if aim == DELETED else hopeless(pool, time.time())
                if not why and aim != DELETED:
                    why = _missing(pool, missing)
                if why:
                    return End(reached=False, lines=(f"{name}: {why}",))
            if line not in told:
                told.add(line)
                led = time.monotonic()  # somebody acts: one that runs alone may hold no Lease
                tell(line)
        if not left:
            return End(reached=True, lines=())
        if aim != DELETED and time.monotonic() - led >= LEADERLESS_SECONDS:
            nobody = f"{operator_leases.nobody_acts(cluster_view)}; {texts.DO_FIND_OPERATOR}"
            return End(reached=False, lines=(nobody, *left))
        if time.monotonic() >= deadline:
            timed_out = texts.WAIT_TIMED_OUT.format(seconds=int(seconds), aim=aim)
            return End(reached=False, lines=(timed_out, *left))
        sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, PAUSE[1])


def _acts(cluster_view: ClusterView, before: Sequence[Leader] | None) -> bool:
    """Whether somebody renewed since the last look, or it cannot be seen; no clock is compared."""
    if cluster_view.holders is None:
        return True
    known = {holder.lease: holder.renewed for holder in before or ()}
    return before is not None and any(
        known.get(each.lease) != each.renewed for each in cluster_view.holders
    )


def _look(cluster: Cluster, pools: Sequence[str]) -> tuple[ClusterView, list[str]]:
    """The pools that are meant, and the names of those that are not there."""
    try:
        return look.look(cluster, pools, nodes=False, operator=True), []
    except ClusterError as error:
        if error.why is not Why.NOT_FOUND or not pools:
            raise
    cluster_view = look.look(cluster, nodes=False, operator=True)
    there = {pool.name for pool in cluster_view.pools}
    meant = tuple(pool for pool in cluster_view.pools if pool.name in pools)
    return replace(cluster_view, pools=meant), [name for name in pools if name not in there]


def _named(cluster_view: ClusterView, gone: Sequence[str]) -> Iterator[tuple[str, PoolView | None]]:
    for name in gone:
        yield name, None
    for pool in cluster_view.pools:
        yield f"{pool.namespace}/{pool.name}", pool


def _nothing(cluster: Cluster) -> str:
    scope = cluster.scope()
    return texts.NO_POOLS.format(namespace=scope or "any namespace")


def _progress(pool: PoolView, aim: str) -> str:
    if not pool.observed:
        return texts.UNSEEN.format(generation=pool.record.metadata.generation)
    status, told = pool.record.status, pool.condition(conditions.READY)
    if aim == SYNCED and told.get("status") == conditions.TRUE:
        told = pool.condition(conditions.WEIGHTS_SYNCED) or told
    counts = f"READY {status.get('readySummary', '-')} SYNCED {status.get('syncedSummary', '-')}"
    return f"{counts} {told.get('reason', '')}: {told.get('message', '')}"


# --- the command


@click.command("wait")
@pool_names
@click.option(
    "--for",
    "aim",
    type=click.Choice(AIMS),
    default=READY,
    help="What to wait for.",
)
@click.option("--timeout", default="10m", help="How long at most, such as 90s or 2h.")
@where
@ends
def command(cluster: Cluster, pools: tuple[str, ...], aim: str, timeout: str) -> int:
    """Wait until pools are Ready (or hold a trainer's weights, or are gone).

    Unlike kubectl wait it ends at once, with the cause, when only a human can help: a spec that is
    refused, a pool that is suspended or not there, and, after 20 s, no operator that acts.

    Exit codes: 0 reached; 1 not in time, or it cannot be; 2 errors.
    """
    try:
        most = duration(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    end = wait(cluster, pools, aim, most, click.echo)
    for line in end.lines:
        click.echo(line, err=True)
    return OK if end.reached else NOT_SO
