"""``kubectl sglang``: the console script ``kubectl-sglang``, which kubectl finds by its name.

Each command imports what it needs when it runs: ``lint`` in an editor or a commit hook has to
answer at once.
"""

import sys
from typing import Any

import click

from sglang_operator.cli import commands
from sglang_operator.cli.weights import weights

_FILE = "FILE may be - for standard input."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 well, 1 as each command says, 2 an error.",
)
@click.version_option(package_name="sglang-operator", prog_name="kubectl sglang")
def cli() -> None:
    """Pools of SGLang engines for reinforcement learning, before and on a cluster."""


def _tell(notes: list[str]) -> None:
    from sglang_operator.cli.findings import one_line

    for note in notes:
        click.echo(f"note: {one_line(note)}", err=True)


def _options(**values: Any) -> Any:
    from sglang_operator.cli.pipeline.objects import Options

    return Options(**values)


_environment = click.option(
    "--env", is_flag=True, help="Let ${oc.env:...} read this process' environment."
)


@cli.command(short_help="A ROLL config as SGLangInference objects.")
@click.argument("file", metavar="CONFIG.yaml")
@click.option("--role", "roles", multiple=True, help="Only this role, e.g. rewards.llm_judge.")
@click.option("-o", "--output", metavar="DIR", help="Write NAME.yaml there, not to the terminal.")
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
@click.option("--name", help="Name of the object; with several, the beginning of their names.")
@click.option("-n", "--namespace", help="Namespace to write into the objects.")
@_environment
def convert(
    file: str,
    roles: tuple[str, ...],
    output: str | None,
    force: bool,
    name: str | None,
    namespace: str | None,
    env: bool,
) -> None:
    """Turn each worker of a ROLL pipeline whose strategy is sglang into a SGLangInference.

    CONFIG.yaml is a whole pipeline file, or - for standard input. ${...} and Hydra's defaults are
    resolved, the model is taken from pretrain as ROLL does it. What else there is to know goes to
    standard error.

    Exit codes: 0 converted; 1 no worker uses sglang, nothing is written; 2 errors, nothing is
    written.
    """
    from sglang_operator.cli import converting

    options = _options(roles=roles, name=name, namespace=namespace, environment=env)
    outcome = converting.run(file, sys.stdin.buffer, options, output, force=force)
    for line in outcome.problems:
        click.echo(line, err=True)
    _tell(outcome.notes)
    if outcome.text:
        click.echo(outcome.text, nl=False)
    sys.exit(outcome.code)


@cli.command(short_help="Everything that is wrong with objects or ROLL configs.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
@click.option("-q", "--quiet", is_flag=True, help="No notes, only what is wrong.")
@_environment
def lint(files: tuple[str, ...], output: str, strict: bool, quiet: bool, env: bool) -> None:
    """Judge objects and ROLL pipelines as the operator and the API server would.

    FILE may hold several documents; - is standard input. No cluster is asked.

    Exit codes: 0 nothing wrong, or only warnings; 1 warnings, with --strict; 2 errors.
    """
    from sglang_operator.cli import check_files, findings

    judged = check_files.lint(list(files), sys.stdin.buffer, _options(environment=env))
    found = findings.ordered(judged.findings)
    if output == "json":
        click.echo(findings.as_json(found, judged.notes))
    else:
        for finding in found:
            click.echo(finding.line())
        if not quiet:
            _tell(judged.notes)
    sys.exit(findings.exit_code(found, strict=strict))


@cli.command(short_help="The exact pods and command lines of a pool.")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", type=click.Choice(["yaml", "json", "argv"]), default="yaml")
@_environment
def render(file: str, output: str, env: bool) -> None:
    """Show the pods that the operator would create, by the operator's own code.

    FILE holds objects or a ROLL pipeline; - is standard input. Values under names of secrets are
    not shown, and the UID of the owner is known only to a cluster.

    Exit codes: 0 shown; 1 nothing to show; 2 errors.
    """
    from sglang_operator.cli import check_files, findings, rendering

    judged = check_files.lint([file], sys.stdin.buffer, _options(environment=env))
    found = findings.ordered(judged.findings)
    for finding in found:
        click.echo(finding.line(), err=True)
    if findings.exit_code(found) == findings.FAILED:
        sys.exit(findings.FAILED)
    click.echo(rendering.render(judged.pools, output), nl=False)
    if not judged.pools:
        _tell(judged.notes)
    sys.exit(0 if judged.pools else 1)


@cli.command(short_help="What a changed object would do to a live pool.")
@click.argument("file", metavar="FILE")
@click.option(
    "--against",
    metavar="LIVE.json",
    help="The object and its pods, from kubectl get sgi,pods -o json; default: ask kubectl.",
)
@click.option("-n", "--namespace", help="Namespace, if the object does not say.")
@click.option("--context", help="kubectl's context.")
@click.option("--kubeconfig", help="kubectl's configuration file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@_environment
def diff(
    file: str,
    against: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    output: str,
    env: bool,
) -> None:
    """Say which engines of a live pool keep running, restart, move or go, and why.

    Exit codes, as kubectl diff: 0 no engine is touched; 1 some are; 2 errors.
    """
    from sglang_operator.cli import check_files, diffing, findings
    from sglang_operator.cli.cluster import live_pool
    from sglang_operator.cli.findings import StopError

    judged = check_files.lint([file], sys.stdin.buffer, _options(environment=env))
    found = findings.ordered(judged.findings)
    for finding in found:
        click.echo(finding.line(), err=True)
    if findings.exit_code(found) == findings.FAILED:
        sys.exit(findings.FAILED)
    source = live_pool.Source(
        file=against, namespace=namespace, context=context, kubeconfig=kubeconfig
    )
    try:
        differences = [diffing.compare(body, source.pool(body)) for body in judged.pools]
    except StopError as stopped:
        for finding in stopped.findings:
            click.echo(finding.line(), err=True)
        sys.exit(findings.FAILED)
    click.echo(diffing.as_json(differences) if output == "json" else diffing.as_text(differences))
    sys.exit(int(any(difference.touches for difference in differences)))


for _command in (*commands.COMMANDS, weights):
    cli.add_command(_command)


def main() -> None:
    """The console script."""
    cli(prog_name="kubectl sglang", complete_var="_KUBECTL_SGLANG_COMPLETE")


def complete() -> None:
    """The console script ``kubectl_complete-sglang``: what kubectl asks at the tab key.

    The last argument is the word that is being written.  Each line is a word and what it does;
    ``:4`` tells the shell to offer no file names (kubectl's protocol, that of cobra).
    """
    from click.shell_completion import ShellComplete

    *words, incomplete = sys.argv[1:] or [""]
    for item in ShellComplete(cli, {}, "kubectl sglang", "").get_completions(words, incomplete):
        click.echo(f"{item.value}\t{item.help or ''}".rstrip("\t"))
    click.echo(":4")


if __name__ == "__main__":
    main()
