"""Files judged document by document: objects as they are, ROLL files by what they convert to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sglang_operator.api import errors, names
from sglang_operator.cli import check_object, file_errors
from sglang_operator.cli.findings import Finding, StopError
from sglang_operator.cli.pipeline import objects, recognition
from sglang_operator.cli.yaml_tree import file_text, reading
from sglang_operator.cli.yaml_tree.nodes import YamlNode


@dataclass(kw_only=True)
class Judged:
    """The pools of some files, and what was found."""

    pools: list[YamlNode] = field(default_factory=list)  # bodies of SGLangInference objects
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Each pipeline, with how many pools were there before its own.
    pipelines: list[tuple[int, objects.Conversion]] = field(default_factory=list)


def lint(files: list[str], stdin: Any, options: objects.Options) -> Judged:
    """All documents of all files; one that cannot be read does not keep the others back."""
    judged = Judged()
    for name in files:
        try:
            loaded = reading.load(file_text.read(name, stdin), name)
            judged.findings += loaded.findings
            if not loaded.documents:
                judged.notes.append(f"{errors.shown(name)}: empty")
            for document in loaded.documents:
                _document(judged, document, options, _folder(name))
        except StopError as stopped:
            judged.findings += stopped.findings
    return judged


def _folder(name: str) -> Path | None:
    return Path() if name == file_text.STDIN else Path(name).parent


def is_ours(document: YamlNode) -> bool:
    """Whether it is meant to be a SGLangInference; also one that is misspelt."""
    group = (document.text("apiVersion") or "").partition("/")[0]
    return document.text("kind") == names.KIND or group == names.GROUP


def _document(
    judged: Judged, document: YamlNode, options: objects.Options, folder: Path | None
) -> None:
    try:
        if not recognition.is_object(document):
            _roll(judged, document, options, folder)
        elif document.text("kind") in ("List", f"{names.KIND}List"):
            items = document.get("items")
            for item in items.items if items is not None else []:
                _document(judged, item, options, folder)
        else:
            _object(judged, reading.keys_as_text(document))
    except StopError as stopped:
        judged.findings += stopped.findings


def _object(judged: Judged, body: YamlNode) -> None:
    kind = body.text("kind") or "an object without a kind"
    name = body.text("metadata", "name") or ""
    if not is_ours(body):
        judged.notes.append(f"{body.mark}: left alone: {errors.shown(f'{kind} {name}'.strip())}")
        return
    if kind != names.KIND:
        node = body.get("kind") or body
        problem = file_errors.KIND("kind", found=errors.shown(kind), expected=names.KIND)
        judged.findings.append(Finding(mark=node.mark, problem=problem))
        return
    judged.findings += check_object.judge(body, name)
    judged.pools.append(body)


def _roll(
    judged: Judged, document: YamlNode, options: objects.Options, folder: Path | None
) -> None:
    conversion = objects.convert(document, options, folder, recognition.EITHER)
    judged.findings += conversion.findings
    judged.notes += [f"{document.mark.file}: {note}" for note in conversion.notes]
    judged.pipelines.append((len(judged.pools), conversion))
    judged.pools += [reading.keys_as_text(converted.body) for converted in conversion.objects]
