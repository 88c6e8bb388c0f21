"""The command ``lint``: everything that is wrong with objects or ROLL configs."""

import sys

import click

from sglang_operator.cli import check_files, findings
from sglang_operator.cli.options import environment, tell_notes
from sglang_operator.cli.pipeline.objects import Options


@click.command("lint")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
@click.option("--gpu", metavar="CARD[,...]", help="Judge memory on these GPUs too, as plan does.")
@click.option("-q", "--quiet", is_flag=True, help="No notes, only what is wrong.")
@environment
def command(
    files: tuple[str, ...], output: str, strict: bool, gpu: str | None, quiet: bool, env: bool
) -> None:
    """Judge objects and ROLL pipelines as the operator and the API server would.

    FILE may hold several documents; - is standard input. No cluster is asked.

    Exit codes: 0 nothing wrong, or only warnings; 1 warnings, with --strict; 2 errors.
    """
    judged = check_files.lint(list(files), sys.stdin.buffer, Options(environment=env))
    if gpu is not None:
        from sglang_operator.cli import plan, plan_files  # who does not ask does not wait for them

        judged.findings += plan_files.told(judged, plan.these_cards(gpu), env=env)
    found = findings.ordered(judged.findings)
    if output == "json":
        click.echo(findings.as_json(found, judged.notes))
    else:
        for finding in found:
            click.echo(finding.line())
        if not quiet:
            tell_notes(judged.notes)
    sys.exit(findings.exit_code(found, strict=strict))
