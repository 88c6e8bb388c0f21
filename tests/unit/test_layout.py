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
UNIT = ROOT / "tests" / "unit"

# In the direction of the flow: a module imports from its own layer and from those before it.
LAYERS = (
    "api",
    "backoff",
    "roll",
    "engine",
    "planner",
    "desired",
    "actions",
    "failures",
    "status",
    "transitions",
    "supervision",
    "sending",
    "receiving",
    "clocks",
    "cluster",
    "fleet",
    "view",
    "controller",
    "__main__",
)
PURE = (*LAYERS[: LAYERS.index("supervision")], "view")
# They import what they need, and nothing imports them.
LEAVES = ("cli", "client", "testing", "__main__")

# Each of their modules has a test file of its name, at the same place below tests/unit, or a line
# that says whose test covers it.  To hold another package to it, name it here.
MIRRORED = ("cli", "view")
COVERED_BY = {
    "cli/check_files.py": "cli/test_lint.py",
    "cli/check_object.py": "cli/test_lint.py",
    "cli/checks/addresses.py": "cli/test_doctor.py",
    "cli/checks/check.py": "cli/test_doctor.py",
    "cli/checks/deployed.py": "cli/test_doctor.py",
    "cli/checks/limits.py": "cli/test_doctor.py",
    "cli/checks/occupancy.py": "cli/test_doctor.py",
    "cli/checks/operators.py": "cli/test_doctor.py",
    "cli/cluster/live_pool.py": "cli/test_diff.py",
    "cli/cluster/operator_leases.py": "cli/test_status.py",
    "cli/file_errors.py": "cli/test_lint.py",
    "cli/findings.py": "cli/test_lint.py",
    "cli/pipeline/notes.py": "cli/test_convert.py",
    "cli/pipeline/objects.py": "cli/test_convert.py",
    "cli/pipeline/roles.py": "cli/test_convert.py",
    "cli/redaction.py": "cli/test_render.py",
    "cli/reference.py": "cli/test_generate.py",
    "cli/rollout_simulation.py": "cli/test_diff.py",
    "cli/structure.py": "cli/test_lint.py",
    "cli/texts.py": "test_texts.py",
    "cli/yaml_tree/nodes.py": "cli/yaml_tree/test_emitting.py",
    "cli/yaml_tree/reading.py": "cli/test_lint.py",
    "cli/yaml_tree/scalars.py": "cli/pipeline/test_references.py",
    "view/ages.py": "cli/cluster/test_verdict.py",
    "view/cluster_view.py": "view/test_grid.py",
    "view/colours.py": "view/test_pictures.py",
    "view/page.py": "view/test_pictures.py",
    "view/refused_pool.py": "cli/cluster/test_verdict.py",
    "view/svg.py": "view/test_pictures.py",
    "view/text.py": "view/test_pictures.py",
    "view/texts.py": "test_texts.py",
}

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


def _mirror(path: Path) -> Path:
    """Where the test of a module stands."""
    module = path.relative_to(PACKAGE)
    return UNIT / module.with_name(f"test_{module.name}")


@pytest.mark.parametrize("package", MIRRORED)
def test_the_test_of_a_module_is_found_by_its_name(package):
    nobodys = [
        _id(path)
        for path in _modules()
        if _layer(path) == package and path.name != "__init__.py"
        if not _mirror(path).exists() and _id(path) not in COVERED_BY
    ]
    assert not nobodys, "no test file of that name, nor a line in COVERED_BY"


def test_who_covers_a_module_without_a_mirror_is_there():
    known = {_id(path): path for path in _modules()}
    for module, test in COVERED_BY.items():
        assert module in known, f"{module} is gone: take its line out"
        assert not _mirror(known[module]).exists(), f"{module} has a mirror: take its line out"
        assert (UNIT / test).exists(), f"{test} is gone: say who covers {module} now"
