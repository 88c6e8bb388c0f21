"""On which node the replacement of an engine is rather to be, through the loop."""

import asyncio
from typing import Any

import pytest

from sglang_operator.kube import paths
from tests.unit.controller import fake_api

KEY = ("rl", "pool")
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
EVICTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByTaintManager",
    "message": "its node does not answer",
}


def rather_on(pod: dict[str, Any]) -> list[str]:
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get(PREFERRED, [])
    return [value for each in terms for value in each["preference"]["matchFields"][0]["values"]]


@pytest.mark.parametrize(("evicted", "rather"), [(False, ["bad"]), (True, [])])
def test_who_was_driven_from_a_node_is_not_sent_back_to_it(evicted, rather):
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.pods("rl"))
            (pod,) = api.pods("rl")
            path = paths.pod("rl", pod["metadata"]["name"])
            api.touch(path, {"spec": {"nodeName": "bad"}})
            await api.until(lambda: api.pool(*KEY).get("status", {}).get("nodes"))
            if evicted:
                said = [*pod["status"].get("conditions", []), EVICTED]
                leaves = {"deletionTimestamp": "2027-01-15T08:00:00Z"}
                api.touch(path, {"metadata": leaves, "status": {"conditions": said}})
                await api.until(lambda: "nodes" not in api.pool(*KEY)["status"])
            await api.request("DELETE", path)
            uid = pod["metadata"]["uid"]
            await api.until(lambda: [p for p in api.pods("rl") if p["metadata"]["uid"] != uid])
            (new,) = api.pods("rl")
            assert rather_on(new) == rather

    asyncio.run(story())
