"""A pool whose changed spec is refused is told so, whatever becomes of its other objects."""

import asyncio

from sglang_operator.api import names
from sglang_operator.cluster import paths
from sglang_operator.cluster.errors import ApiError
from sglang_operator.cluster.stores import PoolKey
from tests.unit.controller import world

KEY = PoolKey("rl", "pool")


def test_a_refused_spec_is_told_where_the_registry_cannot_be_written():
    """An engine ends as well; the registry was tried ever again, and the status never told."""

    async def story() -> None:
        api = world.Api()
        async with world.operator(api):
            api.make(*KEY, weights={"gate": "Committed"})
            registry = paths.child("ConfigMap", "rl", names.registry_name("pool"))
            await api.until(lambda: api.reason(*KEY) == "PoolReady" and registry in api.objects)
            denied = ApiError(
                403, "Forbidden", 'admission webhook "a" denied the request: no', None
            )
            api.fails = lambda method, path: (
                denied if method == "PATCH" and "/configmaps/" in path else None
            )
            gone = api.pods("rl")[0]["metadata"]["name"]
            spec = api.pool(*KEY)["spec"]
            api.change(*KEY, {**spec, "device_mapping": "nothing of the kind"})
            await api.request("DELETE", paths.pod("rl", gone))
            await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))

    asyncio.run(story())
