"""``kubectl sglang weights``: the transaction on a pool's weights, by hand.

For looking, for trainers that are shell scripts, and for ending what a trainer left behind.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

REFUSED = 1
FAILED = 2
_HAND_SECONDS = 600

F = TypeVar("F", bound=Callable[..., Any])


@click.group(short_help="The transaction on a pool's weights, by hand.")
def weights() -> None:
    """Look at a pool's weights, and sync, put to sleep or wake its engines by hand.

    Engines are reached by their pods' addresses: run begin, commit, sleep, wake and reset where
    these can be reached, for example in a pod of the cluster. Keys are read from SGLANG_API_KEY and
    SGLANG_ADMIN_API_KEY.

    Exit codes: 0 done; 1 refused, because of another trainer or the state of the pool; 2 an error.
    """


def _common(function: F) -> F:
    options = (
        click.argument("pool"),
        click.option("-n", "--namespace", help="The pool's namespace."),
        click.option("--context", help="kubectl's context."),
        click.option("--kubeconfig", help="kubectl's configuration file."),
        click.option("--holder", help="Who to be on the Lease; default: you and this host."),
        click.option("--api-key", envvar="SGLANG_API_KEY", hidden=True),
        click.option("--admin-api-key", envvar="SGLANG_ADMIN_API_KEY", hidden=True),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _run(act: Callable[[Any], Any], pool: str, options: dict[str, Any]) -> None:
    """Do this to the pool; what is refused or fails becomes a message and an exit code."""
    from sglang_operator.cli import weighing
    from sglang_operator.cli.findings import one_line
    from sglang_operator.client import errors

    code = 0
    try:
        for line in weighing.run(act, pool, **options):
            click.echo(one_line(line))
    except (errors.Held, errors.NotReady, errors.StaleEpoch, errors.Expired) as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        code = REFUSED
    except errors.PoolError as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        code = REFUSED if isinstance(error, errors.Unsupported) else FAILED
    sys.exit(code)


@weights.command(short_help="Phase, version, and each engine's gate.")
@_common
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def status(pool: str, output: str, **options: Any) -> None:
    """Show who holds the weights, what was committed, and which engines hold it.

    Exit codes: 0 every engine is synced; 1 not all are; 2 an error.
    """
    from sglang_operator.cli import weighing
    from sglang_operator.cli.findings import one_line
    from sglang_operator.client import errors

    try:
        text, synced = weighing.status(pool, as_json=output == "json", **options)
    except errors.PoolError as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        sys.exit(FAILED)
    click.echo(text)
    sys.exit(0 if synced else REFUSED)


@weights.command(short_help="Take the Lease, and pause the engines.")
@_common
@click.argument("version")
@click.option("--epoch", help="Only if the engines are still those of this epoch.")
@click.option(
    "--duration",
    type=click.IntRange(10, 86400),
    default=_HAND_SECONDS,
    show_default=True,
    help="Seconds after which the sync counts as aborted: nobody renews it.",
)
@click.option("--wait", type=float, default=0, help="Seconds to wait for another trainer.")
@click.option("--pause/--no-pause", default=True, help="Whether engines are paused (they are).")
def begin(
    pool: str,
    version: str,
    epoch: str | None,
    duration: int,
    wait: float,
    pause: bool,
    **options: Any,
) -> None:
    """Begin a sync to VERSION: take the Lease, pause every engine, print their addresses.

    Then write the weights with SGLang's own endpoints, and commit or abort.
    """
    from sglang_operator.cli import weighing

    sync = weighing.Begin(version=version, epoch=epoch, duration=duration, wait=wait, pause=pause)
    _run(sync, pool, options)


@weights.command(short_help="Continue the engines, and open their gates.")
@_common
@click.option("--checkpoint", default="", help="A path with exactly these weights.")
@click.option("--pause/--no-pause", default=True, help="Whether begin has paused the engines.")
def commit(pool: str, checkpoint: str, pause: bool, **options: Any) -> None:
    """End the sync that you began: every engine holds the whole new version.

    Refused if an engine restarted since, or the time given to begin is over.
    """
    from sglang_operator.cli import weighing

    _run(weighing.Commit(checkpoint=checkpoint, pause=pause), pool, options)


@weights.command(short_help="Give a sync up: every gate closes.")
@_common
@click.option("-m", "--message", default="aborted by hand", show_default=True, help="Why.")
@click.option("--force", is_flag=True, help="Also one that another trainer holds.")
@click.option("--gone", is_flag=True, help="Its process has ended: others may begin at once.")
def abort(pool: str, message: str, force: bool, gone: bool, **options: Any) -> None:
    """End a sync without a commit. Engines stay paused: what they hold may be half written."""
    from sglang_operator.cli import weighing

    _run(weighing.Abort(message=message, force=force, gone=gone), pool, options)


def _tags(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in value.split(",") if tag.strip())
    if not tags:
        raise click.BadParameter("name at least one of SGLang's memory tags, e.g. weights,kv_cache")
    return tags


@weights.command(short_help="Close the gates, then release the engines' memory.")
@_common
@click.option("--tags", default="weights,kv_cache", show_default=True, callback=_tags)
def sleep(pool: str, tags: tuple[str, ...], **options: Any) -> None:
    """Put the engines to sleep, once no client can reach them any more."""
    from sglang_operator.cli import weighing

    _run(weighing.Sleep(tags=tags), pool, options)


@weights.command(short_help="Resume the engines' memory.")
@_common
@click.option("--tags", default="weights,kv_cache,cuda_graph", show_default=True, callback=_tags)
def wake(pool: str, tags: tuple[str, ...], **options: Any) -> None:
    """Wake the engines. If their weights were kept, the same gates open; else sync them."""
    from sglang_operator.cli import weighing

    _run(weighing.Wake(tags=tags), pool, options)


@weights.command(short_help="Let the engines leave what a trainer that is gone has left.")
@_common
@click.option("--group", "groups", multiple=True, help="A group beside the known ones; repeatable.")
@click.option("--wait", type=float, default=0, help="Seconds to wait for another trainer.")
@click.option("--force", is_flag=True, help="The trainer is gone whose groups they are.")
def reset(pool: str, groups: tuple[str, ...], wait: float, force: bool, **options: Any) -> None:
    """Let the engines leave process groups, and end an update that was left open.

    For a trainer that is started again and does not use the client: the names of its groups are
    taken as long as the engines live. Those that ROLL, slime, miles and AReaL give are known.
    Weights, gates and pauses stay as they are; a sync whose trainer is gone ends as aborted.
    A trainer by the client whose groups go is told so before its next bucket; one that was seen
    just now stands in the way, unless --force says that it is gone.
    """
    from sglang_operator.cli import weighing

    _run(weighing.Reset(groups=groups, wait=wait, force=force), pool, options)
