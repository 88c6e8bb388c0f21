"""The operator's wall clock is wrong by an hour, or put right, in either direction."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sglang_operator import clocks
from sglang_operator.backoff import Backoff
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import memory, trying
from sglang_operator.controller.asking import Asker
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire
from sglang_operator.observed.model import EngineReport, Loading
from tests.unit.controller import fake_api

KEY = ("rl", "pool")
HOUR = 3600.0
QUOTA = ApiError(403, "Forbidden", "exceeded quota: gpus, requested: nvidia.com/gpu=2", None)
STEPS = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["ahead", "back"])


class Clock:
    """This machine's wall clock, as somebody sets it."""

    def __init__(self) -> None:
        self._right, self.off = time.time, 0.0

    def __call__(self) -> float:
        return self._right() + self.off


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@STEPS
def test_creates_that_were_refused_are_tried_again_in_their_time(clock, monkeypatch, step):
    """Put back by an hour, the next try was an hour away."""
    monkeypatch.setattr(memory, "REFUSED_BACKOFF", Backoff(0.2, 0.5))

    async def story() -> None:
        api = fake_api.Api()
        api.fails = lambda method, path: (
            QUOTA if method == "POST" and path.endswith("/pods") else None
        )
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "QuotaExceeded")
            clock.off += step
            api.fails = lambda method, path: None
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


@STEPS
def test_a_revision_that_was_refused_is_tried_again_in_its_time(clock, monkeypatch, step):
    monkeypatch.setattr(trying, "RETRY", Backoff(0.2, 0.5))
    refused = ApiError(422, "Invalid", "Pod is invalid: spec.x: no", None)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = {pod["metadata"]["uid"] for pod in api.pods("rl")}
            api.fails = lambda method, path: (
                refused if method == "POST" and path.endswith("/pods") else None
            )
            api.change(*KEY, {**api.pool(*KEY)["spec"], "seed": 7})
            await api.until(lambda: api.reason(*KEY) == "PodRejected")
            clock.off += step
            api.fails = lambda method, path: None
            await api.until(
                lambda: (
                    api.pods("rl")
                    and not before & {pod["metadata"]["uid"] for pod in api.pods("rl")}
                )
            )

    asyncio.run(story())


@STEPS
def test_a_name_that_was_taken_is_tried_again_in_its_time(clock, monkeypatch, step):
    """The Service's name is another's, who then gives it up."""
    monkeypatch.setattr(memory, "CONFLICT_BACKOFF", 0.3)
    path = paths.child("Service", *KEY)

    async def story() -> None:
        api = fake_api.Api()
        api.add(path, {"spec": {"ports": []}})
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "NameConflict")
            clock.off += step
            api.objects.pop(path)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


@STEPS
def test_a_load_that_failed_is_tried_again_in_its_time(clock, step):
    failed = Loading(path="/ckpt", version="7", error="no", again=clocks.steady() + 5)

    class Asked:
        def reports(self, key: PoolKey) -> dict[str, EngineReport]:
            return {"run": EngineReport(instance="run", loading=failed)}

    asker = Asker(Asked(), "operator", None)  # type: ignore[arg-type]
    for off in (0.0, step):
        clock.off = off
        at = clocks.moment()
        loading = asker.reports(PoolKey(*KEY), at)["run"].loading
        assert loading is not None
        assert 4 < loading.again - at.wall <= 5


@STEPS
def test_what_is_due_by_the_clock_of_a_pass_is_due_as_soon_after_the_clock_was_set(clock, step):
    at = clocks.moment()
    clock.off = step
    assert 4 < clocks.left(at, at.wall + 5) <= 5
    assert clocks.left(at, at.wall - 5) == 0


class Nodes(fake_api.Api):
    """A cluster with one node, on which all pods run."""

    def __init__(self) -> None:
        super().__init__()
        self.node: dict[str, Any] = {}
        self.becomes("True", time.time() - HOUR)

    def becomes(self, ready: str, since: float) -> None:
        """The node is or is not ready, with the stamp of a clock that is right."""
        stamp = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        meta = {"name": "n0", "uid": "n0", "resourceVersion": str(next(self._versions))}
        told = [{"type": "Ready", "status": ready, "lastTransitionTime": stamp}]
        self.node = {"metadata": meta, "status": {"conditions": told}}
        for events in self._watches[paths.NODES]:
            line = {"type": "MODIFIED", "object": self.node}
            events.put_nowait(json.dumps(line).encode() + b"\n")

    def add(self, path: str, body: Any, *, version: str = "", uid: str = "") -> Any:
        if "/pods/" in path:
            body = {**body, "spec": {**body["spec"], "nodeName": "n0"}}
        return super().add(path, body, version=version, uid=uid)

    def _found(self, path: str) -> Any:
        if path != paths.NODES:
            return super()._found(path)
        version = str(next(self._versions))
        return {"metadata": {"resourceVersion": version}, "items": [self.node]}

    @property
    def deletes(self) -> list[str]:
        return [path for method, path in self.calls if method == "DELETE" and "/pods/" in path]


@pytest.mark.parametrize("skew", [HOUR, 0.0, -HOUR], ids=["ahead", "right", "behind"])
@pytest.mark.parametrize("restarted", [False, True], ids=["watched", "restarted"])
def test_a_node_is_lost_so_long_after_it_was_seen_not_ready(clock, skew, restarted):
    """An hour ahead, every engine went whose node was not ready for a second.

    What an earlier process saw of a node is not known: there its time begins anew.
    """

    async def story() -> None:
        api = Nodes()
        async with fake_api.operator(api, watch_nodes=True):
            api.make(*KEY, restart={"nodeLostSeconds": 2})
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            clock.off = skew
            begun = clocks.steady()
            api.becomes("Unknown", clock() - skew)
            if not restarted:
                await lost(api, begun)
        if restarted:
            begun = clocks.steady()
            async with fake_api.operator(api, watch_nodes=True):
                await lost(api, begun)

    async def lost(api: Nodes, begun: float) -> None:
        await api.until(lambda: api.deletes)
        assert clocks.steady() - begun >= 2.0

    asyncio.run(story())


def test_pools_are_woken_when_nodes_are_known_again_though_none_changed():
    """Else a node that stays as it is would never be lost."""

    async def story() -> None:
        api = Nodes()
        async with fake_api.operator(api, watch_nodes=True) as room:
            api.make(*KEY, restart={"nodeLostSeconds": 1})
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            api.becomes("Unknown", time.time())
            await api.until(lambda: not room.nodes.nodes["n0"].ready)
            room.nodes.refused()
            seen = clocks.steady()
            # The pass that was due for the loss has been, and nothing else is.
            await api.until(lambda: clocks.steady() > seen + 1.5)
            assert not api.deletes
            room.nodes.replace("", [msgspec.convert(api.node, wire.NodeObject)], 0)
            await api.until(lambda: api.deletes)

    asyncio.run(story())
