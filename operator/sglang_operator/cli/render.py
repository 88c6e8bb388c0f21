"""The command ``render``: pods as the operator would create them, by its own code."""

import json
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import click

from sglang_operator.api import texts as operator_texts
from sglang_operator.children import engine_pod
from sglang_operator.cli import check_files, check_object, findings, redaction
from sglang_operator.cli.options import environment, tell_notes
from sglang_operator.cli.pipeline.objects import Options
from sglang_operator.cli.yaml_tree.nodes import YamlNode
from sglang_operator.engine import arguments
from sglang_operator.placement.seats import Seen
from sglang_operator.pool.resolve import Pool
from sglang_operator.roll import device_mapping


def render(bodies: list[YamlNode], form: str) -> str:
    """All pods of these pools, or their command lines."""
    resolved = [check_object.resolve(body) for body in bodies]
    pools = [pool for pool in resolved if isinstance(pool, Pool)]
    if form == "argv":
        return "".join(map(_command, pools))
    found = [pod for pool in pools for pod in pods(pool)]
    if form == "json":
        listed = {"apiVersion": "v1", "kind": "List", "items": found}
        return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper.ignore_aliases = lambda self, data: True  # the pods share their parts
    text: str = yaml.dump_all(found, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def pods(pool: Pool) -> Iterator[dict[str, Any]]:
    """The first pods of each engine that runs; values of secrets are hidden."""
    shared = shown(engine_pod.template(pool))
    seats = written.seats if (written := pool.seating(Seen())) is not None else {}
    for engine in pool.running:
        seated = seats.get(engine.name, (None,) * engine.pods)
        for node_rank, seat in enumerate(seated):
            yield engine_pod.pod(pool, shared, engine, 0, node_rank=node_rank, seat=seat)


def shown(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod without the values of secrets."""
    containers = [
        {
            **container,
            "args": redaction.arguments(container.get("args", ())),
            "env": redaction.variables(container.get("env", ())),
        }
        for container in pod["spec"]["containers"]
    ]
    return {**pod, "spec": {**pod["spec"], "containers": containers}}


def _command(pool: Pool) -> str:
    """The command line, which all engines of a pool share."""
    argv = arguments.meeting(pool.arguments.argv, pool.host)
    command = arguments.command(redaction.arguments(argv))
    ids = [device for engine in pool.running for device in engine.devices]
    where = f", GPUs {device_mapping.describe(ids)}" if ids else ""
    engines = operator_texts.engines(len(pool.running))
    head = f"# {pool.owner.name}: {engines} of {pool.gpus} GPUs{where}"
    return f"{head}; SGLang {pool.version}; revision {pool.revision}\n{shlex.join(command)}\n"


# --- the command


@click.command("render")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", type=click.Choice(["yaml", "json", "argv"]), default="yaml")
@environment
def command(file: str, output: str, env: bool) -> None:
    """Show the pods that the operator would create, by the operator's own code.

    FILE holds objects or a ROLL pipeline; - is standard input. Values under names of secrets are
    not shown, and the UID of the owner is known only to a cluster.

    Exit codes: 0 shown; 1 nothing to show; 2 errors.
    """
    judged = check_files.lint([file], sys.stdin.buffer, Options(environment=env))
    found = findings.ordered(judged.findings)
    for finding in found:
        click.echo(finding.line(), err=True)
    if findings.exit_code(found) == findings.FAILED:
        sys.exit(findings.FAILED)
    click.echo(render(judged.pools, output), nl=False)
    if not judged.pools:
        tell_notes(judged.notes)
    sys.exit(0 if judged.pools else 1)
