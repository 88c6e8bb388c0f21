"""The driver as it is found: by NVML, by nvidia-smi, or not at all."""

import importlib.machinery
import os
import re
import sys
import types
from pathlib import Path

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import driver
from sglang_operator.testing.gpu.driver import Driver

GIB = 1 << 30


def folder(tmp_path, script, nodes=("nvidia0",)):
    """A driver's folder whose nvidia-smi is a shell script; files stand for device nodes."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (tmp_path / "dev").mkdir()
    for name in nodes:
        (tmp_path / "dev" / name).touch()
    return Driver(root=tmp_path)


def test_cards_and_memory_in_use_are_nvidia_smi_s(tmp_path):
    there = folder(
        tmp_path,
        "echo 'GPU-a, Card, 1.0, 2048, 4096'; echo 'GPU-b, Card, 1.0, 1024, 4096'",
        nodes=("nvidia0", "nvidia1", "nvidiactl", "nvidia-caps"),
    )
    assert [there.node(card) for card in there.find_cards()] == [
        str(tmp_path / "dev/nvidia0"),
        str(tmp_path / "dev/nvidia1"),
    ]
    assert there.used(["GPU-a"]) == 2 * GIB
    assert there.used(["GPU-a", "GPU-b"]) == 3 * GIB
    assert there.control() == [str(tmp_path / "dev/nvidiactl")]


def test_a_driver_that_does_not_answer_is_told_in_its_words(tmp_path):
    there = folder(tmp_path, "echo 'No devices were found'; exit 6")
    with pytest.raises(errors.KitError, match="exit code 6: No devices were found"):
        there.find_cards()


def test_without_nvidia_smi_that_is_said(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program, path: None)
    monkeypatch.setattr(driver, "NVML", "no_such_module")
    with pytest.raises(errors.KitError, match="there is no nvidia-smi"):
        Driver().find_cards()


class FakeNvml(types.ModuleType):
    """The functions of pynvml that are called, for two cards."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self):
        super().__init__("fake_nvml")
        self.opened = 0
        self.nvmlDeviceGetHandleByIndex = lambda index: index
        self.nvmlDeviceGetCount = lambda: 2
        self.nvmlSystemGetDriverVersion = lambda: b"580.1"
        self.nvmlDeviceGetUUID = lambda index: f"GPU-{index}"
        self.nvmlDeviceGetName = lambda index: "Card"
        self.nvmlDeviceGetMinorNumber = lambda index: 7 - index
        self.nvmlDeviceGetMemoryInfo = lambda index: types.SimpleNamespace(used=index, total=9)

    def nvmlInit(self):
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1


def test_nvml_is_asked_where_there_is_one(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "fake_nvml", nvml)
    nvml.__spec__ = importlib.machinery.ModuleSpec("fake_nvml", None)
    monkeypatch.setattr(driver, "NVML", "fake_nvml")
    monkeypatch.setattr(Driver, "_numbers", lambda self: [6, 7])
    found = Driver().find_cards()
    assert [(card.uuid, card.minor, card.used, card.driver) for card in found] == [
        ("GPU-0", 7, 0, "580.1"),
        ("GPU-1", 6, 1, "580.1"),
    ]
    assert nvml.opened == 0


def test_an_nvml_that_fails_later_is_an_error_of_ours(monkeypatch):
    nvml = FakeNvml()

    def lost(index):
        raise nvml.NVMLError("GPU is lost")

    nvml.nvmlDeviceGetUUID = lost
    nvml.__spec__ = importlib.machinery.ModuleSpec("fake_nvml", None)
    monkeypatch.setitem(sys.modules, "fake_nvml", nvml)
    monkeypatch.setattr(driver, "NVML", "fake_nvml")
    with pytest.raises(errors.KitError, match="NVML: GPU is lost"):
        Driver().find_cards()
    assert nvml.opened == 0


def test_the_driver_s_libraries_are_told_from_the_toolkit_s():
    found = [
        Path("/usr/lib/x86_64-linux-gnu") / name
        for name in (
            "libcuda.so.1",
            "libcudart.so.13",
            "libcublas.so.13",
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.1",
            "libcuda.so",
            "libc.so.6",
        )
    ]
    twice = [*found, Path("/elsewhere/libcuda.so.1")]
    assert [str(path) for path in driver.libraries(twice)] == [
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1",
    ]


def test_libraries_are_looked_for_where_the_linker_is_told_to(tmp_path, monkeypatch):
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setitem(os.environ, "LD_LIBRARY_PATH", f":{tmp_path}:/no/such/folder")
    monkeypatch.setattr(driver, "LINKED", re.compile("nothing matches this"))
    assert tmp_path / "libcuda.so.1" in Driver().libraries()
