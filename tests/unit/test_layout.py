"""The tree reads as the data flow: this is what keeps it so."""

import ast
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sglang_operator
from sglang_operator import testing
from tests.unit.mirrors import COVERED_BY

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "operator" / "sglang_operator"
KIT = ROOT / "operator" / "testkit" / "sglang_operator"
UNIT = ROOT / "tests" / "unit"

# In the direction of the flow: a module imports from its own room and from those before it.
LAYERS = (
    "api",
    "roll",
    "engine",
    "memory",
    "weights",
    "placement",
    "scheduling",
    "pool",
    "backoff",
    "observed",
    "diagnosis",
    "plan",
    "gates",
    "ask",
    "children",
    "actions",
    "status",
    "clocks",
    "supervision",
    "receiving",
    "sending",
    "kube",
    "cluster",
    "fleet",
    "view",
    "controller",
    "__main__",
)
PURE = (*LAYERS[: LAYERS.index("clocks")], "view")
# They import what they need, and nothing imports them.
LEAVES = ("cli", "client", "testing", "__main__")
# What a trainer installs and waits for at its start is no more than this.
OF_THE_CLIENT = frozenset(
    {"api", "roll", "engine", "weights", "backoff", "clocks", "supervision", "sending", "receiving"}
    | {"kube", "placement"}
)
# "kubectl sglang" looks at a cluster and draws it; the loop is not its own.
NOT_OF_THE_CLI = frozenset({"cluster", "fleet", "controller", "__main__"})
# Their tests are beside them in another way (tests/unit/testing/test_mirror.py).
NOT_MIRRORED = ("testing", "__init__")

IMPURE = frozenset(
    {
        "aiohttp",
        "asyncio",
        "concurrent",
        "http",
        "httpx",
        "importlib",
        "io",
        "kopf",
        "kubernetes",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
        "yaml",
    }
)
IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "now", "today", "utcnow"})


def _modules() -> list[Path]:
    paths = [*PACKAGE.rglob("*.py"), *KIT.rglob("*.py")]
    return sorted(path for path in paths if "schemas" not in path.parts)


def _layer(path: Path) -> str:
    return Path(_id(path)).parts[0].removesuffix(".py")


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Full names of what a module imports, with the names taken from packages of ours."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            if node.module == "sglang_operator":
                yield from (f"sglang_operator.{alias.name}" for alias in node.names)
            else:
                yield node.module
                if node.module.startswith(PACKAGE.name):  # from a package: one of its modules
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)


@dataclass(frozen=True)
class Facts:
    """What is asked of a module, taken out of its syntax tree in one walk; the tree goes."""

    imports: tuple[str, ...]
    called: frozenset[str]  # names, of methods too
    texts: frozenset[str]  # that it spells out
    docstring: str | None


@functools.cache
def _facts(path: Path) -> Facts:
    tree = ast.parse(path.read_text(), filename=str(path))
    nodes = list(ast.walk(tree))
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return Facts(
        imports=tuple(_imports(nodes)),
        called=frozenset(
            func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
            for func in calls
        ),
        texts=frozenset(value for value in constants if isinstance(value, str)),
        docstring=ast.get_docstring(tree),
    )


def _id(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else KIT))


def test_a_source_root_is_not_a_package():
    assert not (PACKAGE.parent / "__init__.py").exists()
    assert not (KIT.parent / "__init__.py").exists()


def test_the_kit_is_a_folder_in_the_operator_s_package():
    """Two files of one name would be one where both distributions are installed."""
    assert [path.name for path in KIT.iterdir() if path.name != "__pycache__"] == ["testing"]
    assert not (PACKAGE / "testing").exists()


def test_what_runs_here_is_what_stands_here():
    assert Path(sglang_operator.__file__).parent == PACKAGE
    assert Path(testing.__file__).parent == KIT / "testing"


def test_the_layers_cover_the_whole_package():
    found = {_layer(path) for path in _modules()} - {"__init__"}
    assert found <= {*LAYERS, *LEAVES}


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_imports_go_downhill(path):
    layer = _layer(path)
    if layer == "__init__":
        assert _facts(path).imports == ("pkgutil", "pathlib")
        return
    targets = {
        name.split(".")[1]
        for name in _facts(path).imports
        if name.startswith("sglang_operator.") and name != "sglang_operator.__version__"
    }
    assert targets <= {*_may_import(layer), layer}


def _may_import(layer: str) -> set[str]:
    if layer == "client":
        return set(OF_THE_CLIENT)
    if layer == "cli":
        # "kubectl sglang weights" is the trainers' client in a terminal.
        return {*LAYERS, "client"} - NOT_OF_THE_CLI
    if layer == "testing":
        # The demo with a GPU is a trainer of its pool.
        return {*LAYERS, "client"}
    return set(LAYERS if layer in LEAVES else LAYERS[: LAYERS.index(layer)])


PURE_MODULES = [path for path in _modules() if _layer(path) in PURE]


@pytest.mark.parametrize("path", PURE_MODULES, ids=_id)
def test_pure_modules_touch_nothing_outside(path):
    assert not _facts(path).called & IMPURE_CALLS


@pytest.mark.parametrize("path", PURE_MODULES, ids=_id)
def test_what_a_pure_module_imports_is_pure_however_far_away(path):
    """Also what is imported by what it imports, and inside of functions."""
    seen, found = {path}, [path]
    while found:
        module = found.pop()
        for name, inner in _imported(module):
            assert name.split(".")[0] not in IMPURE, f"{_id(module)} imports {name}"
            if inner is not None and inner not in seen:
                seen.add(inner)
                found.append(inner)


@functools.cache
def _imported(module: Path) -> tuple[tuple[str, Path | None], ...]:
    return tuple((name, _file_of(name)) for name in _facts(module).imports)


def _file_of(name: str) -> Path | None:
    """The file of a module of ours; None of anybody else's."""
    top, _, rest = name.partition(".")
    if top != PACKAGE.name or not rest:
        return None
    place = PACKAGE.joinpath(*rest.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def test_only_the_shell_imports_kopf():
    users = [_id(path) for path in _modules() if "kopf" in _facts(path).imports]
    assert users == ["controller/shell.py"]


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_every_module_says_what_it_is_for(path):
    assert _facts(path).docstring or not path.read_text().strip()


def test_names_of_labels_are_built_in_one_place():
    """No other module spells out a key of the operator's or Kubernetes' common labels."""
    for path in _modules():
        if _id(path) == "api/names.py" or _layer(path) == "testing":
            continue
        for text in _facts(path).texts:
            spelled = text.startswith(("sglang-operator.dev/", "app.kubernetes.io/"))
            assert not spelled, f"{path}: {text}"


def _mirror(path: Path) -> Path:
    """Where the test of a module stands."""
    module = path.relative_to(PACKAGE)
    return UNIT / module.with_name(f"test_{module.name}")


def test_the_test_of_a_module_is_found_by_its_name():
    nobodys = [
        _id(path)
        for path in _modules()
        if _layer(path) not in NOT_MIRRORED and path.name != "__init__.py"
        if not _mirror(path).exists() and _id(path) not in COVERED_BY
    ]
    assert not nobodys, "no test file of that name, nor a line in tests/unit/mirrors.py"


def test_who_covers_a_module_without_a_mirror_is_there():
    known = {_id(path): path for path in _modules()}
    for module, test in COVERED_BY.items():
        assert module in known, f"{module} is gone: take its line out"
        assert not _mirror(known[module]).exists(), f"{module} has a mirror: take its line out"
        assert (UNIT / test).exists(), f"{test} is gone: say who covers {module} now"


def test_the_readme_draws_this_tree():
    text = (ROOT / "README.md").read_text()
    block = text.split("```text\noperator/sglang_operator/\n")[1].split("operator/testkit/")[0]
    entries = [line.split()[0] for line in block.splitlines() if line[2:3].strip()]
    drawn = [entry.removesuffix(".py").rstrip("/") for entry in entries]
    leaves = [leaf for leaf in LEAVES if leaf not in LAYERS and leaf != "testing"]
    assert drawn == [layer for layer in LAYERS if layer != "__main__"] + leaves


_CITED = re.compile(r":(?:class|func|mod|data):`(sglang_operator[\w.]*)`")


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_what_a_docstring_refers_to_is_there(path):
    for name in _CITED.findall(path.read_text()):
        module, _, attribute = name.rpartition(".")
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        assert found or hasattr(importlib.import_module(module), attribute), name
