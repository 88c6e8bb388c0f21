"""Images with Python in them: an interpreter, some distributions, and a package as it stands.

Each image has three layers, from what changes least to what changes most, and the first two are
kept in the user's cache.  So images share them, and a second start makes only the last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sglang_operator.testing import binaries
from sglang_operator.testing.realnode import images, rootfs

FORMAT = "1"  # to be raised when a layer is made otherwise from the same files
LAYERS = "layers"
KEPT_SECONDS = 7 * 24 * 3600.0


def build(
    name: str,
    *,
    entrypoint: Sequence[str],
    distributions: Sequence[str] = (),
    sources: Sequence[Path] = (),
    texts: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str = "",
    environ: Mapping[str, str] | None = None,
) -> images.Image:
    """Return an image in which ``distributions`` and ``sources`` can be imported.

    ``distributions`` are names of what is installed beside this interpreter, taken with their
    requirements; ``sources`` are folders of packages, each imported by its folder's name;
    ``texts`` are contents by their place in the image, executable where that is a ``bin``.
    Raises KitError for a distribution that is not installed.
    """
    cache = binaries.cache_folder(os.environ if environ is None else environ) / LAYERS
    cache.mkdir(parents=True, exist_ok=True)
    packages = [*rootfs.distribution_files(distributions)] if distributions else []
    base = [(rootfs.interpreter(), Path(rootfs.PYTHON)), *rootfs.interpreter_files()]
    layers = [_cached(cache, base, rootfs.write_base)]
    if packages:
        layers.append(_cached(cache, packages, lambda root: _write(packages, root)))
    if sources or texts:
        files = [*rootfs.source_files(sources)]

        def write(root: Path) -> None:
            rootfs.write_texts(texts or {}, root)
            _write(files, root)

        layers.append(_cached(cache, files, write, json.dumps(texts, sort_keys=True)))
    return images.Image(
        name=name,
        layers=layers,
        entrypoint=entrypoint,
        command=command,
        env={"PYTHONPATH": f"/{rootfs.PACKAGES}", "PYTHONUNBUFFERED": "1", **(env or {})},
        user=user,
    )


def _write(files: Iterable[tuple[Path, Path]], root: Path) -> None:
    rootfs.write(files, root)
    rootfs.write_libraries(root.rglob("*.so"), root)


def _cached(
    cache: Path, files: Sequence[tuple[Path, Path]], write: Callable[[Path], None], more: str = ""
) -> images.Layer:
    """The layer of some files, made anew when one of them, or ``more``, is another than it was."""
    target = cache / f"{_key(files, more)}.tar"
    digest = target.with_suffix(".sha256")
    with target.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if digest.exists():
            os.utime(digest)
        else:
            _forget(cache)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                write(Path(folder))
                layer = images.write_layer(Path(folder), target)
            digest.write_text(layer.digest)
    return images.Layer(file=target, digest=digest.read_text())


def _forget(cache: Path) -> None:
    """Remove what nobody has asked for in a while: every change of a source makes a layer."""
    for digest in cache.glob("*.sha256"):
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it too
            if time.time() - digest.stat().st_mtime > KEPT_SECONDS:
                for suffix in (".sha256", ".tar"):
                    digest.with_suffix(suffix).unlink(missing_ok=True)


def _key(files: Iterable[tuple[Path, Path]], more: str) -> str:
    digest = hashlib.sha256(f"{FORMAT} {more}\n".encode())
    for source, place in files:
        status = source.stat()
        digest.update(f"{place} {status.st_size} {status.st_mtime_ns} {status.st_mode}\n".encode())
    return digest.hexdigest()[:20]
