"""What processes hold of the memory of GPUs, where there are none: each says so in a folder.

A file for each process, locked while it lives: one that is killed holds nothing any more, in
whichever namespace of process numbers it was.  Who reads it sees what NVIDIA's library would tell:
bytes in use by GPU, whoever uses them.

Whoever comes to hold more writes down with whom it does (``moments``): nobody has to look at the
very moment.
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GIB = 2**30
CONTEXT = GIB // 2  # of CUDA, which no release frees
OF_TAGS: Mapping[str, int] = {"weights": GIB, "kv_cache": 4 * GIB, "cuda_graph": 0}
ENGINE, TRAINER = "engine", "trainer"
_MOMENTS = ".moments"  # the file in which they stand; whoever has its lock tells


class Held:
    """This process's own; without a folder nobody is told."""

    def __init__(self, folder: str | Path, devices: Iterable[str], who: str = ENGINE) -> None:
        self._devices, self._who = [each for each in devices if each], who
        self._folder = Path(folder)
        self._bytes = 0
        self._file: int | None = None
        if folder:
            path = self._folder / f"{who}-{secrets.token_hex(4)}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def tell(self, count: int) -> None:
        """It holds so many bytes of each of its GPUs from now on."""
        if self._file is None:
            return
        said = json.dumps({"who": self._who, "devices": self._devices, "bytes": count}).encode()
        with _alone(self._folder) as moments:
            os.pwrite(self._file, said.ljust(4096), 0)  # in one write: nobody reads a part
            more, self._bytes = count > self._bytes, count
            shared = sorted({*both(self._folder)} & {*self._devices}) if more else ()
            if shared:
                moment = {"at": time.time(), "who": self._who, "devices": shared}
                os.write(moments, json.dumps(moment).encode() + b"\n")

    def close(self) -> None:
        """It holds nothing any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def by_tags(released: Iterable[str]) -> int:
    """Bytes of each GPU of an engine that has released these."""
    return CONTEXT + sum(size for tag, size in OF_TAGS.items() if tag not in {*released})


def used(folder: str | Path) -> dict[str, int]:
    """Bytes in use by the UUID of each GPU."""
    found: dict[str, int] = {}
    for said in _living(folder):
        for device in said["devices"]:
            found[device] = found.get(device, 0) + said["bytes"]
    return found


def both(folder: str | Path) -> list[str]:
    """GPUs of which a trainer and an engine hold more than a context at this moment."""
    holders: dict[str, set[str]] = {}
    for said in _living(folder):
        for device in said["devices"] if said["bytes"] > CONTEXT else ():
            holders.setdefault(device, set()).add(said["who"])
    return sorted(device for device, who in holders.items() if {ENGINE, TRAINER} <= who)


def moments(folder: str | Path) -> Sequence[Mapping[str, Any]]:
    """Each at which a trainer and an engine came to hold memory of one GPU, in their order.

    ``at`` is a time of day, ``who`` came second, ``devices`` are the GPUs.
    """
    with _alone(Path(folder)):
        lines = (Path(folder) / _MOMENTS).read_text().splitlines()
    return [json.loads(line) for line in lines]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """While nobody else tells of that folder; the file of the moments, to be written on."""
    file = os.open(folder / _MOMENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _living(folder: str | Path) -> Iterator[dict[str, Any]]:
    for path in sorted(Path(folder).iterdir()):
        if path.name == _MOMENTS:
            continue
        file = os.open(path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                continue  # nobody holds it: its process is gone
            except OSError:
                pass
            if text := os.pread(file, 4096, 0).strip():
                yield json.loads(text)
        finally:
            os.close(file)
