"""All that the demo lacks is said in one message, with what can be had instead."""

import shutil
import sys

import pytest

from sglang_operator.testing import errors, extratools
from sglang_operator.testing.gpu import requirements, standin
from sglang_operator.testing.gpu.driver import Driver
from sglang_operator.testing.realnode import requirements as node_requirements


def wanted(tmp_path, **more):
    driver = tmp_path / "driver"
    (driver / "bin").mkdir(parents=True)
    (driver / "dev").mkdir()
    program = driver / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU-a, Card, 1.0, 0, 1'\n")
    program.chmod(0o755)
    (driver / "dev" / "nvidia0").touch()
    fields = {
        "gpus": 1,
        "python": sys.executable,
        "image": None,
        "model": None,
        "variables": standin.sglang(tmp_path / "site"),
        "driver": Driver(root=driver),
        **more,
    }
    return requirements.Wanted(**fields)


@pytest.fixture(autouse=True)
def complete_machine(monkeypatch):
    monkeypatch.setattr(node_requirements, "lacking", list)
    monkeypatch.setattr(extratools, "no_real_nodes", lambda: None)
    monkeypatch.setattr(requirements, "EXTRA", ("json",))


def test_what_is_there_is_found(tmp_path):
    found = requirements.find(wanted(tmp_path))
    assert [card.uuid for card in found.cards] == ["GPU-a"]
    assert found.environment is not None
    assert found.environment.sglang == standin.VERSION


def test_everything_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(node_requirements, "lacking", lambda: ["needs root", "no cpuset"])
    monkeypatch.setattr(requirements, "EXTRA", ("no_such_module", "no_such.package"))
    with pytest.raises(errors.KitError) as told:
        requirements.find(wanted(tmp_path, gpus=2, variables={}, model=tmp_path))
    lines = str(told.value).splitlines()
    assert lines[0] == "the demo with real GPUs lacks:"
    assert lines[1:3] == ["  - needs root", "  - no cpuset"]
    assert lines[3].startswith("  - no_such_module and no_such.package, for the device plugin;")
    assert "a GPU: 2 wanted, the driver shows 1" in lines[4]
    assert "has no SGLang" in lines[5]
    assert "has no config.json" in lines[6]
    assert lines[7] == "Without GPUs the same pool runs on fake engines: make demo"


def test_an_image_needs_a_program_that_has_it_and_no_python(tmp_path, monkeypatch):
    asked = wanted(tmp_path, image="lmsysorg/sglang:v0.5.14", variables={})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(errors.KitError, match="one of docker, podman, nerdctl is needed"):
        requirements.find(asked)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert requirements.find(asked).environment is None
    assert requirements.saver() == "/usr/bin/docker"
