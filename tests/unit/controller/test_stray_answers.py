"""A 404 that is not the API server's word on an object is no answer, and nobody is gone by it."""

import asyncio

import pytest

from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY, LEASE

STRAY = {
    "a load balancer": lambda: ApiError(404, "", "default backend - 404", None),
    "not served": lambda: ApiError(404, "", "404 page not found", None),
    "of its namespace": lambda: ApiError(404, "NotFound", 'namespaces "rl" not found', None),
}
POOL = paths.pool(*KEY)


@pytest.mark.parametrize("told", STRAY.values(), ids=STRAY)
def test_it_buries_no_pool_whose_gates_go_on_following_its_trainer(told):
    async def story() -> None:
        api = fake_api.Api()
        api.make(*KEY, num_gpus_per_worker=1)
        async with fake_api.operator(api) as room:
            await api.until(lambda: len(api.pods("rl")) == 2 and LEASE in api.objects)
            api.transact(*KEY, "Committed", fake_api.instances(room, KEY))
            await api.until(lambda: api.gate("rl") == "True")
            asked = api.seen.count(("GET", POOL))

            def fails(method: str, path: str) -> Exception | None:
                return told() if path.startswith(POOL) else None

            api.fails = fails
            first, second = sorted(pod["metadata"]["name"] for pod in api.pods("rl"))
            # What is to be made in its place is confirmed with the pool first.
            await api.request("DELETE", paths.pod("rl", second), body=b"{}")
            await api.until(lambda: api.seen.count(("GET", POOL)) > asked)
            await asyncio.sleep(0.05)
            assert room.pools.known() == [KEY]
            api.fails = lambda method, path: None
            api.touch(LEASE, {"spec": {"holderIdentity": None}})
            api.transact(*KEY, "Aborted")
            await api.until(lambda: api.gate("rl") == "False")
            assert paths.pod("rl", first) in api.objects

    asyncio.run(story())


def test_a_pool_that_was_not_found_is_back_with_the_next_list_that_names_it():
    async def story() -> None:
        api = fake_api.Api()
        api.make(*KEY)
        async with fake_api.operator(api) as room:
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            room.pools.gone(KEY, api.pool(*KEY)["metadata"]["uid"])
            assert not room.pools.known()
            stream = next(i for i in room.informers if i.resource.path == paths.pools(""))
            lists = stream.lists
            api.refuse(lambda path: path == paths.pools(""))
            await api.until(lambda: stream.refused)
            api.refuse(lambda path: False)
            await api.until(lambda: stream.lists > lists)
            assert stream.lists == lists + 1
            assert room.pools.known() == [KEY]

    asyncio.run(story())
