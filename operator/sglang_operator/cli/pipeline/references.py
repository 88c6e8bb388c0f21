"""``${...}`` in a ROLL file, resolved for one role at a time.

ROLL leaves them to OmegaConf, and so does this; only a plain ``${some.field}``, which is nearly
all there is, is followed here, so that the place of the value is known and ``lint`` need not load
OmegaConf.  A test compares the two.  Resolvers that read the environment are off unless asked for.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sglang_operator.api import errors
from sglang_operator.cli import file_errors
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.yaml_tree import nodes
from sglang_operator.cli.yaml_tree.nodes import Key, YamlNode

_PLAIN = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}", re.ASCII)
_ENVIRONMENT = re.compile(r"\$\{\s*(?:oc\.)?env\s*:")
_RESOLVER = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:")
_OWN_RESOLVERS = re.compile(r"oc\.\w[\w.]*")
_MISSING = "???"
_MAX_CHAIN = 64  # references from one to the next
_MAX_CALLS = 400_000  # Python calls that OmegaConf may make for one value: seconds
_MAX_VALUES = 20_000  # that one look at the configuration may resolve
_MAX_TEXT = 1 << 24  # characters that one value could grow to

Path = tuple[Key, ...]
Chain = tuple[Path, ...]  # where the references stand that led to a value


class _TooMuchError(BaseException):
    """OmegaConf was still at work after its budget; nothing below may catch this."""


class _UnresolvedError(Exception):
    """A reference that leads nowhere, and why."""


class Resolver:
    """Resolves what is below one configuration; tells what it cannot."""

    def __init__(self, root: YamlNode, *, environment: bool) -> None:
        self.findings: list[Finding] = []
        self._root = root
        self._environment = environment
        self._config: Any = None
        self._growth: int | None = None
        self._left = _MAX_VALUES

    def at(self, *path: Key) -> YamlNode | None:
        """The value at a path with everything in it resolved; None if there is none."""
        self._left = _MAX_VALUES
        node: YamlNode | None = self._root
        below: Path = ()
        for key in path:
            if node is None:
                return None
            owner, below = self._followed(node, below)
            node, below = owner.mapping.get(key), (*below, key)
        return None if node is None else self._resolved(node, below, ())

    def peek(self, *path: Key) -> YamlNode | None:
        """The same where only a look is needed: what cannot be resolved does not matter."""
        before = len(self.findings)
        found = self.at(*path)
        del self.findings[before:]
        return found

    def _followed(self, node: YamlNode, path: Path) -> tuple[YamlNode, Path]:
        """A mapping that is itself a plain reference, as what it refers to."""
        for _ in range(_MAX_CHAIN):
            target = self._target(node)
            if target is None:
                return node, path
            node, path = target
        return node, path

    def _target(self, node: YamlNode) -> tuple[YamlNode, Path] | None:
        match = _PLAIN.fullmatch(node.value) if isinstance(node.value, str) else None
        if match is None:
            return None
        path = tuple(match[1].split("."))
        found = self._root.get(*path)
        return None if found is None else (found, path)

    def _resolved(self, node: YamlNode, path: Path, chain: Chain) -> YamlNode:
        self._left -= 1
        if isinstance(node.value, dict):
            children = {
                key: self._resolved(child, (*path, key), chain) for key, child in node.value.items()
            }
            return YamlNode(node.mark, children, dict(node.keys), node.origin)
        if isinstance(node.value, list):
            items = [
                self._resolved(item, (*path, index), chain) for index, item in enumerate(node.value)
            ]
            return YamlNode(node.mark, items, {}, node.origin)
        if not isinstance(node.value, str) or not ("${" in node.value or node.value == _MISSING):
            return node
        return self._text(node, node.value, path, chain)

    def _text(self, node: YamlNode, text: str, path: Path, chain: Chain) -> YamlNode:
        """A text with references; as it is, with a finding, if they cannot be resolved."""
        try:
            if text == _MISSING:
                raise _UnresolvedError
            target = self._target(node)
            if target is None:
                return nodes.of(self._asked(text, path), node.mark, errors.shown(text))
            if self._left < 0:
                raise _UnresolvedError("it grows without end")
            chain = (*chain, path)
            if len(chain) > _MAX_CHAIN or _is_around(target[1], chain):
                raise _UnresolvedError("it refers to itself, or through too many others")
            found = self._resolved(*target, chain)
            return _moved(found, ".".join(map(str, target[1])))
        except _UnresolvedError as error:
            self.findings.append(Finding(mark=node.mark, problem=_problem(text, path, str(error))))
            return node

    def _asked(self, text: str, path: Path) -> object:
        """What OmegaConf makes of it."""
        name = _RESOLVER.search(text)
        if _ENVIRONMENT.search(text) and not self._environment:
            raise _UnresolvedError
        if name is not None and not _OWN_RESOLVERS.fullmatch(name[1]):
            raise _UnresolvedError
        if self._possible_growth() > _MAX_TEXT:
            raise _UnresolvedError("the file has too many references for its size")
        import omegaconf  # late: it takes a tenth of a second

        try:
            with _budget(), _resolvers(environment=self._environment):
                return self._selected(omegaconf, path)
        except _TooMuchError:
            raise _UnresolvedError("it grows without end") from None
        except omegaconf.errors.OmegaConfBaseException as error:
            detail = str(error).strip().partition("\n")[0]
            raise _UnresolvedError(f"OmegaConf says {errors.shown(detail)}") from error
        except (RecursionError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise _UnresolvedError("OmegaConf does not understand it") from error

    def _selected(self, omegaconf: Any, path: Path) -> object:
        if self._config is None:
            self._config = omegaconf.OmegaConf.create(nodes.plain(self._root))
        found = self._config
        for key in path:
            found = found[key]
        if omegaconf.OmegaConf.is_config(found):
            found = omegaconf.OmegaConf.to_container(found, resolve=True, throw_on_missing=True)
        if not isinstance(found, (dict, list, str, int, float, bool, type(None))):
            raise TypeError(type(found).__name__)
        return found

    def _possible_growth(self) -> int:
        """References of the whole file times its longest text: no value gets longer at once."""
        if self._growth is None:
            texts = [leaf.value for leaf in nodes.leaves(self._root) if isinstance(leaf.value, str)]
            references = sum(text.count("${") for text in texts)
            self._growth = references * max(map(len, texts), default=0)
        return self._growth


def _is_around(target: Path, chain: Chain) -> bool:
    """Whether what is referred to holds one of the references that led to it."""
    return any(path[: len(target)] == target for path in chain)


def _moved(found: YamlNode, origin: str) -> YamlNode:
    """A value used elsewhere, with the name of the field that it was taken from."""
    found = YamlNode(found.mark, found.value, found.keys, found.origin or origin)
    if isinstance(found.value, dict):
        found.value = {key: _moved(child, f"{origin}.{key}") for key, child in found.value.items()}
    elif isinstance(found.value, list):
        found.value = [_moved(item, f"{origin}[{i}]") for i, item in enumerate(found.value)]
    return found


def _problem(text: str, path: Path, detail: str) -> errors.Problem:
    field, found = ".".join(map(str, path)), errors.shown(text)
    if text == _MISSING:
        return file_errors.VALUE_MISSING(field)
    if detail:
        return file_errors.REFERENCE_UNKNOWN(field, found=found, detail=detail)
    if _ENVIRONMENT.search(text):
        return file_errors.REFERENCE_ENVIRONMENT(field, found=found)
    return file_errors.REFERENCE_RESOLVER(field, found=found)


@contextlib.contextmanager
def _resolvers(*, environment: bool) -> Iterator[None]:
    """OmegaConf's own resolvers, with the one that reads the environment or without it."""
    from omegaconf import OmegaConf

    if environment:
        yield
        return
    OmegaConf.clear_resolver("oc.env")
    try:
        yield
    finally:
        OmegaConf.clear_resolvers()  # which brings back OmegaConf's own


@contextlib.contextmanager
def _budget() -> Iterator[None]:
    """An end to OmegaConf's work: its expressions can double with each line of a file."""
    left = _MAX_CALLS
    before = sys.getprofile()

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooMuchError

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
