"""The command ``plan``: whether engines fit GPUs that nobody has taken yet."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from sglang_operator.api import errors
from sglang_operator.cli import file_errors, findings, plan_report, texts
from sglang_operator.cli.findings import Finding, StopError
from sglang_operator.cli.options import (
    FAILED,
    NOT_SO,
    OK,
    cluster,
    complete_pool,
    ends,
    environment,
    show,
    tell_notes,
)
from sglang_operator.cli.plan_engines import Asked
from sglang_operator.cli.plan_report import Report
from sglang_operator.cli.yaml_tree import file_text
from sglang_operator.cli.yaml_tree.nodes import Mark
from sglang_operator.engine import versions
from sglang_operator.memory import cards
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import Sequence

_MOST_CONFIG = 10 * 2**20  # bytes of a config.json
_MOST_TOKENS = 2**31


# --- what the command line says


def these_cards(text: str) -> tuple[Card, ...]:
    """What --gpu names.  Raises :class:`click.BadParameter`."""
    names = [name for name in text.split(",") if name.strip()]
    found = [(name, cards.parse(name)) for name in names]
    wrong = [name for name, card in found if card is None]
    if wrong or not found:
        shown = errors.shown((wrong or [text])[0])
        known = ", ".join(cards.CARDS)
        raise click.BadParameter(
            texts.PLAN_CARD.format(found=shown, known=known), param_hint="--gpu"
        )
    return tuple(dict.fromkeys(card for _, card in found if card is not None))


def _version(text: str | None) -> versions.Version:
    if text is None:
        return versions.NEWEST_KNOWN
    try:
        return versions.parse(text)
    except errors.InvalidError as error:
        raise click.BadParameter(error.problem.message, param_hint="--sglang") from error


def _length(text: str | None) -> Sequence | None:
    if text is None:
        return None
    parts = text.split("+")
    good = all(part.isascii() and part.isdecimal() and int(part) < _MOST_TOKENS for part in parts)
    if len(parts) != 2 or not good or int(parts[0]) + int(parts[1]) == 0:
        shown = errors.shown(text)
        raise click.BadParameter(texts.PLAN_SEQUENCE.format(found=shown), param_hint="--sequence")
    return Sequence(prompt=int(parts[0]), response=int(parts[1]))


def _config(file: str | None, model: str | None) -> dict[str, Any] | None:
    """A config.json of the user's.  Raises :class:`StopError`."""
    if file is not None and model is not None:
        raise click.UsageError(texts.PLAN_TWO_CONFIGS)
    if file is None and model is None:
        return None
    path = Path(file) if file is not None else Path(str(model)) / "config.json"
    mark = Mark(str(path), 1, 1)
    try:
        if path.stat().st_size > _MOST_CONFIG:
            problem = file_errors.TOO_LARGE("", found=texts.PLAN_LARGE, limit="10 MiB")
            raise findings.stop(mark, problem)
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        detail = error.strerror or "it cannot be read"
        problem = file_errors.FILE_UNREADABLE("", detail=detail, advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem) from error
    except (ValueError, RecursionError) as error:
        problem = file_errors.FILE_UNREADABLE("", detail="it is no JSON", advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem) from error
    if not isinstance(found, dict):
        problem = file_errors.FILE_UNREADABLE("", detail="it is no map", advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem)
    return found


# --- the command


@click.command("plan")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--gpu", metavar="CARD[,...]", help="H100-80GB, H200, 141GiB, ...")
@click.option(
    "--live",
    metavar="POOL",
    shell_complete=complete_pool,
    help="A pool that runs: what was planned beside what its engines say they got.",
)
@click.option("--config", metavar="FILE", help="The model's config.json; default: what is known.")
@click.option("--model", metavar="DIR", help="The model's folder, with its config.json.")
@click.option("--sequence", metavar="PROMPT+RESPONSE", help="Tokens, e.g. 8192+4096.")
@click.option(
    "--resident",
    type=click.FloatRange(min=0),
    metavar="GIB",
    help="What others keep of each GPU while engines run; default: by the file's roles.",
)
@click.option("--sglang", metavar="VERSION", help="Of a launch script, which names none.")
@click.option("-n", "--namespace", help="Namespace of the pool that runs.")
@click.option("--context", help="kubectl's context.")
@click.option("--kubeconfig", help="kubectl's configuration file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@environment
def command(
    file: str | None,
    gpu: str | None,
    live: str | None,
    config: str | None,
    model: str | None,
    sequence: str | None,
    resident: float | None,
    sglang: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    output: str,
    env: bool,
) -> None:
    """Say whether engines fit GPUs, how many sequences they hold, and which knob to turn.

    FILE holds objects or a ROLL pipeline, or is a launch script of slime (NAME.sh), which is read
    and not run; - is standard input. No cluster and no GPU is asked: the numbers are SGLang's own
    rules of the pool's version. Of a pipeline it also says who has which GPUs, what the trainer
    needs of them as an estimate, and better balances.

    With --live the cluster is asked for a pool, and the plan stands beside what its engines say
    they got; the card is that of their nodes, if these are labelled with it.

    Exit codes: 0 everything fits, or both are known; 1 something does not fit, or is not known;
    2 errors.
    """
    if live is not None and file is None:
        where = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
        _live(where, live, gpu, (config, model), output)
    if file is None or gpu is None or live is not None:
        raise click.UsageError(texts.PLAN_ONE_THING)
    try:
        asked = Asked(
            cards=these_cards(gpu),
            config=_config(config, model),
            sequence=_length(sequence),
            environment=env,
            version=_version(sglang),
            resident=resident,
        )
        found = _of_script(file, asked) or _of_file(file, asked)
    except StopError as stopped:
        _tell([*stopped.findings])
        sys.exit(FAILED)
    if output == "json":
        click.echo(plan_report.as_json(found))
    else:
        for line in plan_report.verdicts(found):
            click.echo(line)
        from sglang_operator.cli import plan_tables  # rich, which programs need not wait for

        show(plan_tables.tables(found))
    sys.exit(OK if found.fits else NOT_SO)


@ends
def _live(
    where: dict[str, Any],
    name: str,
    gpu: str | None,
    given: tuple[str | None, str | None],
    output: str,
) -> int:
    from sglang_operator.cli import plan_live

    chosen = these_cards(gpu) if gpu is not None else ()
    if len(chosen) > 1:
        raise click.BadParameter(texts.PLAN_ONE_CARD, param_hint="--gpu")
    try:
        config = _config(*given)
    except StopError as stopped:
        _tell([*stopped.findings])
        return FAILED
    found = plan_live.live(cluster(where), name, next(iter(chosen), None), config)
    if output == "json":
        click.echo(plan_live.as_json(found))
    else:
        click.echo(plan_live.line(found))
        show(plan_live.table(found))
    return OK if found.known else NOT_SO


# What only a script needs, or only other files, is imported with it: that takes longer than a plan.


def _of_script(file: str, asked: Asked) -> Report | None:
    """The plan of a launch script, if the file is one.  Raises :class:`StopError`."""
    if Path(file).suffix != ".sh":
        return None
    from sglang_operator.cli import plan_script
    from sglang_operator.cli.pipeline import slime

    text = file_text.read(file)
    return plan_script.report(slime.Script(text, file), asked) if slime.is_script(text) else None


def _of_file(file: str, asked: Asked) -> Report:
    """The plan of a file's pools; with errors, or without pools, the command ends here."""
    from sglang_operator.cli import check_files, plan_files
    from sglang_operator.cli.pipeline.objects import Options

    options = Options(environment=asked.environment)
    judged = check_files.lint([file], sys.stdin.buffer, options)
    wrong = [finding for finding in findings.ordered(judged.findings) if finding.is_error]
    _tell(wrong)
    if wrong:
        sys.exit(FAILED)
    if not judged.pools:
        tell_notes(judged.notes)
        sys.exit(NOT_SO)
    return plan_files.report(judged, asked)


def _tell(found: list[Finding]) -> None:
    for finding in found:
        click.echo(finding.line(), err=True)
