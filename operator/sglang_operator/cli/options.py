"""What commands have in common: options, how they print, how they end.

Heavy imports stand in the functions: every command imports this module.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from sglang_operator.cli import texts

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sglang_operator.cli.cluster.kubectl import Cluster

OK, NOT_SO, FAILED = 0, 1, 2  # exit codes
_WIDEST = 10_000  # columns

Command = Callable[..., Any]

STRUCTURED = click.Choice(["text", "json", "yaml"])
environment = click.option(
    "--env", is_flag=True, help="Let ${oc.env:...} read this process' environment."
)


def complete_pool(
    context: click.Context, _: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Names of pools, for the shell."""
    from click.shell_completion import CompletionItem

    from sglang_operator.cli.cluster.kubectl import ClusterError

    try:
        found = cluster(context.params).run("get", "sgi", "--output", "name")
    except ClusterError:
        return []
    pools = [line.rpartition("/")[2] for line in found.decode().splitlines()]
    return [CompletionItem(name) for name in pools if name.startswith(incomplete)]


pool_names = click.argument("pools", nargs=-1, metavar="[POOL]...", shell_complete=complete_pool)


def where(command: Command) -> Command:
    """The options that say which cluster and namespace, handed on as one ``Cluster``."""

    @functools.wraps(command)
    def with_cluster(**given: Any) -> Any:
        chosen = cluster(given)
        rest = {key: value for key, value in given.items() if key not in _WHERE}
        return command(chosen, **rest)

    for option in reversed(_OPTIONS):
        with_cluster = option(with_cluster)
    return with_cluster


_WHERE = ("namespace", "all_namespaces", "context", "kubeconfig")
_OPTIONS = (
    click.option("-n", "--namespace", help="Look in this namespace, not in the context's."),
    click.option("-A", "--all-namespaces", is_flag=True, help="Look in all namespaces."),
    click.option("--context", help="kubectl's context."),
    click.option("--kubeconfig", help="kubectl's configuration file."),
)


def cluster(given: dict[str, Any]) -> "Cluster":
    """The cluster that these options name."""
    from sglang_operator.cli.cluster.kubectl import Cluster

    return Cluster(**{key: given.get(key) or None for key in _WHERE if key != "all_namespaces"},
                   all_namespaces=bool(given.get("all_namespaces")))  # fmt: skip


def ends(command: Command) -> Command:
    """Give the command's result as exit code; a cluster that refuses is an error in words."""

    @functools.wraps(command)
    def ended(*arguments: Any, **given: Any) -> None:
        from sglang_operator.cli.cluster.kubectl import ClusterError
        from sglang_operator.cli.findings import one_line

        try:
            sys.exit(command(*arguments, **given))
        except ClusterError as error:
            click.echo(f"error: {one_line(str(error))}", err=True)
            sys.exit(FAILED)
        except BrokenPipeError:  # the reader of a pipe went away
            sys.stderr.close()
            sys.exit(OK)

    return ended


def show(renderable: Any) -> None:
    """Print for people: in colour where there is a terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=max(console.width, 160))
    console.print(renderable)


def plain_lines(renderable: Any) -> list[str]:
    """Lines for people and programs alike: nothing is shortened or folded, whatever the width."""
    from rich.console import Console

    console = Console(width=_WIDEST, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def as_mapping(value: Mapping[str, Any], form: str) -> str:
    """JSON or YAML text."""
    if form == "json":
        import json

        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)).rstrip("\n")


def tell_notes(notes: Iterable[str]) -> None:
    """What there is to know beside the result, on standard error."""
    from sglang_operator.cli.findings import one_line

    for note in notes:
        click.echo(f"note: {one_line(note)}", err=True)


def duration(text: str) -> int:
    """``90``, ``90s``, ``5m``, ``2h`` in seconds.  Raises :class:`ValueError`."""
    units: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.isdecimal() or len(number) > 9:
        raise ValueError(texts.NO_DURATION.format(found=text))
    return int(number) * units[unit]
