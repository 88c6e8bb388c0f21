"""Clones of trainers' projects: a folder to import from, and the commit that it is at."""

import contextlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A project's folders, below ``path``."""

    path: Path
    commit: str


@contextlib.contextmanager
def checkout(path: Path, package: str, *beside: str, how: str) -> Iterator[Source]:
    """A clone, with or without a work tree, for its package and the folders beside that.

    ``how``: to give one, in words.  Raises ValueError if there is no such package.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder. {how}")
    commit = _git(path, "rev-parse", "HEAD")
    if (path / package).is_dir():
        changed = _git(path, "status", "--porcelain", "--", package, *beside)
        yield Source(path, (commit[:8] or "no git") + ("+changes" if changed else ""))
        return
    if not commit or not _git(path, "ls-tree", "HEAD", package):
        raise ValueError(f"{path} holds no package {package}. {how}")
    with tempfile.TemporaryDirectory(prefix=f"{package}-source-") as folder:
        archive = Path(folder) / "source.tar"
        command = ["git", "-C", str(path), "archive", "-o", str(archive), commit, package]
        subprocess.run([*command, *beside], check=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        yield Source(Path(folder), commit[:8])


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
