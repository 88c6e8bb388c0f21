"""Root file systems with a Python interpreter, made of the one that runs this.

What the interpreter, its extension modules and those of the packages are linked against is taken
from this machine, at the same paths; so are a shell and a few programs for whoever looks around.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sglang_operator.testing import errors

PACKAGES = Path("app")  # beside PYTHONPATH, in the image
PYTHON = "/usr/local/bin/python3"
PROGRAMS = ("sh", "cat", "ls", "sleep", "env")
# Parts of the standard library that no server imports.
LEFT_OUT = {
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "tkinter", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__", "__phello__"),
}
LINKED = re.compile(r"(?:=>\s*|^\s*)(/\S+)\s+\(0x", re.MULTILINE)
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "hosts: files dns\n",
}


def interpreter_files() -> Iterator[tuple[Path, Path]]:
    """Source and place, relative to the root, of the interpreter and its standard library."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path("usr/local/lib") / version
    for name in sorted({"stdlib", "platstdlib"}):
        folder = Path(sysconfig.get_path(name, vars=_base()))
        for file in _walk(folder):
            yield file, library / file.relative_to(folder)


def interpreter() -> Path:
    """The interpreter's program itself, without virtual environments around it."""
    return Path(sys.executable).resolve()


def distribution_files(names: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Source and place of some installed distributions and of all that they require.

    Raises KitError for one that is not installed.
    """
    for name in closure(names):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                yield source, PACKAGES / Path(*file.parts)


def closure(names: Iterable[str]) -> list[str]:
    """Some distributions and those that they require, directly or not, extras left out.

    A requirement that is not installed is one of another platform's; a name asked for must be.
    """
    found: dict[str, None] = {}
    pending = [(name, True) for name in names]
    while pending:
        name, wanted = pending.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in found:
            continue
        try:
            required = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            if wanted:
                raise errors.KitError(f"distribution {name!r} is not installed here") from None
            continue
        found[key] = None
        pending += [(each, False) for each in named(required)]
    return sorted(found)


def named(requirements: Iterable[str]) -> list[str]:
    """The names in some requirements (PEP 508), those of extras left out."""
    matches = (REQUIREMENT.match(line) for line in requirements if "extra ==" not in line)
    return [match[0] for match in matches if match]


def source_files(folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Source and place of packages that are given by their folders."""
    for folder in folders:
        for file in _walk(folder):
            yield file, PACKAGES / folder.name / file.relative_to(folder)


def write(files: Iterable[tuple[Path, Path]], root: Path) -> None:
    """Copy files to their places and compile the Python among them."""
    for source, place in files:
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)
    # Hashes instead of times: what is in a layer has none.
    subprocess.run(
        [
            *(sys.executable, "-m", "compileall", "-q", "-j0"),
            *("--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", str(root)),
        ],
        check=False,  # templates and old syntax among the files do not compile
        stdout=subprocess.DEVNULL,
    )


def write_texts(texts: Mapping[str, str], root: Path) -> None:
    """Write files by their place; those in a ``bin`` can be executed."""
    for place, text in texts.items():
        target = root / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        if target.parent.name == "bin":
            target.chmod(0o755)


def write_base(root: Path) -> None:
    """The interpreter, a few programs, what all of them are linked against, and accounts."""
    write(interpreter_files(), root)
    programs = {PYTHON.lstrip("/"): interpreter()}
    for name in PROGRAMS:
        if found := shutil.which(name):
            programs[f"bin/{name}"] = Path(found).resolve()
    for place, source in programs.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
    for name, text in ACCOUNTS.items():
        file = root / "etc" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    for folder in ("tmp", "proc", "sys", "dev", "root", "var/tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp"):
        (root / folder).chmod(0o1777)
    write_libraries([*programs.values(), *root.rglob("*.so")], root)


def write_libraries(binaries: Iterable[Path], root: Path) -> None:
    """Copy the shared libraries that programs and extension modules need, to where they are."""
    binaries = list(binaries)
    if not binaries:
        return
    linked = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False
    ).stdout
    for library in sorted(set(LINKED.findall(linked))):
        if Path(library).is_relative_to(root):
            continue  # one of a package's own
        target = root / library.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(library, target)
            target.chmod(0o755)


def _base() -> dict[str, str]:
    return {
        "base": sys.base_prefix,
        "platbase": sys.base_exec_prefix,
        "installed_base": sys.base_prefix,
        "installed_platbase": sys.base_exec_prefix,
    }


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if entry.name not in LEFT_OUT and not entry.name.startswith("config-"):
                yield from _walk(entry)
        elif entry.is_file() and not entry.name.endswith((".a", ".pyc")):
            yield entry
