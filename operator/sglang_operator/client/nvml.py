"""NVIDIA's management library, as far as this container has it: its runtime puts it there.

By ctypes, so that nothing has to be installed; where there is none, nobody is told anything.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

_NVML = "libnvidia-ml.so.1"
_UUID_LENGTH = 96


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def load() -> Any:
    """The library; None where there is none."""
    try:
        return ctypes.CDLL(_NVML)
    except OSError:
        return None


Load = Callable[[], Any]


def uuids(load: Load = load) -> Sequence[str]:
    """Of the GPUs that this container sees, in the driver's order; none where nobody tells."""
    with _opened(load) as library:
        return [uuid for uuid, _ in _devices(library)]


def used(load: Load = load) -> Mapping[str, int]:
    """Bytes in use on each GPU that this container sees, by its UUID, whoever uses them."""
    with _opened(load) as library:
        found: dict[str, int] = {}
        for uuid, device in _devices(library):
            memory = _Memory()
            if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0:
                found[uuid] = int(memory.used)
        return found


@contextmanager
def _opened(load: Load) -> Iterator[Any]:
    library = load()
    if library is None or library.nvmlInit_v2() != 0:
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _devices(library: Any) -> Sequence[tuple[str, ctypes.c_void_p]]:
    """UUID and handle of each; none where one of them does not tell."""
    count, found = ctypes.c_uint(), list[tuple[str, ctypes.c_void_p]]()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    for index in range(count.value):
        device, text = ctypes.c_void_p(), ctypes.create_string_buffer(_UUID_LENGTH)
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            return []
        if library.nvmlDeviceGetUUID(device, text, _UUID_LENGTH) != 0:
            return []
        found.append((text.value.decode(), device))
    return found
