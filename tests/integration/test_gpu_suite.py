"""A part of ``make gpu`` with stand-ins for driver and SGLang: whole weights under each pause.

The rest of it runs so by hand: SGLANG_GPU=--stand-in make gpu.
"""

import json
import os
import subprocess
import sys

import pytest

from sglang_operator.testing.pytest_plugin import require_real_node

SECONDS = 420
PART = "tests/gpu/test_weights.py"
SYNC = "test_a_sync_under_each_pause_leaves_whole_weights"


def test_weights_come_by_disk_and_by_handle_under_each_pause(tmp_path):
    require_real_node()
    for module in ("grpc", "google.protobuf"):
        pytest.importorskip(module, reason="the kit's extra gpu is not installed")
    report = tmp_path / "suite.json"
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", PART],
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
    synced = tests[f"test_weights.py::{SYNC}[abort-tensor]"]["figures"]
    assert synced["answers"] > 0
    assert synced["seconds"]["update"] > 0
    refused = tests[f"test_weights.py::{SYNC}[retract-disk]"]["figures"]["refused"]
    assert "cannot empty its prefix cache" in refused
