"""A namespace whose pools take too much memory: the younger ones are told so, and run on."""

import asyncio
import copy
from typing import Any

import pytest

from sglang_operator.cluster import crowding
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import paths
from tests.unit.controller import fake_api

OLD, YOUNG = ("rl", "old"), ("rl", "young")
ROOM = 140_000
MUCH: Any = {"data_args": {"notes": ["x" * 1000] * 100}}
FULL = "the older pools of its namespace take all"


class Aged(fake_api.Api):
    """Pools have a time at which they were made."""

    def make(self, namespace: str, name: str, **changes: Any) -> None:
        super().make(namespace, name, **changes)
        day = {"old": 1, "young": 2}.get(name, 3)
        meta = {"metadata": {"creationTimestamp": f"2026-01-0{day}T00:00:00Z"}}
        self.touch(paths.pool(namespace, name), meta)

    def message(self, namespace: str, name: str) -> str:
        told = self.pool(namespace, name).get("status", {}).get("conditions", ())
        return next((c["message"] for c in told if c["type"] == "Stalled"), "")


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    monkeypatch.setattr(crowding, "NAMESPACE_BYTES", ROOM)


def large(spec: dict[str, Any]) -> dict[str, Any]:
    """The same pool with much that no engine needs."""
    return {**spec, **MUCH}


def test_a_running_pool_that_has_no_room_any_more_keeps_its_engines_and_comes_back():
    async def story() -> None:
        api = Aged()
        async with fake_api.operator(api):
            api.make(*OLD)
            api.make(*YOUNG)
            await api.until(lambda: api.reason(*OLD) == api.reason(*YOUNG) == "PoolReady")
            pods = copy.deepcopy({p["metadata"]["uid"]: p for p in api.pods("rl")})
            gate = api.pool(*YOUNG)["status"]["resolved"]["gate"]
            small = api.pool(*OLD)["spec"]
            api.change(*OLD, large(small))
            await api.until(lambda: FULL in api.message(*YOUNG))
            await api.until(lambda: api.reason(*OLD) == "PoolReady")
            await asyncio.sleep(0.2)
            assert api.pool(*YOUNG)["status"]["resolved"]["gate"] == gate
            assert {p["metadata"]["uid"] for p in api.pods("rl")} == set(pods)
            assert not any(m == "DELETE" for m, _ in api.seen)
            api.change(*OLD, small)
            await api.until(lambda: api.reason(*YOUNG) == "PoolReady" and not api.message(*YOUNG))
            assert {p["metadata"]["uid"] for p in api.pods("rl")} == set(pods)

    asyncio.run(story())


def test_a_trainer_of_a_pool_without_room_still_closes_its_gates():
    async def story() -> None:
        api = Aged()
        async with fake_api.operator(api) as room:
            api.make(*YOUNG, weights={"gate": "Committed"})
            await api.until(lambda: len(api.pods("rl")) == 1)
            await api.until(lambda: "status" in api.pool(*YOUNG))
            await api.until(lambda: fake_api.instances(room, PoolKey(*YOUNG)))
            run = fake_api.instances(room, PoolKey(*YOUNG))
            api.transact(*YOUNG, "Committed", run)
            await api.until(lambda: api.gate("rl") == "True")
            api.make(*OLD, **MUCH)
            await api.until(lambda: FULL in api.message(*YOUNG))
            api.transact(*YOUNG, "Aborted")
            await api.until(lambda: api.gate("rl") == "False")

    asyncio.run(story())


def test_a_few_words_that_ask_for_many_engines_are_weighed_as_what_they_become():
    async def story() -> None:
        api = Aged()
        async with fake_api.operator(api):
            api.make(*OLD)
            api.make(*YOUNG)
            await api.until(lambda: api.reason(*YOUNG) == "PoolReady")
            await api.until(lambda: api.reason(*OLD) == "PoolReady")
            spec = api.pool(*OLD)["spec"]
            many = {key: value for key, value in spec.items() if key != "device_mapping"}
            api.change(*OLD, {**many, "replicas": 350, "suspend": True})
            await api.until(lambda: FULL in api.message(*YOUNG))
            await asyncio.sleep(0.1)
            assert FULL not in api.message(*OLD)

    asyncio.run(story())
