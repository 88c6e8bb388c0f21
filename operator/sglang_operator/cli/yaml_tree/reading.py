"""YAML text to nodes.  No object is ever constructed from a tag, and every size has a bound.

libyaml finds the events; the tree is built here, without recursion, so that each value keeps its
place and each doubtful key is told.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from sglang_operator.api import redaction
from sglang_operator.cli import file_errors
from sglang_operator.cli.findings import Finding, stop
from sglang_operator.cli.yaml_tree import scalars
from sglang_operator.cli.yaml_tree.nodes import Key, Mark, YamlNode

MAX_DEPTH = 100
MAX_NODES = 200_000  # with what aliases repeat

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OF_A_KEY = "while scanning a simple key"
_MERGE = str(b"<<", "ascii")  # this very object: a quoted "<<" is a key like any other


@dataclass(kw_only=True)
class Loaded:
    """The documents of a file, and what is wrong with its YAML."""

    documents: list[YamlNode] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def load(text: str, name: str) -> Loaded:
    """All documents of a text; empty ones are left out.

    Raises :class:`findings.StopError` where the YAML ends to make sense.
    """
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = _error_mark(error, name)
        problem = file_errors.BAD_YAML("", detail=_detail(error), advice=_advice(text, mark))
        raise stop(mark, problem) from error
    return Loaded(documents=builder.documents, findings=builder.findings)


def _error_mark(error: yaml.YAMLError, name: str) -> Mark:
    mark = getattr(error, "problem_mark", None)
    if getattr(error, "context", None) == _OF_A_KEY:
        mark = error.context_mark  # type: ignore[attr-defined]  # the next line is told else
    if mark is None:
        return Mark(name, 1, 1)
    return Mark(name, mark.line + 1, mark.column + 1)


def _detail(error: yaml.YAMLError) -> str:
    """What libyaml says, without the piece of text that PyYAML would quote."""
    said = [getattr(error, "context", None), getattr(error, "problem", None)]
    return (
        redaction.unquoted(", ".join(filter(None, said)))
        or getattr(error, "reason", "")
        or "unreadable characters"
    )


# How a key and its value are written by who is used to something else.
_EQUALS = re.compile(r"\s*([\w-]+)\s*=\s*[^=]*")
_NO_SPACE = re.compile(r"\s*([\w-]+):(?!//)[^\s:/].*")
_NO_COLON = re.compile(r"\s*([\w-]+)(\s+[^\s:#]+)?\s*(#.*)?")


def _advice(text: str, mark: Mark) -> str:
    """What is wrong with a text that looks like something else, or with the line before it."""
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if told := _as_what(text, line, mark):
        return told
    before = next((ln for ln in reversed(lines[: mark.line - 1]) if ln.strip()), "")
    for written in (line, before):
        if found := _EQUALS.fullmatch(written):
            return f"write {found[1]}: and the value, with a colon"
        if found := _NO_SPACE.fullmatch(written):
            return f"write a space after the colon of {found[1]}"
        if found := _NO_COLON.fullmatch(written):
            return f"write a colon after {found[1]}"
    depth, depth_before = (len(ln) - len(ln.lstrip(" ")) for ln in (line, before))
    if line.strip() and depth != depth_before:
        return f"is its indentation meant? it is {depth} here, and {depth_before} just before"
    return "correct it here or just before"


def _as_what(text: str, line: str, mark: Mark) -> str | None:
    """What a text is besides YAML."""
    if line[: mark.column].endswith("\t") or line.startswith("\t"):
        return "there is a tab: indent with spaces"
    if "{{" in text:
        return "it is a template: render it first, and give what comes out"
    if text.startswith("#!"):
        return "it is a script: give the config that it starts with"
    if text.lstrip().startswith("{"):
        return "it is JSON: one object in one file, and as JSON has it"
    return None


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    node: YamlNode
    anchor: str | None
    size: int = 1  # of everything in it, with what aliases repeat
    key: YamlNode | None = None  # the key whose value comes next
    merges: list[YamlNode] = field(default_factory=list)


class _Builder:
    """Takes events, and keeps the documents."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents: list[YamlNode] = []
        self.findings: list[Finding] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[YamlNode, int]] = {}

    def take(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._anchors = {}
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.ScalarEvent():
                node = YamlNode(self._mark(event), self._scalar(event))
                size = 1 + len(event.value) // 64
                self._anchor(event.anchor, node, size)
                self._add(node, size)
            case yaml.AliasEvent():
                self._alias(event)

    def _mark(self, event: Any) -> Mark:
        return Mark(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _start(self, event: Any) -> None:
        mark = self._mark(event)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        kind = "tag:yaml.org,2002:map" if is_mapping else "tag:yaml.org,2002:seq"
        if event.tag not in (None, "!", kind):
            self._tell(mark, file_errors.BAD_TAG("", found=event.tag))
        if len(self._open) >= MAX_DEPTH:
            found = "values are nested too deeply"
            raise stop(mark, file_errors.TOO_LARGE("", found=found, limit=f"{MAX_DEPTH} levels"))
        node = YamlNode(mark, {} if is_mapping else [])
        self._open.append(_Open(node, event.anchor))
        # An anchor can be used only after its end: no value holds itself.

    def _end(self) -> None:
        done = self._open.pop()
        for merged in done.merges:
            self._merge(done.node, merged)
        self._anchor(done.anchor, done.node, done.size)
        self._add(done.node, done.size)

    def _scalar(self, event: Any) -> Any:
        if event.implicit[0] and event.value == _MERGE:
            return _MERGE
        if event.tag in (None, "!"):
            return scalars.plain(event.value) if event.implicit[0] else event.value
        if event.tag in scalars.TAGS:
            return scalars.tagged(event.value, event.tag)
        self._tell(self._mark(event), file_errors.BAD_TAG("", found=event.tag))
        return event.value

    def _anchor(self, anchor: str | None, node: YamlNode, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)

    def _alias(self, event: Any) -> None:
        mark = self._mark(event)
        if event.anchor not in self._anchors:
            raise stop(mark, file_errors.BAD_ALIAS("", found=f"*{event.anchor}"))
        node, size = self._anchors[event.anchor]
        self._add(node, size, mark)

    def _add(self, node: YamlNode, size: int, mark: Mark | None = None) -> None:
        """Put a finished value where it belongs."""
        if not self._open:
            if node.value is not None:
                self.documents.append(node)
            return
        parent = self._open[-1]
        parent.size += size
        if parent.size > MAX_NODES:
            found = "the aliases repeat too much"
            limit = f"{MAX_NODES} values"
            raise stop(mark or node.mark, file_errors.TOO_LARGE("", found=found, limit=limit))
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif parent.key is None:
            parent.key = YamlNode(mark or node.mark, node.value)
        else:
            self._entry(parent, parent.key, node)
            parent.key = None

    def _entry(self, parent: _Open, key: YamlNode, node: YamlNode) -> None:
        if isinstance(key.value, (dict, list)):
            found = "map" if isinstance(key.value, dict) else "list"
            self._tell(key.mark, file_errors.BAD_KEY("", found=found))
        elif key.value is _MERGE:
            parent.merges += node.items if isinstance(node.value, list) else [node]
        elif key.value in parent.node.keys:
            first = parent.node.keys[key.value].line
            name = str(key.value)
            self._tell(key.mark, file_errors.DUPLICATE_KEY("", key=name, line=first))
        else:
            parent.node.mapping[key.value] = node
            parent.node.keys[key.value] = key.mark

    def _merge(self, into: YamlNode, merged: YamlNode) -> None:
        """``<<``: what is written here wins, and of several the first."""
        if not isinstance(merged.value, dict):
            self._tell(
                merged.mark, file_errors.BAD_YAML("", detail="<< takes a map", advice="correct it")
            )
        for key, node in merged.mapping.items():
            if key not in into.keys:
                into.mapping[key] = node
                into.keys[key] = merged.keys[key]

    def _tell(self, mark: Mark, problem: Any) -> None:
        self.findings.append(Finding(mark=mark, problem=problem))


def keys_as_text(node: YamlNode) -> YamlNode:
    """The same with keys as JSON has them, which is what kubectl sends."""
    if isinstance(node.value, dict):
        entries: dict[Key, YamlNode] = {}
        marks: dict[Key, Mark] = {}
        for key, child in node.value.items():
            entries[_key_text(key)] = keys_as_text(child)
            marks[_key_text(key)] = node.keys[key]
        return YamlNode(node.mark, entries, marks, node.origin)
    if isinstance(node.value, list):
        return YamlNode(node.mark, [keys_as_text(item) for item in node.value], {}, node.origin)
    return node


def _key_text(key: Key) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    return "null" if key is None else str(key)
