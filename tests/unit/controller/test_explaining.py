"""What is looked up is learnt beside the passes: no gate and no status waits for it."""

import asyncio
import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import explaining
from sglang_operator.kube import paths
from tests.unit.controller import fake_api

KEY = ("rl", "pool")
NODES = 40
LACKING = "0/40 nodes are available: 40 Insufficient nvidia.com/gpu."


class Slow(fake_api.Api):
    """A cluster with GPU nodes, whose pods and Events are told late."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.asked: list[str] = []
        self.at_once = self.most = 0

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        selector = str((rest.get("params") or {}).get("fieldSelector", ""))
        if method == "GET" and ("spec.nodeName" in selector or "involvedObject" in selector):
            self.asked.append(selector)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                await asyncio.sleep(self.seconds)
            finally:
                self.at_once -= 1
            said = {"reason": "Killing", "message": "Container engine failed liveness probe"}
            if "involvedObject" in selector:
                return json.dumps({"items": [said]}).encode()
            return b'{"items": []}'
        return await super().request(method, path, **rest)

    def _found(self, path: str) -> Any:
        if path != paths.NODES:
            return super()._found(path)
        status = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"nvidia.com/gpu": "8"},
        }
        meta = {"resourceVersion": "1"}
        items = [
            {"metadata": {"name": f"n{i}", "uid": f"n{i}", **meta}, "status": status}
            for i in range(NODES)
        ]
        return {"metadata": {"resourceVersion": "5"}, "items": items}

    def second(self, status: dict[str, Any]) -> None:
        """The second engine's pod is as this says."""
        path = [p for p in self.objects if p.startswith(paths.pods("rl") + "/")][1]
        self.objects[path]["status"] = status
        self.touch(path, {})

    def first_gate(self) -> str:
        found = [
            c["status"]
            for c in self.pods("rl")[0]["status"]["conditions"]
            if c["type"] == names.CONDITION_WEIGHTS_SYNCED
        ]
        return found[0] if found else ""

    def message(self) -> str:
        told = self.pool(*KEY).get("status", {}).get("conditions", [])
        return " ".join(c["message"] for c in told)


PENDING = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": LACKING}
    ],
}
ENDED = {
    "phase": "Failed",
    "containerStatuses": [
        {
            "name": "engine",
            "containerID": "containerd://x",
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}},
        }
    ],
}


@pytest.mark.parametrize("status", [PENDING, ENDED], ids=["no room", "an end without a cause"])
def test_no_gate_waits_until_a_cause_is_known(status):
    async def story() -> float:
        api = Slow(3.0)
        async with fake_api.operator(api) as room:
            api.make(*KEY, num_gpus_per_worker=1)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            api.transact(*KEY, "Committed", fake_api.instances(room, PoolKey(*KEY)))
            await api.until(lambda: api.first_gate() == "True")
            api.second(status)
            await api.until(lambda: api.asked)
            api.transact(*KEY, "Sleeping")
            return await api.until(lambda: api.first_gate() == "False")

    assert asyncio.run(story()) < 3.0 - 1.0


def test_what_is_learnt_later_is_told_then_and_not_asked_again():
    async def story() -> tuple[int, int]:
        api = Slow(explaining.MOMENT_SECONDS * 2)
        async with fake_api.operator(api):
            api.make(*KEY, num_gpus_per_worker=1)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            api.second(PENDING)
            await api.until(lambda: LACKING in api.message())
            await api.until(lambda: "320 of 320 nvidia.com/gpu are free" in api.message())
            await asyncio.sleep(0.2)
            return len(api.asked), api.most

    asked, most = asyncio.run(story())
    assert asked == NODES
    assert 1 < most <= 8


def test_an_end_is_told_with_the_cause_that_comes_within_a_moment():
    async def story() -> str:
        api = Slow(0.01)
        async with fake_api.operator(api):
            api.make(*KEY, num_gpus_per_worker=1)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            api.second(ENDED)
            await api.until(lambda: api.pool(*KEY)["status"].get("lastFailures"))
            return str(api.pool(*KEY)["status"]["lastFailures"][0]["reason"])

    assert asyncio.run(story()) == "EngineUnresponsive"
