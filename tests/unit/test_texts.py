"""Each text stands beside who says it: the operator's in ``api``, others' in their own package."""

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.test_layout import PACKAGE

# The packages for people at a terminal and the trainers' client have texts of their own.
OWNERS = ("api", "cli", "client", "kube", "memory", "placement", "scheduling", "view")


def _named(owner: str) -> set[str]:
    tree = ast.parse((PACKAGE / owner / "texts.py").read_text())
    return {*_assigned(tree), *(n.name for n in tree.body if isinstance(n, ast.FunctionDef))}


def _assigned(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name):
                yield target.id


@pytest.mark.parametrize("owner", OWNERS)
def test_no_text_takes_the_place_of_another_of_its_name(owner):
    found = Counter(_assigned(ast.parse((PACKAGE / owner / "texts.py").read_text())))
    assert not [name for name, times in found.items() if times > 1]


@dataclass(frozen=True)
class Taken:
    """What a module says of other modules and their parts, without its syntax tree."""

    imports: tuple[ast.ImportFrom, ...]
    parts: frozenset[tuple[str, str]]  # texts.NAME: texts, NAME


@functools.cache
def _taken(path: Path) -> Taken:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return Taken(
        imports=tuple(node for node in nodes if isinstance(node, ast.ImportFrom)),
        parts=frozenset(
            (node.value.id, node.attr)
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        ),
    )


def _used(path: Path, owner: str) -> Iterator[str]:
    """The texts of this owner that a module says."""
    taken = _taken(path)
    names = [(node.module, alias) for node in taken.imports for alias in node.names]
    yield from (alias.name for of, alias in names if of == f"sglang_operator.{owner}.texts")
    aliases = {
        alias.asname or alias.name
        for of, alias in names
        if of == f"sglang_operator.{owner}" and alias.name == "texts"
    }
    yield from (name for known, name in taken.parts if known in aliases)


@functools.cache
def _users(owner: str) -> dict[str, set[str]]:
    """The packages that use each text."""
    users: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if "schemas" in path.parts or package == "testing":
            continue
        for name in _used(path, owner):
            users[name].add(package)
    return users


@pytest.mark.parametrize("owner", OWNERS)
def test_every_text_is_said(owner):
    assert not _named(owner) - set(_users(owner))


def test_the_operators_texts_are_said_by_the_operator():
    """What only commands and pictures say stands beside them."""
    people = {"cli", "view", "client"}
    theirs = {name for name, users in _users("api").items() if users <= people}
    assert not theirs


@pytest.mark.parametrize(
    "owner", [owner for owner in OWNERS if owner not in ("api", "scheduling", "view")]
)
def test_other_texts_are_said_in_their_own_package(owner):
    assert {package for users in _users(owner).values() for package in users} <= {owner, "cli"}
