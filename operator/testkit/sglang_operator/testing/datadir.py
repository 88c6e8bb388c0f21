"""The temporary folder of a plane, which is gone when the plane is.

The guard removes it.  A folder survives only when both the owner and the guard were killed by
SIGKILL; the next plane to start finds its lock free and removes it then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from sglang_operator.testing import guard

PREFIX = "sglang-plane-"
LOCK = "lock"
KEEP = "keep"  # a folder with this file in it is left where it is


def create(*, keep: bool) -> tuple[Path, int]:
    """Make a folder; return it with the descriptor of its lock, which says that it is in use."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    if keep:
        (folder / KEEP).touch()
    # Locked before it gets its name, else a sweep between the two would take it for an old one.
    unnamed = folder / f"{LOCK}.new"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unnamed.rename(folder / LOCK)
    return folder, descriptor


def sweep() -> None:
    """Remove the folders of planes whose processes were all killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, somebody else's, or just removed
            if not (folder / KEEP).exists():
                _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    descriptor = os.open(folder / LOCK, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        guard.remove_groups(folder)
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
