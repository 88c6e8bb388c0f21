"""The control groups of one plane: a folder of its name in each hierarchy of the machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
V2 = ROOT / "cgroup.controllers"
# What kubelet insists on, of version 1.
NEEDED_V1 = ("cpu", "cpuacct", "cpuset", "memory")
NEEDED_V2 = ("cpu", "cpuset", "memory", "pids")


def version() -> int:
    """Which control groups the machine has: 1 or 2."""
    return 2 if V2.exists() else 1


def missing() -> str | None:
    """Why no control groups can be made here, or None."""
    if version() == 2:
        lacking = set(NEEDED_V2) - set(V2.read_text().split())
    else:
        lacking = {name for name in NEEDED_V1 if not (ROOT / name / "tasks").exists()}
    if lacking:
        return f"{ROOT} lacks the controllers {', '.join(sorted(lacking))}"
    return None


def folders(name: str) -> list[Path]:
    """Where the groups of a plane lie, whether or not they exist."""
    if version() == 2:
        return [ROOT / name]
    hierarchies = {path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()}
    return [path / name for path in sorted(hierarchies)]


def create(name: str) -> list[Path]:
    """Make a group in each hierarchy and return them; ``a/b`` lies in an ``a`` made before.

    Raises OSError.
    """
    made = folders(name)
    for folder in made:
        if version() == 2:
            _delegate(folder.parent)
        folder.mkdir(exist_ok=True)
        if version() == 1:
            _inherit(folder)
    return made


def _inherit(folder: Path) -> None:
    """A new group of version 1 has no processors and no memory until it is told."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / file).exists():
            (folder / file).write_text((folder.parent / file).read_text())


def _delegate(group: Path) -> None:
    """Let the groups below have controllers of their own."""
    control = group / "cgroup.subtree_control"
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one that cannot be had is kubelet's to complain about
            control.write_text(f"+{controller}")
