"""YAML as a tree whose every value knows where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field

Key = str | int | float | bool | None
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(slots=True, eq=False)
class YamlNode:
    """One value, and where it was written.

    ``keys`` holds the places of a mapping's keys.  ``origin`` says whose value it is, if it was
    not written where it is used.
    """

    mark: Mark
    value: "Scalar | dict[Key, YamlNode] | list[YamlNode]"
    keys: dict[Key, Mark] = field(default_factory=dict)
    origin: str = ""

    @property
    def mapping(self) -> "dict[Key, YamlNode]":
        """The entries of a mapping; none of anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> "list[YamlNode]":
        """The items of a list; none of anything else."""
        return self.value if isinstance(self.value, list) else []

    def get(self, *path: Key) -> "YamlNode | None":
        """The node at a path of keys, if there is one."""
        found: YamlNode | None = self
        for key in path:
            found = found.mapping.get(key) if found is not None else None
        return found

    def text(self, *path: Key) -> str | None:
        """The text at a path of keys, if there is one and it is text."""
        found = self.get(*path)
        return found.value if found is not None and isinstance(found.value, str) else None

    def put(self, key: Key, node: "YamlNode") -> None:
        """Set an entry of a mapping; its key stands where its value does."""
        assert isinstance(self.value, dict)
        self.value[key] = node
        self.keys[key] = node.mark


def plain(node: YamlNode) -> object:
    """The value as Python has it."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def of(value: object, mark: Mark, origin: str = "") -> YamlNode:
    """A Python value as nodes that all stand at one place."""
    if isinstance(value, dict):
        children: dict[Key, YamlNode] = {key: of(item, mark, origin) for key, item in value.items()}
        return YamlNode(mark, children, dict.fromkeys(children, mark), origin)
    if isinstance(value, (list, tuple)):
        return YamlNode(mark, [of(item, mark, origin) for item in value], {}, origin)
    assert value is None or isinstance(value, (str, int, float, bool))
    return YamlNode(mark, value, {}, origin)


def leaves(node: YamlNode) -> Iterator[YamlNode]:
    """Everything in a value that is no mapping and no list."""
    waiting = [node]
    while waiting:
        top = waiting.pop()
        children = [*top.mapping.values(), *top.items]
        if not isinstance(top.value, (dict, list)):
            yield top
        waiting += reversed(children)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a field stands: its key, its value, and how much of its path was found."""

    key: Mark
    node: YamlNode
    complete: bool


def locate(root: YamlNode, path: str) -> Place:
    """The place of a field such as ``spec.extraArgs[2]``; of what holds it if it is not there.

    Names in a path may hold dots themselves, as variables and labels do, and a list may be
    passed by an index, by the ``name`` of its item, or not be mentioned at all.
    """
    key, node, rest = root.mark, root, path
    while rest:
        step = _step(node, rest)
        if step is None:
            return Place(key=key, node=node, complete=False)
        key, node, rest = step
    return Place(key=key, node=node, complete=True)


_Step = tuple[Mark, YamlNode, str]


def _step(node: YamlNode, rest: str) -> _Step | None:
    if isinstance(node.value, list):
        return _into_list(node.value, rest)
    entries = {str(key): key for key in node.mapping}
    whole = entries.get(rest)
    if whole is not None or rest in entries:
        return node.keys[whole], node.mapping[whole], ""
    fitting = [name for name in entries if rest.startswith((f"{name}.", f"{name}["))]
    if not fitting:
        return None
    name = max(fitting, key=len)
    key = entries[name]
    return node.keys[key], node.mapping[key], rest[len(name) :].removeprefix(".")


def _into_list(items: list[YamlNode], rest: str) -> _Step | None:
    if rest.startswith("["):
        inside, _, after = rest[1:].partition("]")
        item = _item(items, inside)
        return None if item is None else (item.mark, item, after.removeprefix("."))
    name, _, after = rest.partition(".")
    named = _item(items, name)
    if named is not None:
        return named.mark, named, after
    holding = (item for item in items if _step(item, rest) is not None)
    first = next(holding, None)
    return None if first is None else (first.mark, first, rest)


def _item(items: list[YamlNode], name: str) -> YamlNode | None:
    if name.isdecimal() and len(name) < 10:
        index = int(name)
        return items[index] if index < len(items) else None
    return next((item for item in items if name and item.text("name") == name), None)
