"""Pods whose labels somebody changes are not made without end: each holds GPUs."""

import asyncio
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.kube import paths
from tests.unit.controller import fake_api

KEY = ("rl", "pool")


class Changing(fake_api.Api):
    """Admission gives each pod another label."""

    label = ""

    def _create(self, collection: str, content: Any) -> Any:
        if collection.endswith("/pods") and self.label:
            labels = {**content["metadata"]["labels"], self.label: "theirs"}
            content = {**content, "metadata": {**content["metadata"], "labels": labels}}
        return super()._create(collection, content)


@pytest.mark.parametrize("label", [names.LABEL_POOL, names.LABEL_COMPONENT])
def test_a_pod_whose_label_admission_changes_is_refused_and_not_made_again_at_once(label):
    async def story() -> tuple[int, int, str]:
        api = Changing()
        api.label = label
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PodRejected")
            await asyncio.sleep(0.3)
            created = sum(m == "POST" and p == paths.pods("rl") for m, p in api.seen)
            left = len(api.pods("rl"))
            message = api.pool(*KEY)["status"]["conditions"][0]["message"]
            api.label = ""
            # The spec changed: what was refused deserves a fresh try.
            api.change(*KEY, api.pool(*KEY)["spec"])
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            return created, left, message

    created, left, message = asyncio.run(story())
    assert (created, left) == (1, 0)
    assert f"changes its label {label} from" in message
    assert "to theirs" in message


def test_a_label_that_is_the_users_may_be_changed():
    async def story() -> None:
        api = Changing()
        api.label = "team"
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


def test_who_takes_labels_away_later_gets_two_pods_of_an_engine_and_no_third():
    async def story() -> tuple[int, str]:
        api = fake_api.Api()

        def strip() -> None:
            for path, body in list(api.objects.items()):
                labels = body["metadata"].get("labels", {})
                if path.startswith(paths.pods("rl")) and labels.get(names.LABEL_COMPONENT):
                    del labels[names.LABEL_COMPONENT]
                    api.touch(path, {})

        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            while api.reason(*KEY) != "PodRejected":
                strip()
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            count = len(api.pods("rl"))
            message = api.pool(*KEY)["status"]["conditions"][0]["message"]
            for path in [p for p in api.objects if p.startswith(paths.pods("rl"))]:
                api._delete(path, {})
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            return count, message

    count, message = asyncio.run(story())
    assert count == 2
    assert "2 pods of engine g0-1 stand aside" in message
