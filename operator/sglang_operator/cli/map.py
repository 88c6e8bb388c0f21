"""The command ``map``: which engine is where, as a picture."""

import time

import click

from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import Cluster
from sglang_operator.cli.options import OK, as_mapping, ends, pool_names, show, where
from sglang_operator.view import ages, grid, page, svg, text


@click.command("map")
@pool_names
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
def command(
    cluster: Cluster, pools: tuple[str, ...], output: str, ids: bool | None, title: str | None
) -> int:
    """Draw the GPUs: rows are nodes, columns GPUs, every engine has a letter and a colour.

    The picture of device_mapping (node_rank × gpu_rank) comes with it where pools name the same
    GPUs, or with --ids. Kubernetes does not tell which GPUs of a node a pod has, only how many.

    Exit codes: 0 drawn; 2 errors.
    """
    picture = grid.gpu_map(look.look(cluster, pools), ids=ids)
    if output == "text":
        show(text.render(picture, title=title or ""))
    elif output == "svg":
        click.echo(svg.render(picture, title=title or ""), nl=False)
    elif output == "html":
        when = ages.when(time.time())
        click.echo(page.render(picture, title=title or "GPU map", when=when), nl=False)
    else:
        click.echo(as_mapping(grid.document(picture), output))
    return OK
