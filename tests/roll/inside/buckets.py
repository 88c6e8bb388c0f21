"""Buckets that are handed over as handles: of a file in the folder that both have at /dev/shm.

It stands for memory of a GPU, of which a handle is good for the same: it names what its maker has
there, and carries the number of the process that made it.
"""

import atexit
import base64
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from tests.roll.inside import groups

FOLDER = Path("/dev/shm")
_made: list[Path] = []
_count = 0


class OwnNumberError(Exception):
    """A handle that the process takes for one of its own."""


class Shared:
    """A tensor to be handed over: what is pickled is where it is."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __reduce__(self) -> Any:
        global _count
        _count += 1
        path = FOLDER / f"torch_{os.getpid()}_{_count}"
        path.write_bytes(self._tensor.contiguous().view(torch.uint8).numpy().tobytes())
        _made.append(path)
        return _read, (str(path), os.getpid(), str(self._tensor.dtype).removeprefix("torch."))


def free() -> None:
    """Of an update that is over: each rank may be some buckets ahead of the one that hands over."""
    while _made:
        _made.pop().unlink(missing_ok=True)


atexit.register(free)


def _read(path: str, maker: int, dtype: str) -> Any:
    if maker == os.getpid():
        raise OwnNumberError(path)
    content = bytearray(Path(path).read_bytes())
    return torch.frombuffer(content, dtype=getattr(torch, dtype))


def opened(handle: str) -> tuple[list[str], str, str]:
    """Names, the GPU that the memory would be on, and the content, as ``groups.content``.

    Raises OwnNumberError; OSError where there is nothing of that name.
    """
    bucket = pickle.loads(base64.b64decode(handle, validate=True))
    names = [each["name"] for each in bucket["metadata"]]
    (device,) = {each["device"] for each in bucket["metadata"]}
    return names, f"GPU-{device}", groups.content([bucket["flattened_tensor"]])
