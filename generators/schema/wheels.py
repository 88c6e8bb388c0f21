"""SGLang's wheels: downloaded once into the user's cache, read where they are."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sglang_operator.engine import versions
from sglang_operator.testing import binaries

# Wheels are read, not run: those for other machines than this one do as well.
_PLATFORM = ("--python-version", "3.12", "--platform", "manylinux_2_34_x86_64")
_DOWNLOAD_SECONDS = 300


class UnavailableError(RuntimeError):
    """A wheel is neither in the cache nor can it be downloaded."""


def open_wheel(version: str) -> zipfile.ZipFile:
    """The wheel of a version; raises UnavailableError, whose text says why."""
    versions.parse(version)  # no more than a version gets into a path or a command
    folder = binaries.cache_folder(os.environ) / "wheels"
    return zipfile.ZipFile(_cached(folder, version) or _download(folder, version))


def _cached(folder: Path, version: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"sglang-{version}-*.whl"))), None)


def _download(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", *_PLATFORM, "--dest", temporary, f"sglang=={version}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"sglang {version} cannot be downloaded: {error}") from error
        found = _cached(Path(temporary), version)
        if found is None:
            reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            raise UnavailableError(f"sglang {version} cannot be downloaded: {reason}")
        return found.replace(folder / found.name)  # at once: another process may look
