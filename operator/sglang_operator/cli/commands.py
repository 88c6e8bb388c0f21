"""The commands that ask a cluster.  Each imports what it needs when it runs."""

import time
from typing import TYPE_CHECKING

import click

from sglang_operator.cli.options import NOT_SO, OK, complete_pool, ends, show, where

if TYPE_CHECKING:
    from sglang_operator.cli.cluster.kubectl import Cluster

_pools = click.argument("pools", nargs=-1, metavar="[POOL]...", shell_complete=complete_pool)
_structured = click.Choice(["text", "json", "yaml"])


@click.command(short_help="What is wrong with pools, and what to do next.")
@_pools
@click.option("-o", "--output", type=_structured, default="text")
@where
@ends
def status(cluster: "Cluster", pools: tuple[str, ...], output: str) -> int:
    """Say on one screen how pools are, what is wrong with them and what to do next.

    With a POOL, or only one there, everything about it; else a line for each and the worst of
    those that are not well; and which operator acts, or that none does. The engines are judged
    by the operator's own code, from what the cluster says at this moment.

    Exit codes: 0 all are Ready; 1 some are not; 2 errors.
    """
    from sglang_operator.cli import screen
    from sglang_operator.cli.cluster import look

    scene = look.look(cluster, pools, operator=True, again=True)
    now = time.time()
    if output == "text":
        show(screen.render(scene, now, detail=bool(pools) or len(scene.pools) == 1))
    else:
        click.echo(screen.as_mapping(screen.document(scene, now), output))
    return OK if all(pool.ready for pool in scene.pools) else NOT_SO


@click.command("map", short_help="Which engine is where: nodes × GPUs, as a picture.")
@_pools
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "svg", "html", "json", "yaml"]),
    default="text",
)
@click.option("--ids/--no-ids", default=None, help="With the picture of device_mapping, or not.")
@click.option("--title", help="Heading of the picture.")
@where
@ends
def gpu_map(
    cluster: "Cluster", pools: tuple[str, ...], output: str, ids: bool | None, title: str | None
) -> int:
    """Draw the GPUs: rows are nodes, columns GPUs, every engine has a letter and a colour.

    The picture of device_mapping (node_rank × gpu_rank) comes with it where pools name the same
    GPUs, or with --ids. Kubernetes does not tell which GPUs of a node a pod has, only how many.

    Exit codes: 0 drawn; 2 errors.
    """
    from sglang_operator.cli import screen
    from sglang_operator.cli.cluster import look
    from sglang_operator.picture import ages, grid

    picture = grid.gpu_map(look.look(cluster, pools), ids=ids)
    if output == "text":
        from sglang_operator.picture import text

        show(text.render(picture, title=title or ""))
    elif output == "svg":
        from sglang_operator.picture import svg

        click.echo(svg.render(picture, title=title or ""), nl=False)
    elif output == "html":
        from sglang_operator.picture import page

        when = ages.when(time.time())
        click.echo(page.render(picture, title=title or "GPU map", when=when), nl=False)
    else:
        click.echo(screen.as_mapping(grid.document(picture), output))
    return OK


@click.command(short_help="Until pools are Ready, or cannot be.")
@_pools
@click.option(
    "--for",
    "aim",
    type=click.Choice(["ready", "synced", "deleted"]),
    default="ready",
    help="What to wait for.",
)
@click.option("--timeout", default="10m", help="How long at most, such as 90s or 2h.")
@where
@ends
def wait(cluster: "Cluster", pools: tuple[str, ...], aim: str, timeout: str) -> int:
    """Wait until pools are Ready (or hold a trainer's weights, or are gone).

    Unlike kubectl wait it ends at once, with the cause, when only a human can help: a spec that is
    refused, a pool that is suspended or not there, and, after 20 s, no operator that acts.

    Exit codes: 0 reached; 1 not in time, or it cannot be; 2 errors.
    """
    from sglang_operator.cli import engine_logs, waiting

    try:
        seconds = engine_logs.seconds(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    end = waiting.wait(cluster, pools, aim, seconds, click.echo)
    for line in end.lines:
        click.echo(line, err=True)
    return OK if end.reached else NOT_SO


@click.command(short_help="All engines of a pool as one log, the last failure first.")
@click.argument("pool", shell_complete=complete_pool)
@click.option("--tail", default=20, help="Lines of each engine; -1: all.")
@click.option("--since", help="Only lines newer than this, such as 5m.")
@click.option("--engine", "engines", multiple=True, help="Only this engine, such as g0-1.")
@click.option("--failed", "only_failed", is_flag=True, help="Only what failed.")
@click.option("-p", "--previous", is_flag=True, help="Of the container before a restart in place.")
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come.")
@where
@ends
def logs(
    cluster: "Cluster",
    pool: str,
    tail: int,
    since: str | None,
    engines: tuple[str, ...],
    only_failed: bool,
    previous: bool,
    follow: bool,
) -> int:
    """Show what failed last and why, then the logs of all engines in the order of their times.

    A failure is told from the pool's status also when its pod is gone.

    Exit codes: 0 shown; 2 errors.
    """
    from sglang_operator.cli import engine_logs
    from sglang_operator.cli.cluster import look

    try:
        newer = engine_logs.seconds(since) if since else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    seen = look.look(cluster, [pool], nodes=False).pools[0]
    wanted = engine_logs.Wanted(tail=tail, since=newer, engines=engines, previous=previous)
    pods = engine_logs.select(seen, wanted)
    for line in engine_logs.last_failures(seen):
        click.echo(line)
    for line in engine_logs.failed(cluster, seen, pods, wanted):
        click.echo(line)
    if only_failed:
        return OK
    if follow:
        try:
            engine_logs.follow(cluster, seen, pods, wanted, click.echo)
        except KeyboardInterrupt:
            click.echo("", err=True)
        return OK
    for line in engine_logs.merged(cluster, seen, pods, wanted):
        click.echo(line)
    return OK


@click.command(short_help="How far a change has come; hold it, let it go on, start all anew.")
@click.argument("action", type=click.Choice(["status", "history", "pause", "resume", "restart"]))
@click.argument("pool", shell_complete=complete_pool)
@where
@ends
def rollout(cluster: "Cluster", action: str, pool: str) -> int:
    """Look at or steer how the engines of a pool take on a changed spec.

    status: how many engines run the present revision. history: the revisions that run.
    pause, resume: write spec.rollout.paused. restart: replace all engines, within
    rollout.maxUnavailable, by an annotation in spec.podTemplate.

    Exit codes: 0 done, and for status that all engines are on the present revision and Ready;
    1 they are not yet; 2 errors.
    """
    from sglang_operator.cli import rolling
    from sglang_operator.cli.cluster import look

    seen = look.look(cluster, [pool], nodes=False).pools[0]
    if action in ("status", "history"):
        for line in (rolling.status if action == "status" else rolling.history)(seen):
            click.echo(line)
        return OK if action == "history" or rolling.complete(seen) else NOT_SO
    if action == "restart":
        click.echo(rolling.restart(cluster, seen, time.time()))
    else:
        click.echo(rolling.pause(cluster, seen, paused=action == "pause"))
    return OK


@click.command(short_help="Can this cluster run pools? With what to do if not.")
@click.option("-o", "--output", type=_structured, default="text")
@where
@ends
def doctor(cluster: "Cluster", output: str) -> int:
    """Look at versions, the definition, the operator, GPUs, pools, rights, Pod Security, quotas
    and limits.

    Exit codes: 0 pools can run (that some are not Ready is a warning); 1 something keeps them from
    it; 2 errors.
    """
    from sglang_operator.cli import doctor as examination
    from sglang_operator.cli import screen
    from sglang_operator.cli.checks.check import Grade

    scope, found = examination.facts(cluster)
    checks = list(examination.examine(scope, found, time.time()))
    if output == "text":
        show(screen.checks(checks))
    else:
        click.echo(screen.as_mapping(examination.document(scope, checks), output))
    bad = any(check.grade is Grade.BAD for check in checks)
    return NOT_SO if bad else OK


@click.command(short_help="Completion for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes kubectl-sglang in this shell.

    For "kubectl sglang" itself nothing is needed: kubectl's own completion asks the program
    kubectl_complete-sglang, which is installed beside this one.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "kubectl-sglang", "_KUBECTL_SGLANG_COMPLETE").source())


COMMANDS = (status, gpu_map, wait, logs, rollout, doctor, completion)
