"""An operator that was just elected, and whose stream of pods is behind what the last one did."""

import asyncio
from typing import Any

import orjson
import pytest

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.kube.decoding import Decoder
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire
from tests.unit.controller.fake_api import Api, operator
from tests.unit.controller.passes import KEY, Clock, Passes
from tests.unit.controller.test_reconcile import TWO_ENGINES, failing, story


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def led(clock: Clock, past: list[bytes] | None = None) -> Passes:
    """A pool with one engine, whose first pod was up, has failed and was replaced."""
    pool = Passes(clock)
    await pool.settle()
    first = paths.pod("rl", pool.pod_names()[0])
    ready = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")]
    pool.api.touch(first, {"status": {"conditions": ready}})
    if past is not None:
        past.append(orjson.dumps(pool.api.objects[first]))
    pool.fail(pool.pod_names()[0])
    for _ in range(4):
        await pool.settle_within(1200)
    assert pool.pod_names() == ["pool-g0-1-1"]
    return pool


def late(clock: Clock, pool: Passes) -> Passes:
    """The next operator, which knows the pool and none of its pods."""
    after = Passes(clock, api=pool.api)
    after.caught_up = False
    after.pools.put(pool.pools.get(KEY))  # type: ignore[arg-type]
    return after


def test_the_pods_that_the_last_one_made_are_known_before_any_is_made(clock):
    """Attempts begin at 0 again for who sees none: a free name, and a second pod of the engine."""

    async def told() -> None:
        pool = await led(clock)
        after = late(clock, pool)
        requeue = await after.blind()
        assert after.pod_names() == ["pool-g0-1-1"]
        assert "POST pods" not in after.writes
        assert requeue.delay() is not None
        await after.blind()
        assert after.pod_names() == ["pool-g0-1-1"]
        assert after.reason == "PoolReady"

    story(told)


def test_the_engine_that_runs_stays_whatever_a_late_stream_still_tells_of_its_past(clock):
    """It goes on with what was before the pods were read: of one that is gone, as it was up."""

    async def told() -> None:
        past: list[bytes] = []
        pool = await led(clock, past)
        after = late(clock, pool)
        for _ in range(2):
            await after.blind()
        after.pods.put(Decoder(wire.Pod).object(past[0]))
        for _ in range(2):
            clock.advance(5)
            await after.blind()
            assert after.pod_names() == ["pool-g0-1-1"]
            assert "DELETE pods" not in after.writes

    story(told)


def test_none_is_made_while_they_cannot_be_learnt(clock):
    async def told() -> None:
        pool = await led(clock)
        after = late(clock, pool)
        broken = ApiError(500, "InternalError", "boom", None)
        pool.api.fails = failing("GET", paths.pods("rl"), broken)
        await after.blind()
        assert after.pod_names() == ["pool-g0-1-1"]
        pool.api.fails = lambda method, path: None
        await after.blind()
        await after.blind()
        assert after.pod_names() == ["pool-g0-1-1"]

    story(told)


def test_they_are_read_once_and_only_for_who_is_behind(clock):
    async def told() -> None:
        for caught_up, reads in ((True, 0), (False, 1)):
            pool = Passes(clock)
            pool.caught_up = caught_up
            await pool.settle()
            pool.change(device_mapping=TWO_ENGINES)
            await pool.settle()
            assert len(pool.pod_names()) == 2
            assert pool.api.seen.count(("GET", paths.pods("rl"))) == reads

    story(told)


class Blind(Api):
    """From some time on it tells nobody who lists or watches all pods of any."""

    blind = False

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        if self.blind and (method, path) == ("GET", paths.pods("")):
            return orjson.dumps({"metadata": {"resourceVersion": "1"}, "items": []})
        return await super().request(method, path, **rest)

    def _tell(self, kind: str, path: str, body: Any) -> None:
        if not (self.blind and "/pods/" in path):
            super()._tell(kind, path, body)


def test_an_operator_that_was_elected_makes_no_second_pod_of_an_engine():
    async def told() -> None:
        api = Blind()
        async with operator(api, identity="a", lease_namespace="ops"):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
        # Its engine failed once, so that the name of its first attempt is free.
        first, second = paths.pod("rl", "pool-g0-1-0"), paths.pod("rl", "pool-g0-1-1")
        api.objects[second] = api.objects.pop(first)
        api.objects[second]["metadata"]["name"] = "pool-g0-1-1"
        api.touch(paths.lease("ops", names.LEASE_NAME), {"spec": {"holderIdentity": ""}})
        api.blind = True
        async with operator(api, identity="b", lease_namespace="ops") as room:
            await api.until(lambda: [entry.pod.name for entry in room.pods.of(KEY)])
            assert [pod["metadata"]["name"] for pod in api.pods("rl")] == ["pool-g0-1-1"]

    asyncio.run(told())
