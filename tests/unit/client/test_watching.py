"""The newest registry, where the API server's data go back in time while it is read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sglang_operator.client.registry import Registry
from sglang_operator.client.watching import Watcher


def registry(resource_version: int) -> Registry:
    return Registry(
        pool="p",
        namespace="n",
        epoch=f"epoch-{resource_version}",
        engine_version="0.5.7",
        world_size=1,
        resource_version=resource_version,
    )


class Server:
    """Answers reads when it is told to, and tells the watch what it is given."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue[asyncio.Future[Registry]] = asyncio.Queue()
        self.told: asyncio.Queue[Registry] = asyncio.Queue()

    async def registry(self) -> Registry:
        answer: asyncio.Future[Registry] = asyncio.get_running_loop().create_future()
        await self.reads.put(answer)
        return await answer

    async def answer(self, resource_version: int) -> None:
        (await self.reads.get()).set_result(registry(resource_version))

    async def watch(self, since: int) -> AsyncIterator[Registry]:
        while True:
            yield await self.told.get()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def lived(story) -> None:
    async def live() -> None:
        server: Any = Server()
        watcher = Watcher(server)
        first = asyncio.create_task(watcher.fresh())
        await server.answer(100)
        await first
        try:
            await asyncio.wait_for(story(server, watcher), 10)
        finally:
            await watcher.close()

    asyncio.run(live())


def test_what_the_watch_still_tells_of_before_does_not_hide_that_data_were_restored():
    async def story(server, watcher):
        reading = asyncio.create_task(watcher.fresh())
        await settled()
        await server.told.put(registry(101))  # of before, and late
        await settled()
        assert (await watcher.latest()).resource_version == 101
        await server.answer(50)
        assert (await reading).resource_version == 50

    lived(story)


def test_the_older_of_two_reads_of_restored_data_does_not_take_the_newer_ones_place():
    async def story(server, watcher):
        readings = [asyncio.create_task(watcher.fresh()) for _ in range(2)]
        await settled()
        slow = await server.reads.get()
        await server.answer(51)
        await settled()
        slow.set_result(registry(50))
        assert [(await reading).resource_version for reading in readings] == [51, 51]

    lived(story)


def test_what_the_watch_tells_while_the_registry_is_read_is_newer_than_the_read():
    async def story(server, watcher):
        reading = asyncio.create_task(watcher.fresh())
        await settled()
        await server.told.put(registry(102))
        await settled()
        await server.answer(101)
        assert (await reading).resource_version == 102

    lived(story)
