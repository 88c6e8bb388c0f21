"""``make demo ARGS=--gpu`` with stand-ins for driver and SGLang: all between them is real.

A kubelet takes the plugin's registration and hands its cards out; a container's files are mounts
of this machine; the operator, the trainer and the crash are as with a GPU.
"""

import json
import subprocess
import sys

import pytest

from sglang_operator.testing.pytest_plugin import require_real_node

DEMO = [sys.executable, "-m", "sglang_operator.testing", "demo", "--gpu", "--stand-in"]
SECONDS = 420


@pytest.fixture(autouse=True)
def real_node_and_extra():
    require_real_node()
    for module in ("grpc", "google.protobuf"):
        pytest.importorskip(module, reason="the kit's extra gpu is not installed")


def test_the_demo_syncs_sleeps_wakes_comes_back_from_a_crash_and_broadcasts(tmp_path):
    report = tmp_path / "report.json"
    shown = subprocess.run(
        [*DEMO, "--gpus=2", "--nccl", "--set", "mem_fraction_static=0.4", "--report", str(report)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    said = json.loads(report.read_text())
    assert said["stand_in"] is True
    assert said["config"]["mem_fraction_static"] == 0.4
    steps = {step["step"]: step for step in said["steps"]}
    given = steps["the device plugin tells kubelet of the GPUs"]["seen"]
    assert given == "3 × Stand-in GPU"
    rights = steps["its engines have cards, and no privileges"]["seen"]
    nodes = {part.split(": ")[1] for part in rights.split("; ")}
    assert len(nodes) == 2  # one each, of the three that there are
    assert nodes < {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"}
    assert "step-1 is committed" in steps["the sample trainer syncs step-1"]["seen"]
    for number in (2, 3, 4):
        parts = steps[f"the client syncs step-{number}"]
        assert all(parts[key] > 0 for key in ("begin", "update", "commit", "gates"))
    first, following = steps["a trainer with a GPU broadcasts step-5 and step-6"]["syncs"]
    assert (first["step"], following["step"]) == (5, 6)
    assert first["group"] > following["group"]  # which the second one found there
    titles = list(steps)
    for sooner, later in (
        ("the gate is closed", "answers carry step-1"),
        ("the engines sleep", "the engines wake, their gates closed"),
        ("a scheduler is killed: the operator notices", "the engine is back, its gate closed"),
        ("the engine is back, its gate closed", "answers carry step-4"),
        ("answers carry step-4", "answers carry step-6"),
    ):
        assert titles.index(sooner) < titles.index(later)
    assert "unsynced" in steps["the engine is back, its gate closed"]["seen"]


def test_an_engine_that_cannot_start_ends_the_demo_with_its_own_words(tmp_path):
    report = tmp_path / "report.json"
    shown = subprocess.run(
        [*DEMO, "--env", "FAKE_SGLANG_FAIL=cuda-out-of-memory", "--report", str(report)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert shown.returncode == 1
    first = shown.stderr[shown.stderr.index("error: ") :].splitlines()[0]
    assert "kubectl apply: the pool is Ready, failed after" in first
    assert "torch.OutOfMemoryError: CUDA out of memory" in shown.stderr
    assert "the end of the log of pod/actor-infer-g0-" in shown.stderr
    done = [step["step"] for step in json.loads(report.read_text())["steps"]]
    assert done[-1] == "a tiny model, and its weights of 6 steps"
