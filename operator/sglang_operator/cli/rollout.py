"""The command ``rollout``: how far a change has come, hold it, let it go on, start anew, undo."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from sglang_operator.api import conditions
from sglang_operator.cli import rollout_history, rollout_undo, texts
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import Cluster
from sglang_operator.cli.options import NOT_SO, OK, complete_pool, ends, where
from sglang_operator.diagnosis import causes
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import rollout_waits, stored
from sglang_operator.view.cluster_view import PoolView
from sglang_operator.weights import times

# kubectl's own key for the same purpose, so that dashboards and people know it.
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


def complete(pool: PoolView) -> bool:
    """Whether every engine runs the present revision and the pool is Ready."""
    return pool.ready and all(engine.updated for engine in pool.plan.engines)


def status(pool: PoolView) -> Iterator[str]:
    """In words: how many engines run what, and what holds the others."""
    resolved = pool.resolved
    if not isinstance(resolved, Pool):
        yield texts.ROLLOUT_REFUSED.format(name=pool.name, namespace=pool.namespace)
        return
    engines = pool.plan.engines
    current = sum(engine.updated for engine in engines)
    yield texts.ROLLOUT_STATUS.format(
        current=current, desired=len(engines), revision=resolved.revision
    )
    rollout = resolved.spec.rollout
    if rollout.paused:
        yield texts.ROLLOUT_PAUSED
    elif current < len(engines):
        held = _kept_back(pool, resolved)
        goes_on = texts.ROLLOUT_GOES_ON.format(budget=resolved.max_unavailable)
        if resolved.max_surge:
            goes_on = rollout_waits.rolling(resolved, pool.plan, current)[1]
        waiting = pool.plan.waiting
        if waiting is not None:
            goes_on = rollout_waits.message(resolved, waiting)
        said = _said(pool)
        yield held or said or goes_on
        until = _window_ends(pool)
        if until and until not in said:
            yield texts.ROLLOUT_WINDOW.format(until=until)
    stalled = pool.condition(conditions.STALLED)
    if stalled.get("reason") == conditions.PROGRESS_DEADLINE:
        yield stalled["message"]
    if rollout.partition:
        yield texts.ROLLOUT_PARTITION.format(partition=rollout.partition)


def _said(pool: PoolView) -> str:
    """What the operator says that a rollout waits for: it knows of the trainer.  Empty: nothing."""
    told = pool.condition(conditions.RECONCILING) if pool.observed else {}
    waits = told.get("status") == conditions.TRUE
    waits = waits and told.get("reason") == conditions.ROLLOUT_WAITING
    return told.get("message", "") if waits else ""


def _window_ends(pool: PoolView) -> str:
    """Until when no engine that serves goes in the middle of a step; empty: it is not so."""
    window = stored.understood(pool.status).get("rollout", {}).get("window")
    until = window.get("until") if isinstance(window, dict) and pool.observed else ""
    return times.shown(times.seconds(until)) if times.seconds(until) else ""


def _kept_back(pool: PoolView, resolved: Pool) -> str:
    """Why the engines of the present revision do not come up; empty if they may."""
    about = causes.context(resolved)
    for engine in (*pool.plan.engines, *pool.plan.beside):
        held = causes.of_waiting(engine, about, pool.plan.at) if engine.current else None
        if held is not None:
            _, told = held
            return texts.ROLLOUT_STUCK.format(
                engine=engine.name,
                reason=told.reason,
                message=told.message,
                advice=told.advice,
            )
    return ""


def pause(cluster: Cluster, pool: PoolView, *, paused: bool) -> str:
    """Write ``rollout.paused``; what was done."""
    _patch(cluster, pool, {"rollout": {"paused": paused}})
    text = texts.ROLLOUT_NOW_PAUSED if paused else texts.ROLLOUT_RESUMED
    return text.format(name=pool.name, namespace=pool.namespace)


def restart(cluster: Cluster, pool: PoolView, now: float) -> str:
    """Give every engine a new revision, so that they are replaced within the budget."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    annotations = {"metadata": {"annotations": {RESTARTED_AT: stamp}}}
    _patch(cluster, pool, {"podTemplate": annotations})
    return texts.ROLLOUT_RESTARTED.format(
        name=pool.name, namespace=pool.namespace, annotation=RESTARTED_AT
    )


def _patch(cluster: Cluster, pool: PoolView, spec: dict[str, object]) -> None:
    cluster.run(
        "patch",
        "sgi",
        pool.name,
        "--namespace",
        pool.namespace,
        "--type=merge",
        "--patch",
        json.dumps({"spec": spec}),
    )


# --- the command


@click.command("rollout")
@click.argument(
    "action", type=click.Choice(["status", "history", "pause", "resume", "restart", "undo"])
)
@click.argument("pool", shell_complete=complete_pool)
@click.option(
    "--to-revision",
    type=click.IntRange(1),
    help="With undo: the number of the revision, by history.",
)
@click.option("--dry-run", is_flag=True, help="With undo: say what would change, write nothing.")
@click.option("--yes", is_flag=True, help="With undo: write it without asking, for scripts.")
@click.option(
    "--force",
    is_flag=True,
    help="With undo --to-revision: also one whose content is not what its name says.",
)
@where
@ends
def command(
    cluster: Cluster,
    action: str,
    pool: str,
    to_revision: int | None,
    dry_run: bool,
    yes: bool,
    force: bool,
) -> int:
    """Look at or steer how the engines of a pool take on a changed spec.

    status: how many engines run the present revision. history: the revisions that are stored,
    and those that run. pause, resume: write spec.rollout.paused. restart: replace all engines,
    within rollout.maxUnavailable, by an annotation in spec.podTemplate. undo: write the part of
    the spec back that engines had by the revision before, or by --to-revision: say what changes,
    and ask before it is written; device_mapping, replicas, and whatever else restarts no engine,
    stay.

    Exit codes: 0 done, and for status that all engines are on the present revision and Ready;
    1 they are not yet; 2 errors.
    """
    if action != "undo" and (to_revision is not None or dry_run or yes or force):
        raise click.UsageError(texts.OF_UNDO)
    if force and to_revision is None:
        raise click.UsageError(texts.FORCE_OF_ONE)
    seen = look.look(cluster, [pool], nodes=False).pools[0]
    if action == "status":
        for line in status(seen):
            click.echo(line)
        return OK if complete(seen) else NOT_SO
    if action in ("history", "undo"):
        known = rollout_history.stored(cluster, seen)
        lines = rollout_history.history(seen, known)
        if action == "undo":
            lines = rollout_undo.undo(
                cluster,
                seen,
                known,
                to_revision,
                confirmed=lambda: yes or _asked(),
                force=force,
                dry_run=dry_run,
            )
        for line in lines:
            click.echo(line)
    elif action == "restart":
        click.echo(restart(cluster, seen, time.time()))
    else:
        click.echo(pause(cluster, seen, paused=action == "pause"))
    return OK


def _asked() -> bool:
    """Whether somebody says so; nobody does where there is nobody to ask."""
    try:
        return click.confirm(texts.UNDO_ASK, err=True)
    except click.Abort:
        click.echo(err=True)
        return False
