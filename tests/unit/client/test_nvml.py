"""NVIDIA's library, where a container has it, tells of its GPUs and of what is used there."""

import ctypes
from functools import partial

from sglang_operator.client import nvml

CARDS = {"GPU-a": 3 * 2**30, "GPU-b": 5}


class Library:
    """What it answers for these cards; ``broken``: a call that fails."""

    def __init__(self, broken=""):
        self.broken, self.open = broken, 0

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.broken:
                return 999
            return getattr(self, f"_{name}")(*arguments) or 0

        return call

    def _nvmlInit_v2(self):
        self.open += 1

    def _nvmlShutdown(self):
        self.open -= 1

    def _nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(CARDS)

    def _nvmlDeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = index + 1

    def _nvmlDeviceGetUUID(self, device, text, length):
        text.value = list(CARDS)[device.value - 1].encode()

    def _nvmlDeviceGetMemoryInfo(self, device, memory):
        memory._obj.used = list(CARDS.values())[device.value - 1]


def test_each_card_is_told_by_its_uuid():
    library = Library()
    assert nvml.uuids(lambda: library) == list(CARDS)
    assert nvml.used(lambda: library) == CARDS
    assert library.open == 0, "it is left as it was found"


def test_where_nobody_tells_nothing_is_known():
    for broken in ("nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetUUID"):
        assert nvml.used(partial(Library, broken)) == {}
    assert nvml.used(lambda: Library("nvmlDeviceGetMemoryInfo")) == {}
    assert nvml.uuids(lambda: None) == []


def test_memory_is_laid_out_as_the_library_has_it():
    assert ctypes.sizeof(nvml._Memory) == 24
    assert nvml._Memory.used.offset == 16
