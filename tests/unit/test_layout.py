"""The tree reads as the data flow: this is what keeps it so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sglang_operator
from sglang_operator import testing

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "operator" / "sglang_operator"
KIT = ROOT / "operator" / "testkit" / "sglang_operator"

# In the direction of the flow: a module imports from its own layer and from those before it.
LAYERS = (
    "api",
    "roll",
    "engine",
    "planner",
    "desired",
    "actions",
    "failures",
    "status",
    "transitions",
    "backoff",
    "supervision",
    "sending",
    "receiving",
    "clocks",
    "cluster",
    "fleet",
    "picture",
    "controller",
    "__main__",
)
PURE = (*LAYERS[: LAYERS.index("supervision")], "picture")
# They import what they need, and nothing imports them.
LEAVES = ("cli", "client", "testing", "__main__")

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


def _imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports, with the names taken from packages of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            if node.module == "sglang_operator":
                yield from (f"sglang_operator.{alias.name}" for alias in node.names)
            else:
                yield node.module


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


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
        assert list(_imports(_parse(path))) == ["pkgutil", "pathlib"]
        return
    targets = {
        name.split(".")[1]
        for name in _imports(_parse(path))
        if name.startswith("sglang_operator.") and name != "sglang_operator.__version__"
    }
    above = LAYERS if layer in LEAVES else LAYERS[: LAYERS.index(layer)]
    # "kubectl sglang weights" is the trainers' client in a terminal.
    besides = {"client"} if layer == "cli" else set()
    assert targets <= {*above, *besides, layer}


@pytest.mark.parametrize("path", [p for p in _modules() if _layer(p) in PURE], ids=_id)
def test_pure_modules_touch_nothing_outside(path):
    tree = _parse(path)
    assert not {name.split(".")[0] for name in _imports(tree)} & IMPURE
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert not called & IMPURE_CALLS


def test_only_the_shell_imports_kopf():
    users = [_id(path) for path in _modules() if "kopf" in set(_imports(_parse(path)))]
    assert users == ["controller/shell.py"]


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", _modules(), ids=_id)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(_parse(path)) or not path.read_text().strip()


def test_names_of_labels_are_built_in_one_place():
    """No other module spells out a key of the operator's or Kubernetes' common labels."""
    for path in _modules():
        if _id(path) == "api/names.py" or _layer(path) == "testing":
            continue
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                spelled = node.value.startswith(("sglang-operator.dev/", "app.kubernetes.io/"))
                assert not spelled, f"{path}: {node.value}"
