"""The kit is a distribution of its own, for the operator of its own version."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sglang_operator
from sglang_operator.testing import roots

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "operator/testkit/pyproject.toml").read_text())["project"]
PART = "sglang_operator/testing"


def tree(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def imported(module: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """The file of a module in a process that has these folders, and no others, on its path."""
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import {module}; print({module}.__file__)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=path[0],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def operator(tmp_path: Path) -> Path:
    text = (roots.OPERATOR / "__init__.py").read_text()
    return tree(tmp_path / "operator", **{"sglang_operator/__init__": text})


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return tree(tmp_path / "kit", **{f"{PART}/__init__": ""})


def test_the_kit_goes_with_the_operator_of_its_version():
    assert PROJECT["version"] == sglang_operator.__version__
    assert f"sglang-operator=={sglang_operator.__version__}" in PROJECT["dependencies"]


@pytest.mark.parametrize("kit_first", [False, True])
def test_it_is_found_beside_the_operator(operator, kit, kit_first):
    path = (kit, operator) if kit_first else (operator, kit)
    found = imported("sglang_operator.testing", *path)
    assert found.stdout.strip() == str(kit / PART / "__init__.py"), found.stderr


def test_it_is_found_inside_the_operator(operator):
    tree(operator, **{f"{PART}/__init__": ""})
    found = imported("sglang_operator.testing", operator)
    assert found.stdout.strip() == str(operator / PART / "__init__.py"), found.stderr


def test_the_operator_works_without_it(operator):
    assert imported("sglang_operator", operator).returncode == 0
    missing = imported("sglang_operator.testing", operator)
    assert missing.stderr.strip().endswith("No module named 'sglang_operator.testing'")


def test_another_operator_on_the_path_lends_nothing(operator, tmp_path):
    """Else what one checkout has lost would be found in another, and its kit taken for ours."""
    other = tree(
        tmp_path / "other",
        **{"sglang_operator/__init__": "", "sglang_operator/gone": "", f"{PART}/__init__": ""},
    )
    for module in ("gone", "testing"):
        assert imported(f"sglang_operator.{module}", operator, other).returncode == 1


def test_another_process_imports_both_as_this_one_does():
    for package, module in ((roots.OPERATOR, "api"), (roots.KIT, "testing")):
        found = imported(
            f"sglang_operator.{module}", *map(Path, roots.python_path().split(os.pathsep))
        )
        assert found.stdout.strip() == str(package / module / "__init__.py"), found.stderr
