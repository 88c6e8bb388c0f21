"""Pods on GPUs that nobody counts, of which their stream tells no more."""

import dataclasses
from typing import Any

import msgspec
import pytest

from sglang_operator.api import device_variables, names
from sglang_operator.cluster import unseen
from sglang_operator.cluster.unseen import Unseen
from sglang_operator.observed import wire
from sglang_operator.observed.model import ObservedPod

POD = ObservedPod(
    name="pool-g0-1-0",
    uid=names.Uid("uid-0"),
    resource_version=1,
    engine=names.EngineName("g0-1"),
    attempt=0,
    revision="r",
    gpus_seen=("GPU-0",),
)


def answer(uid: str = "uid-0", state: str = "running") -> wire.Pod:
    """The pod of this name as the API server has it."""
    env = [{"name": device_variables.NVIDIA, "value": "GPU-0"}]
    told: dict[str, Any] = {"running": {}, "terminated": {"exitCode": 0}}
    engine = {"name": names.ENGINE_CONTAINER, "state": {state: told[state]}}
    body = {
        "metadata": {"name": POD.name, "namespace": "rl", "uid": uid, "resourceVersion": "2"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": names.ENGINE_CONTAINER, "env": env}],
        },
        "status": {"phase": "Running", "containerStatuses": [engine]},
    }
    return msgspec.convert(body, wire.Pod)


@pytest.mark.parametrize(
    ("found", "over"),
    [
        (None, True),
        (answer("another"), True),
        (answer(state="terminated"), True),
        (answer(), False),
    ],
    ids=["gone", "another of its name", "ended", "runs on"],
)
def test_one_is_asked_for_until_its_engine_is_over(found, over):
    pods = Unseen()
    pods.add("rl", POD)
    assert pods.is_over("uid-0", found) is over
    assert [each.pod.name for each in pods] == ([] if over else [POD.name])


def test_pods_whose_gpus_a_scheduler_counts_are_not_asked_for():
    pods = Unseen()
    pods.add("rl", dataclasses.replace(POD, gpus_seen=()))
    assert not list(pods)


def test_no_more_are_kept_than_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(unseen, "MOST", 2)
    pods = Unseen()
    for number in range(5):
        uid = names.Uid(str(number))
        pods.add("rl", dataclasses.replace(POD, name=f"p-{number}", uid=uid))
    assert [each.pod.name for each in pods] == ["p-3", "p-4"]
