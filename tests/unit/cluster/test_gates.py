"""A gate that is written lands over the gate that was seen, and over no other."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.cluster import stores
from sglang_operator.cluster.executor import GATE_TRIES, Executor
from sglang_operator.kube import paths
from sglang_operator.observed import wire
from sglang_operator.observed.model import Gate
from sglang_operator.weights import lease_state
from tests.memory_api import Json, MemoryApi

KEY = stores.PoolKey("rl", "pool")
OWNER = names.Uid("uid-of-the-pool")
POD = "pool-0"
PATH = paths.pod(KEY.namespace, POD)


class Kubelet(MemoryApi):
    """Somebody changes the pod in the moment of each of its first writes."""

    def __init__(self, times: int, change: Json) -> None:
        super().__init__()
        self.left, self.change = times, change

    def _change(self, *request: Any) -> Json:
        if self.left:
            self.left -= 1
            self._merge(self.objects[PATH], self.change, strategic=True)
            self._stored(PATH)
        return super()._change(*request)


def condition(type_: str, status: str, reason: str = "", message: str = "") -> Json:
    said = {"type": type_, "status": status, "reason": reason, "message": message}
    return {"status": {"conditions": [said]}}


ASLEEP = condition(
    names.CONDITION_WEIGHTS_SYNCED, "False", "Sleeping", lease_state.mark(["weights"])
)
OPENED = condition(names.CONDITION_WEIGHTS_SYNCED, "True", "Committed", "v1")
READY = condition("Ready", "True")
GATED = {"spec": {"readinessGates": [{"conditionType": names.CONDITION_WEIGHTS_SYNCED}]}}


def writes(api: MemoryApi, change: actions.SetGate) -> bool:
    """Whether this change of a gate, as it was decided, lands."""

    def woken(*_: Any) -> None:
        pass

    pools = stores.PoolStore(woken)
    executor = Executor(api, stores.PodStore(woken), {}, pools)  # type: ignore[arg-type]
    outcome = asyncio.run(executor.gates(KEY, OWNER, [change]))
    assert outcome.failed is None
    return outcome.done


def opening(api: MemoryApi, before: Json, seen: Gate | None) -> actions.SetGate:
    meta = api.add(PATH, {"metadata": {}, **GATED, "status": {"conditions": []}, **before})[
        "metadata"
    ]
    return actions.SetGate(
        name=POD,
        uid=names.Uid(meta["uid"]),
        resource_version=int(meta["resourceVersion"]),
        seen=seen,
        is_open=True,
        reason="Committed",
        message="v2",
    )


def gate(api: MemoryApi) -> Json:
    found = api.objects[PATH]["status"]["conditions"]
    return next(c for c in found if c["type"] == names.CONDITION_WEIGHTS_SYNCED)


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        ({}, None),
        (OPENED, Gate(is_open=True, version="v1", reason="Committed")),
    ],
)
def test_a_late_write_takes_no_sleep_mark_off(before, seen):
    api = MemoryApi()
    late = opening(api, before, seen)
    api._merge(api.objects[PATH], ASLEEP, strategic=True)
    api._stored(PATH)
    assert not writes(api, late)
    assert gate(api)["reason"] == "Sleeping"


@pytest.mark.parametrize("is_open", [True, False], ids=["opens", "is told to be awake"])
def test_a_late_write_takes_no_equal_mark_of_a_later_sleep_off(is_open):
    api = MemoryApi()
    seen = Gate(is_open=False, reason="Sleeping", released=frozenset({"weights"}))
    late = replace(opening(api, ASLEEP, seen), is_open=is_open)
    api._merge(api.objects[PATH], OPENED, strategic=True)  # it wakes
    api._stored(PATH)
    api._merge(api.objects[PATH], ASLEEP, strategic=True)  # and is put to sleep again
    api._stored(PATH)
    assert wire.gate(msgspec.convert(api.objects[PATH], wire.Pod)) == seen
    assert not writes(api, late)
    assert gate(api)["reason"] == "Sleeping"


@pytest.mark.parametrize("times", range(GATE_TRIES))
def test_what_kubelet_writes_to_the_pod_costs_a_gate_no_pass(times):
    api = Kubelet(times, READY)
    assert writes(api, opening(api, OPENED, Gate(is_open=True, version="v1", reason="Committed")))
    assert gate(api)["message"] == "v2"


def test_a_pod_that_never_keeps_still_is_left_to_the_next_pass():
    api = Kubelet(100, READY)
    assert not writes(
        api, opening(api, OPENED, Gate(is_open=True, version="v1", reason="Committed"))
    )
    assert len(api.calls) == GATE_TRIES


def test_a_new_pod_of_the_same_name_is_left_alone():
    api = MemoryApi()
    change = opening(api, {}, None)
    api.add(PATH, {"metadata": {}, "status": {"conditions": []}})
    assert not writes(api, change)
    assert api.objects[PATH]["status"]["conditions"] == []
