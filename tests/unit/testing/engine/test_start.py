"""The engine's entry points and its ends, each as a process."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.engine import diagnosis
from sglang_operator.testing import ports, roots
from sglang_operator.testing.engine import failures, settings, shim
from sglang_operator.testing.engine.process import FakeEngine

QUICK: dict[str, Any] = {"load_seconds": 0.0, "warm_up_seconds": 0.0, "drain_poll_seconds": 0.05}


def test_the_shim_is_sglang_s_entry_point(tmp_path: Path):
    for name, text in shim.files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "sglang.launch_server", "--model-path=m", "--bogus"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), roots.python_path()])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("error: unrecognized arguments: --bogus")


def test_an_engine_serves_tells_its_weights_and_ends():
    with FakeEngine(["--load-format=dummy"], **QUICK) as engine:
        engine.wait_ready()
        request = urllib.request.Request(
            f"{engine.url}/generate",
            data=json.dumps({"text": "hi", "sampling_params": {"max_new_tokens": 2}}).encode(),
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
        assert answer["fake_weights"]["state"] == "random"
        assert answer["text"]
        engine.terminate()
        assert engine.wait() == 137


# A failure's name -> the reason that its log has to lead to.
REASONS = {
    "kv-cache-too-small": "KVCacheTooSmall",
    "cuda-out-of-memory": "CUDAOutOfMemory",
    "gpu-missing": "GPUMissing",
    "graph-capture": "GraphCaptureFailed",
    "gpu-shared": "GPUShared",
    "model-not-found": "ModelNotFound",
    "hub-unreachable": "ModelHubUnreachable",
    "model-gated": "ModelAccessDenied",
    "host-out-of-memory": "OOMKilled",
    "silent": "EngineFailed",
}
KILLED = {"kv-cache-too-small", "cuda-out-of-memory", "gpu-missing", "graph-capture", "gpu-shared"}


def test_every_failure_has_a_reason():
    assert set(REASONS) == set(failures.AT_START)


@pytest.mark.parametrize("name", REASONS)
def test_the_end_of_a_failure_s_log_names_its_cause(name: str):
    with FakeEngine(fail=name, **QUICK) as engine:
        code = engine.wait()
        assert code == (137 if name in KILLED else 1)
        message = engine.log[-2048:]  # what FallbackToLogsOnError keeps
        assert diagnosis.diagnose(message, code, "Error").reason == REASONS[name]


REAL = Path(__file__).parents[3] / "data" / "engine-logs"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("kv-cache-too-small", "kv-cache-too-small.txt"),
        ("gpu-shared", "cuda-out-of-memory.txt"),  # another process had filled the GPU
        ("gpu-missing", "gpu-missing.txt"),
        ("model-not-found", "model-not-found.txt"),
    ],
)
def test_a_failure_is_diagnosed_as_the_real_one_is(name: str, file: str):
    real = diagnosis.diagnose((REAL / file).read_text(), None, "Error")
    assert real.reason == REASONS[name]


def test_a_variable_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="FAKE_SGLANG_SPEED is not known; the variables are "):
        settings.read({"FAKE_SGLANG_SPEED": "1"})


def test_settings_have_their_fields_types():
    read = settings.read({"FAKE_SGLANG_LOAD_SECONDS": "3", "FAKE_SGLANG_GPUS": "2"})
    assert (read.load_seconds, read.gpus) == (3.0, 2)


def test_a_port_that_the_ranks_meet_at_is_taken_for_the_server():
    """model_runner.py of 0.5.14: torch.distributed listens at nccl_port before uvicorn does.

    It does not answer as an engine does: a real one was still there after 130 s.
    """
    port = ports.free()
    options: dict[str, Any] = {**QUICK, "warm_up_tries": 1}
    with FakeEngine([f"--nccl-port={port}"], port=port, version="0.5.14", **options) as engine:
        assert engine.wait() == 137
        said = engine.log
    assert diagnosis.diagnose(said, 137, "Error").reason == "PortInUse"


@pytest.mark.parametrize("version", ["0.5.7", "0.5.14"])
def test_a_port_of_another_engine_is_the_end_at_once(version):
    port = ports.free()
    with FakeEngine(port=port, version=version, **QUICK) as first:
        first.wait_ready()
        with FakeEngine(port=port, version=version, **QUICK) as engine:
            assert engine.wait() == (3 if version == "0.5.14" else 1)
            said = engine.log
    assert diagnosis.diagnose(said, 3, "Error").reason == "PortInUse"
