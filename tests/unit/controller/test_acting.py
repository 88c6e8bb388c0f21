"""What a pass goes on with that takes long: nothing that is not to be done any more."""

import asyncio
import json
from typing import Any

from sglang_operator.kube import paths
from tests.builders import guide_spec
from tests.unit.controller import fake_api
from tests.unit.controller.test_trainers import (
    KEY,
    SLOTS,
    engines,
    nodes,
    publish,
    run_trainer,
    trainer,
)
from tests.unit.placement.trainers import SHARED, a_slot


class Slow(fake_api.Api):
    """A webhook in front of pods takes its time; ``sent`` says for which nodes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        if method == "POST" and path == paths.pods("rl"):
            affinity = json.loads(rest["body"])["spec"]["affinity"]["nodeAffinity"]
            (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"][
                "nodeSelectorTerms"
            ]
            self.sent += term["matchFields"][0]["values"]
            await asyncio.sleep(0.3)
        return await super().request(method, path, **rest)


async def a_pool_that_is_being_made(api: Slow) -> None:
    """Of eight engines on two nodes, as the first is being made."""
    for number in (0, 1):
        run_trainer(api, a_slot(number))
    spec = guide_spec(device_mapping="list(range(0,16))", placement=SHARED)
    api.add(paths.pool(*KEY), {"metadata": {"generation": 1}, "spec": spec})
    await api.until(lambda: SLOTS in api.objects)
    publish(api, a_slot(0), a_slot(1))
    await api.until(lambda: api.sent)


def test_a_create_that_is_not_wanted_any_more_is_not_sent():
    """The trainer's pod was seen to be gone, and engines were put on its GPUs for seconds."""

    async def story() -> None:
        api = Slow()
        async with fake_api.operator(api, watch_nodes=False) as room:
            await a_pool_that_is_being_made(api)
            await api.request("DELETE", trainer(a_slot(1))[0])
            await api.until(lambda: len(room.trainers.of("rl")) == 1)
            await api.until(lambda: len(engines(api)) == 4)
            await asyncio.sleep(0.7)
            assert set(api.sent) == {"gpu-0"}
            run_trainer(api, a_slot(1))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


def test_a_create_that_is_wanted_elsewhere_is_sent_there():
    async def story() -> None:
        api = Slow()
        async with fake_api.operator(api, watch_nodes=False):
            await a_pool_that_is_being_made(api)
            moved = a_slot(1, "gpu-9", pod="trainer-9", uid="uid-anew")
            run_trainer(api, moved)
            publish(api, a_slot(0), moved)
            await api.until(lambda: len(engines(api)) == 8)
            assert sorted(nodes(api)) == ["gpu-0"] * 4 + ["gpu-9"] * 4
            assert "gpu-1" not in api.sent

    asyncio.run(story())
