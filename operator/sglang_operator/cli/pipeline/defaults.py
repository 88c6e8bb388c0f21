"""A ROLL config file with the files that its Hydra ``defaults`` name.

The forms are those of ROLL's examples and what Hydra documents beside them: a file relative to
this one, ``@_here_``, ``@_global_`` or ``@a.package``, ``group: option``, ``optional``, ``_self_``.
A file that is not there is a warning: it is nearly always about environments, not about engines.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sglang_operator.api import errors
from sglang_operator.cli import file_errors
from sglang_operator.cli.findings import Finding, StopError
from sglang_operator.cli.yaml_tree import file_text, reading
from sglang_operator.cli.yaml_tree.nodes import Key, Mark, YamlNode, plain

_MAX_FILES = 32
_PACKAGE = re.compile(r"\s*#\s*@package\s+(\S+)\s*\n?")
_ENTRY = re.compile(r"(?P<optional>optional\s+)?(?P<name>[^@:]+)(?:@(?P<package>[\w.]*))?")


@dataclass(kw_only=True)
class Composed:
    """One configuration, and what is wrong with how it is put together."""

    root: YamlNode
    findings: list[Finding] = field(default_factory=list)


def compose(document: YamlNode, *, folder: Path | None) -> Composed:
    """A config with its defaults; ``folder`` is where it lies, None if it has no place."""
    composer = _Composer(folder)
    root = composer.compose(document, folder, ())
    for key in ("defaults", "hydra"):
        root.mapping.pop(key, None)
        root.keys.pop(key, None)
    return Composed(root=root, findings=composer.findings)


class _Composer:
    def __init__(self, top: Path | None) -> None:
        self.findings: list[Finding] = []
        self._top = top
        self._files = 0

    def compose(
        self, document: YamlNode, folder: Path | None, package: tuple[str, ...]
    ) -> YamlNode:
        """The document over its defaults, at the place of its package."""
        result = YamlNode(document.mark, {})
        placed = False
        entries = document.get("defaults")
        if entries is not None and not isinstance(entries.value, list | None):
            found = errors.typed(plain(entries))
            self._tell(entries.mark, file_errors.DEFAULTS_ENTRY("defaults", found=found))
        for entry in entries.items if entries is not None else []:
            if entry.value == "_self_":
                placed = True
                merge(result, _at(document, package))
            else:
                self._entry(result, entry, folder, package)
        if not placed:
            merge(result, _at(document, package))
        return result

    def _entry(
        self, result: YamlNode, entry: YamlNode, folder: Path | None, package: tuple[str, ...]
    ) -> None:
        parts = _parts(entry)
        if parts is None:
            problem = file_errors.DEFAULTS_ENTRY("defaults", found=errors.shown(_spelled(entry)))
            self._tell(entry.mark, problem)
            return
        if parts.option is None or parts.name.startswith(("override ", "hydra/")):
            return
        path = self._path(parts, folder)
        loaded = self._load(path, entry.mark, parts)
        if path is None or loaded is None:
            return
        document, header = loaded
        below = _package(parts, header, package)
        merge(result, self.compose(document, path.parent, below))

    def _path(self, parts: "_Parts", folder: Path | None) -> Path | None:
        name = f"{parts.name}/{parts.option}" if parts.option else parts.name
        base = self._top if name.startswith("/") else folder
        if base is None or "\0" in name:
            return None
        relative = name.lstrip("/").removesuffix(".yaml")
        return base / f"{relative}.yaml"

    def _load(self, path: Path | None, mark: Mark, parts: "_Parts") -> tuple[YamlNode, str] | None:
        self._files += 1
        if self._files > _MAX_FILES:
            problem = file_errors.TOO_LARGE(
                "defaults", found="too many files", limit=str(_MAX_FILES)
            )
            raise StopError([Finding(mark=mark, problem=problem)])
        if path is None or not _is_file(path):
            if not parts.optional:
                found = errors.shown(str(path) if path is not None else parts.name)
                self._tell(mark, file_errors.DEFAULTS_FILE("defaults", found=found))
            return None
        text = file_text.read(str(path))
        loaded = reading.load(text, str(path))
        self.findings += loaded.findings
        header = _PACKAGE.match(text)
        document = loaded.documents[0] if loaded.documents else YamlNode(Mark(str(path), 1, 1), {})
        return document, header[1] if header else ""

    def _tell(self, mark: Mark, problem: errors.Problem) -> None:
        self.findings.append(Finding(mark=mark, problem=problem))


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have (too long) is of none."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """An entry of a defaults list."""

    name: str
    option: str | None  # empty where the name is the file
    package: str | None
    optional: bool


def _parts(entry: YamlNode) -> _Parts | None:
    """``../config/envs@_here_`` or ``group@package: option``."""
    option: object = ""
    spelled = entry.value
    if isinstance(spelled, dict) and len(spelled) == 1:
        ((key, chosen),) = spelled.items()
        spelled, option = key, chosen.value
    match = _ENTRY.fullmatch(spelled.strip()) if isinstance(spelled, str) else None
    if match is None or not (option is None or isinstance(option, str)):
        return None
    return _Parts(
        name=match["name"].strip(),
        option=option,
        package=match["package"],
        optional=match["optional"] is not None,
    )


def _spelled(entry: YamlNode) -> object:
    return entry.value if not isinstance(entry.value, (dict, list)) else "a map or a list"


def _package(parts: _Parts, header: str, current: tuple[str, ...]) -> tuple[str, ...]:
    """Where in the whole the file's content goes."""
    said = parts.package if parts.package is not None else header
    if said == "_here_":
        return current
    group = PurePosixPath(parts.name).parts
    if said == "_global_" or parts.package == "":
        return ()
    if not said:
        own = group if parts.option else group[:-1]
        return (*current, *(name for name in own if name not in ("..", ".", "/")))
    names = tuple(said.replace("_group_", ".".join(group)).split("."))
    return (*current, *names) if parts.package is not None else names


def _at(document: YamlNode, package: tuple[str, ...]) -> YamlNode:
    """The document below the keys of its package, without what is Hydra's."""
    body: dict[Key, YamlNode] = {k: v for k, v in document.mapping.items() if k != "defaults"}
    node = YamlNode(document.mark, body, dict(document.keys))
    for name in reversed(package):
        node = YamlNode(document.mark, {name: node}, {name: document.mark})
    return node


def merge(into: YamlNode, other: YamlNode) -> None:
    """Maps are merged, all else is replaced, as OmegaConf does it."""
    waiting = [(into, other)]
    while waiting:
        target, source = waiting.pop()
        assert isinstance(target.value, dict)
        for key, node in source.mapping.items():
            known = target.value.get(key)
            if known is not None and isinstance(known.value, dict) and isinstance(node.value, dict):
                copy = YamlNode(node.mark, dict(known.value), dict(known.keys), known.origin)
                target.value[key] = copy
                waiting.append((copy, node))
            else:
                target.value[key] = node
            target.keys[key] = source.keys[key]
