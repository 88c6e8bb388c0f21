"""A pool whose changed spec is refused is told so, whatever becomes of its other objects."""

import asyncio
import time
from typing import Any

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import judging
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.pool.model import Pool, Refused
from tests.unit.controller import fake_api

KEY = PoolKey("rl", "pool")


def test_a_refused_spec_is_told_where_the_registry_cannot_be_written():
    """An engine ends as well; the registry was tried ever again, and the status never told."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
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


def test_passes_of_a_pool_whose_spec_is_refused_are_spaced_by_what_they_cost(
    monkeypatch,
):
    """What reading it costs was not counted: each edit was read at once, however much it was."""

    judge, slow = judging.judge, 0.2

    def judged(*arguments: Any) -> Pool | Refused:
        time.sleep(slow)
        return judge(*arguments)

    monkeypatch.setattr(judging, "judge", judged)

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            api.make(*KEY, podTemplate={"metadata": {"labels": {"a b": "v"}}})
            await api.until(lambda: api.reason(*KEY) != "")
            assert room.reconciler is not None
            assert room.reconciler.planning_seconds(KEY) > slow

    asyncio.run(story())
