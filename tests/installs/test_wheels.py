"""The wheels of the operator and of the test kit, as ``make build`` makes them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from generators.checkout import ROOT

KIT = "sglang_operator/testing/"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, ROOT / "operator" / "testkit"):
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def contents(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command with what is installed in a folder, and third parties' packages from here."""
    return subprocess.run(
        [sys.executable, "-P", *command],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def installed(folder: Path, *wheels: Path) -> Path:
    command = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", *command, *map(str, wheels)], check=True)
    return folder


def test_no_file_is_in_both(wheels):
    operator, kit = (contents(wheels[name]) for name in sorted(wheels))
    assert not {name for name in operator if name.startswith(KIT)}
    assert {name for name in kit if not name.startswith(KIT)} == set()
    assert f"{KIT}manifests/crd/sglanginferences.yaml" in kit


def test_side_by_side_they_are_one_package(wheels, tmp_path):
    folder = installed(tmp_path / "both", *wheels.values())
    code = "from sglang_operator.testing import installed; print(installed.manifests())"
    found = run(folder, "-c", code)
    assert found.stdout.strip() == str(folder / KIT / "manifests"), found.stderr


@pytest.mark.parametrize("program", ["sglang_operator", "sglang_operator.cli.main"])
def test_the_operator_alone_runs(wheels, tmp_path, program):
    folder = installed(tmp_path / "alone", wheels["sglang_operator"])
    ran = run(folder, "-m", program, "--help")
    assert ran.stdout.lower().startswith("usage:"), ran.stderr
    assert not (folder / KIT).exists()
