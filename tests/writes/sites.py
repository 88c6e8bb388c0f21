"""The writes, found in the source: each place that names a method which changes something."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "operator" / "sglang_operator"
# What speaks to the API server; ``fleet`` and ``client.calls`` speak to engines.
PLACES = ("kube/*.py", "cluster/*.py", "controller/*.py", "client/cluster.py")
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, order=True)
class Site:
    """One write: the function that sends it, and where its text stands."""

    path: str  # below the package
    function: str
    method: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.path}:{self.function} {self.method}"

    def holds(self, file: str, line: int) -> bool:
        """Whether this line of this file is within the call."""
        return self.first <= line <= self.last and file == str(PACKAGE / self.path)


@cache
def sites() -> tuple[Site, ...]:
    """All of them, in the order of the source."""
    found = []
    for pattern in PLACES:
        for path in sorted(PACKAGE.glob(pattern)):
            tree = ast.parse(path.read_text())
            found += list(_in_module(tree, str(path.relative_to(PACKAGE))))
    return tuple(found)


def _in_module(tree: ast.Module, path: str) -> Iterator[Site]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in _own_calls(node):
            method = _method(call)
            if method is not None:
                last = call.end_lineno or call.lineno
                yield Site(path, node.name, method, call.lineno, last)


def _own_calls(function: ast.AST) -> Iterator[ast.Call]:
    """The calls in a function, without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _own_calls(child)


def _method(call: ast.Call) -> str | None:
    for value in call.args[:1]:
        if isinstance(value, ast.Constant) and value.value in WRITES:
            return str(value.value)
    return None
