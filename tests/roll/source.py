"""A checkout of ROLL: the folder to import from, and the commit that it is at."""

import contextlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WANTED = "8eb27cc2"  # what the strategy was written against
HOW = (
    f"No checkout of ROLL is given: make roll ROLL_SOURCE=/path/to/ROLL, a clone of alibaba/ROLL "
    f"(read at {WANTED}). Without one, make test goes on with tests/data/roll-interface.json, the "
    "table of the last run."
)


@dataclass(frozen=True)
class Source:
    """ROLL's packages and examples, below ``path``."""

    path: Path
    commit: str


@contextlib.contextmanager
def checkout(path: Path) -> Iterator[Source]:
    """A clone, with or without a work tree.  Raises ValueError if it is none of ROLL."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder. {HOW}")
    if (path / "roll").is_dir():
        changed = _git(path, "status", "--porcelain", "--", "roll", "examples")
        commit = _git(path, "rev-parse", "HEAD")[:8] or "no git"
        yield Source(path, commit + ("+changes" if changed else ""))
        return
    commit = _git(path, "rev-parse", "HEAD")
    if not commit or not _git(path, "ls-tree", "HEAD", "roll"):
        raise ValueError(f"{path} holds no package roll. {HOW}")
    with tempfile.TemporaryDirectory(prefix="roll-source-") as folder:
        archive = Path(folder) / "roll.tar"
        command = ["git", "-C", str(path), "archive", "-o", str(archive), commit, "roll"]
        subprocess.run([*command, "examples"], check=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        yield Source(Path(folder), commit[:8])


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
