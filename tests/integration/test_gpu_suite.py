"""Parts of ``make gpu`` with stand-ins: whole weights, two nodes, a trainer's own GPU.

The rest of it runs so by hand: SGLANG_GPU=--stand-in make gpu.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sglang_operator.testing.pytest_plugin import require_real_node

SECONDS = 420
SYNC = "test_a_sync_under_each_pause_leaves_whole_weights"


def run(tmp_path, *part: str) -> dict[str, Any]:
    """The tests of a part, all of which passed: what the report says of each."""
    require_real_node()
    for module in ("grpc", "google.protobuf"):
        pytest.importorskip(module, reason="the kit's extra gpu is not installed")
    report = tmp_path / "suite.json"
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *part],
        env={**os.environ, "SGLANG_GPU": "--stand-in", "SGLANG_GPU_REPORT": str(report)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert shown.returncode == 0, shown.stdout[-6000:]
    said = json.loads(report.read_text())
    assert said["stand_in"] is True
    tests = {test["test"]: test for test in said["tests"]}
    assert {test["outcome"] for test in tests.values()} == {"passed"}
    return tests


def test_weights_come_by_disk_and_by_handle_under_each_pause(tmp_path):
    tests = run(tmp_path, "tests/gpu/test_weights.py")
    synced = tests[f"test_weights.py::{SYNC}[abort-tensor]"]["figures"]
    assert synced["answers"] > 0
    assert synced["seconds"]["update"] > 0
    refused = tests[f"test_weights.py::{SYNC}[retract-disk]"]["figures"]["refused"]
    assert "cannot empty its prefix cache" in refused


def test_an_engine_on_two_nodes_comes_serves_and_goes_as_one(tmp_path):
    tests = run(tmp_path, "tests/gpu/test_groups.py", "-k", "not killed")
    gone = [test["figures"] for test in tests.values() if "deleted" in test["test"]]
    assert [each["request"]["status"] for each in gone] == [0, 200]  # only its leader drains


def test_a_trainer_and_its_engine_take_turns_on_one_gpu(tmp_path):
    tests = run(tmp_path, "tests/gpu/test_shared.py")
    [turns] = [test["figures"] for test in tests.values() if "take_turns" in test["test"]]
    assert turns["sleep"]["seconds"] > 0
    assert turns["a request that came asleep"]["status"] == 200
