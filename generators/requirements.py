"""``python -m generators.requirements``: write the hashed requirements of the image anew.

They come from pyproject.toml and constraints.txt.  pip says which file it would install for each
platform, and the hash that the index gives for it; nothing but metadata is downloaded.  The files
name no host, so they serve with every mirror.
"""

import collections
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from generators.checkout import ROOT

CONSTRAINTS = ROOT / "constraints.txt"
RUNTIME = ROOT / "operator" / "requirements.txt"
BUILD = ROOT / "operator" / "requirements-build.txt"

PYTHON = "3.12"  # the image's
PLATFORMS = {
    "amd64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "arm64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
}
_HEADER = """\
# {what}, with the hashes of their wheels for
# Python {python} on Linux, amd64 and arm64.  Made by `make requirements`; do not edit.
"""
_PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:(?P<hash>[0-9a-f]{64})$", re.MULTILINE)
_SEPARATOR = re.compile(r"[-_.]+")

Pins = dict[str, tuple[str, set[str]]]  # name to version and hashes


def files() -> dict[Path, str]:
    """Both files' content; asks the package index."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, build = project["project"]["dependencies"], project["build-system"]["requires"]
    return {
        RUNTIME: _render("What the operator needs", _locked(runtime)),
        BUILD: _render("What its wheel is built with", _locked(build)),
    }


def canonical(name: str) -> str:
    """A package's name as the index compares it."""
    return _SEPARATOR.sub("-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Versions by name, of a requirements or constraints file."""
    return {canonical(match["name"]): match["version"] for match in _PACKAGE.finditer(text)}


def hashes(text: str) -> dict[str, list[str]]:
    """Hashes by name, of a requirements file."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", text):
        if match := _PACKAGE.match(entry):
            found[canonical(match["name"])] = _HASH.findall(entry.replace(" \\", ""))
    return found


def _locked(requirements: Iterable[str]) -> Pins:
    found: dict[str, set[str]] = collections.defaultdict(set)
    versions: dict[str, str] = {}
    for tags in PLATFORMS.values():
        for each in _report(requirements, tags)["install"]:
            name = canonical(each["metadata"]["name"])
            versions[name] = each["metadata"]["version"]
            found[name].add(each["download_info"]["archive_info"]["hashes"]["sha256"])
    return {name: (versions[name], found[name]) for name in sorted(found)}


def _report(requirements: Iterable[str], tags: Iterable[str]) -> Any:
    """What pip would install from wheels alone on a platform with these tags."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"),
        *(f"--platform={tag}" for tag in tags),
        *("--abi=cp312", "--abi=abi3", "--abi=none", "--target=unused", "--report=-"),
        *(f"--constraint={CONSTRAINTS}", *requirements),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def _render(what: str, locked: Mapping[str, tuple[str, set[str]]]) -> str:
    lines = [_HEADER.format(what=what, python=PYTHON)]
    for name, (version, found) in locked.items():
        parts = [f"{name}=={version}", *(f"    --hash=sha256:{each}" for each in sorted(found))]
        lines.append(" \\\n".join(parts) + "\n")
    return "".join(lines)


def main() -> int:
    """Write both files; 0."""
    for path, content in files().items():
        path.write_text(content)
        print(f"{path.name}: {len(pins(content))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
