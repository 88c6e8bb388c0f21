"""The command ``convert``: one file in, objects out, nothing half."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sglang_operator.api import errors
from sglang_operator.cli import file_errors, findings
from sglang_operator.cli.findings import FAILED, OK, WARNED, Finding, StopError
from sglang_operator.cli.options import environment, tell_notes
from sglang_operator.cli.pipeline import disjoint, objects, recognition, sharing
from sglang_operator.cli.pipeline.objects import Options
from sglang_operator.cli.yaml_tree import file_text, reading
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode


@dataclass(kw_only=True)
class Conversion:
    """What to print where, and how to exit."""

    code: int
    text: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(file: str, stdin: Any, options: Options, output: str | None, *, force: bool) -> Conversion:
    """Convert a file; with any error nothing is written."""
    try:
        document, found = _document(file, stdin)
        folder = Path() if file == file_text.STDIN else Path(file).parent
        conversion = objects.convert(document, options, folder)
    except StopError as stopped:
        return _refused(stopped.findings, [])
    found = findings.ordered([*found, *conversion.findings])
    if findings.exit_code(found) == FAILED:
        return _refused(found, conversion.notes)
    problems = [finding.line() for finding in found]
    notes = list(conversion.notes)
    if not conversion.objects:
        return Conversion(code=WARNED, problems=problems, notes=notes)
    texts = {c.name: objects.document(c, file) for c in conversion.objects}
    if output is None:
        return Conversion(
            code=OK, text="---\n".join(texts.values()), problems=problems, notes=notes
        )
    try:
        notes += _write(texts, Path(output), force=force)
    except StopError as stopped:
        return _refused([*found, *stopped.findings], notes)
    return Conversion(code=OK, problems=problems, notes=notes)


def _refused(found: Any, notes: list[str]) -> Conversion:
    lines = [finding.line() for finding in found]
    return Conversion(code=FAILED, problems=lines, notes=[*notes, "nothing is written"])


def _document(file: str, stdin: Any) -> tuple[YamlNode, list[Finding]]:
    """The one document of a pipeline file."""
    loaded = reading.load(file_text.read(file, stdin), file)
    documents = loaded.documents
    if len(documents) != 1:
        mark = documents[1].mark if documents else Mark(file, 1, 1)
        raise findings.stop(mark, _number(documents))
    (document,) = documents
    if recognition.is_object(document):
        raise findings.stop(document.mark, recognition.problem(document))
    return document, loaded.findings


def _number(documents: list[YamlNode]) -> errors.Problem:
    """No document, or several of which nothing says which one is meant."""
    if not documents:
        found, advice = "an empty file", "give the file that ROLL's start script reads"
    else:
        first, second = map(recognition.named, documents[:2])
        found = f"{len(documents)} documents, {first}, then {second}"
        advice = "give a file with the pipeline alone; lint takes several objects"
    expected = f"one document, {recognition.PIPELINE}"
    return file_errors.UNRECOGNISED("", found=found, expected=expected, advice=advice)


def _write(texts: dict[str, str], folder: Path, *, force: bool) -> list[str]:
    """One file for each object; none at all if one of them is in the way."""
    paths = {folder / f"{name}.yaml": text for name, text in texts.items()}
    for path, text in paths.items():
        if path.is_symlink():  # in somebody else's folder it may lead anywhere
            detail, advice = "it is a link", "remove it, or give another folder"
            problem = file_errors.FILE_UNREADABLE("", detail=detail, advice=advice)
            raise findings.stop(Mark(str(path), 1, 1), problem)
        if not force and path.exists() and path.read_text(errors="replace") != text:
            detail, advice = "it exists and differs", "--force replaces it"
            problem = file_errors.FILE_UNREADABLE("", detail=detail, advice=advice)
            raise findings.stop(Mark(str(path), 1, 1), problem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            with open(path, "w", opener=_no_link) as file:
                file.write(text)
    except OSError as error:
        detail = error.strerror or "it cannot be written"
        problem = file_errors.FILE_UNREADABLE("", detail=detail, advice="give another folder")
        raise findings.stop(Mark(str(folder), 1, 1), problem) from error
    return [f"written: {errors.shown(str(path))}" for path in paths]


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


# --- the command


@click.command("convert")
@click.argument("file", metavar="CONFIG.yaml")
@click.option("--role", "roles", multiple=True, help="Only this role, e.g. rewards.llm_judge.")
@click.option("-o", "--output", metavar="DIR", help="Write NAME.yaml there, not to the terminal.")
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
@click.option("--name", help="Name of the object; with several, the beginning of their names.")
@click.option("-n", "--namespace", help="Namespace to write into the objects.")
@click.option(
    disjoint.OPTION,
    "apart",
    is_flag=True,
    help="Write ids that the trainer does not have, where the file has them in common.",
)
@click.option(
    sharing.OPTION,
    "joins",
    is_flag=True,
    help="Put engines on the trainer's GPUs, where the file has ids in common: placement Shared.",
)
@environment
def command(
    file: str,
    roles: tuple[str, ...],
    output: str | None,
    force: bool,
    name: str | None,
    namespace: str | None,
    apart: bool,
    joins: bool,
    env: bool,
) -> None:
    """Turn each worker of a ROLL pipeline whose strategy is sglang into a SGLangInference.

    CONFIG.yaml is a whole pipeline file, or - for standard input. ${...} and Hydra's defaults are
    resolved, the model is taken from pretrain as ROLL does it. What else there is to know goes to
    standard error.

    Exit codes: 0 converted; 1 no worker uses sglang, nothing is written; 2 errors, nothing is
    written.
    """
    if apart and joins:
        raise click.UsageError(f"give {disjoint.OPTION} or {sharing.OPTION}, not both")
    options = Options(
        roles=roles,
        name=name,
        namespace=namespace,
        environment=env,
        disjoint=apart,
        shared=joins,
    )
    outcome = run(file, sys.stdin.buffer, options, output, force=force)
    for line in outcome.problems:
        click.echo(line, err=True)
    tell_notes(outcome.notes)
    if outcome.text:
        click.echo(outcome.text, nl=False)
    sys.exit(outcome.code)
