"""The executor against a client of the test's own; what needs an API server is tested on one."""

import asyncio
from typing import Any

import orjson

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.cluster import stores, window, wire
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.outcome import Outcome

KEY, UID = stores.PoolKey("rl", "pool"), names.Uid("uid")
COUNT = 200


class Client:
    """Creates whatever it is asked to."""

    def __init__(self) -> None:
        self.created = 0

    async def request(self, method: str, path: str, *, body: bytes, **_: object) -> bytes:
        assert method == "POST"
        await asyncio.sleep(0)
        self.created += 1
        meta = {"name": f"p{self.created}", "namespace": "rl", "uid": f"u{self.created}"}
        return orjson.dumps({"metadata": {**meta, "resourceVersion": str(self.created)}})


def the_pool(generation: int) -> wire.CustomResource:
    meta = wire.Meta(
        name=KEY.name,
        namespace=KEY.namespace,
        uid=UID,
        resource_version=str(generation),
        generation=generation,
    )
    return wire.CustomResource(metadata=meta)


def test_creates_that_wait_for_their_turn_are_not_sent_once_the_pool_has_changed(monkeypatch):
    # However slow this machine: nobody gives his place to others meanwhile.
    monkeypatch.setattr(window, "SLOW_SECONDS", 60.0)

    def woken(*_: Any) -> None:
        pass

    async def story() -> tuple[Outcome, int]:
        client, pools = Client(), stores.PoolStore(woken)
        executor = Executor(client, stores.PodStore(woken), {}, pools)  # type: ignore[arg-type]
        pools.put(the_pool(1))
        release = asyncio.Event()

        async def another_pools() -> None:
            async with executor.window.slot():
                await release.wait()

        others = [asyncio.create_task(another_pools()) for _ in range(executor.window.size)]
        await asyncio.sleep(0)
        batch = [
            actions.CreatePod(name=f"p{n}", group=names.GroupName(f"g{n}"), body={}, reason="")
            for n in range(COUNT)
        ]
        acting = asyncio.create_task(
            executor.pods(
                KEY, UID, batch, generation=1, confirm=None, go_on=lambda: True, proven=True
            )
        )
        await asyncio.sleep(0.01)
        pools.put(the_pool(2))
        release.set()
        await asyncio.gather(*others)
        return await acting, client.created

    outcome, created = asyncio.run(story())
    assert created == 0
    assert not outcome.done
