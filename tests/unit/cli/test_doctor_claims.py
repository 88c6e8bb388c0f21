"""``kubectl sglang doctor`` about engines that have their trainer's GPUs by claims."""

from typing import Any

import pytest

from sglang_operator.cli import doctor
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError, Why
from tests.builders import NOW
from tests.unit.cli.test_doctor import _answers, _examine, _pool

NONE = ClusterError("kubectl", "not found", Why.NOT_FOUND)
FORBIDDEN = ClusterError("kubectl", "forbidden", Why.FORBIDDEN)


def a_slice(node: str, devices: int = 8) -> dict[str, Any]:
    spec = {"nodeName": node, "devices": [{"name": f"gpu-{i}"} for i in range(devices)]}
    return {"metadata": {"name": f"{node}-gpus"}, "spec": spec}


def a_node(name: str, gpus: str = "") -> dict[str, Any]:
    allocatable = {"nvidia.com/gpu": gpus} if gpus else {}
    ready = [{"type": "Ready", "status": "True"}]
    return {
        "metadata": {"name": name},
        "status": {"allocatable": allocatable, "conditions": ready},
    }


THERE: dict[str, Any] = {
    "resource group": {"versions": [{"version": "v1beta2"}, {"version": "v1"}]},
    "device classes": {"items": [{"metadata": {"name": "gpu.nvidia.com"}}]},
    "resource slices": {"items": [a_slice("gpu-0")]},
    "nodes": {"items": [a_node("gpu-0"), a_node("gpu-1", "8")]},
}


def _slot(changes: dict[str, Any], **slot: Any) -> list[Check]:
    pool = _pool(placement={"mode": "Slot", "slot": slot} if slot else {"mode": "Slot"})
    pool |= {"metadata": _pool()["metadata"]}
    answers = _answers({**THERE, "pools": {"items": [pool]}, **changes})
    return [each for each in doctor.examine("rl", answers, NOW) if each.name == "GPUs by claims"]


def test_nothing_is_said_of_claims_where_nobody_uses_any():
    assert "GPUs by claims" not in _examine(**THERE, pools={"items": [_pool()]})


def test_where_claims_can_be_had_it_is_said():
    (check,) = _slot({})
    assert check.grade is Grade.GOOD
    assert check.what.startswith("claims are served")


@pytest.mark.parametrize(
    ("changes", "words", "do"),
    [
        ({"resource group": NONE}, r"v1 (found: nothing of it)", "Kubernetes 1.34"),
        ({"resource group": {"versions": [{"version": "v1beta1"}]}}, "found: v1beta1", "1.34"),
        ({"device classes": {"items": []}}, "the DeviceClass gpu.nvidia.com, which", ": none"),
        ({"resource slices": {"items": []}}, "no driver publishes devices", "driver"),
        ({"resource slices": {"items": [a_slice("gpu-0", 0)]}}, "no driver publishes", "driver"),
        (
            {"nodes": {"items": [a_node("gpu-0", "8"), a_node("gpu-1", "8")]}},
            "GPUs of gpu-0 are published by a driver and counted by a device plugin too (nvidia",
            "take the device plugin",
        ),
    ],
)
def test_what_keeps_engines_from_their_devices_is_told_with_what_to_do(changes, words, do):
    (check,) = _slot(changes)
    assert check.grade is Grade.BAD
    assert words in check.what
    assert do in check.do


def test_another_device_class_is_looked_for_by_its_name():
    (check,) = _slot({}, deviceClassName="cards.example.com")
    assert "the DeviceClass cards.example.com" in check.what
    assert check.do.endswith(": gpu.nvidia.com")


@pytest.mark.parametrize("what", ["resource group", "device classes", "resource slices"])
def test_what_may_not_be_read_is_no_fault(what):
    assert [check.grade for check in _slot({what: FORBIDDEN})] == [Grade.GOOD]


def test_a_cluster_whose_gpus_a_driver_alone_publishes_has_gpus():
    checks = _examine(**{**THERE, "nodes": {"items": [a_node("gpu-0")]}})
    assert checks["GPUs"].grade is Grade.GOOD
    assert checks["GPUs"].what.endswith("a driver publishes devices of 1 nodes")
    assert "placement.mode Slot" in checks["GPUs"].do
