"""What is looked up is little: of few nodes, seldom, and bounded in size."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.ask.capacity import Holder
from sglang_operator.cluster import lookups
from sglang_operator.cluster.lookups import Lookups
from sglang_operator.kube.errors import (
    ApiError,
    ApiTooLargeError,
)

GPU = "nvidia.com/gpu"


def pod(name: str, node: str, gpus: int) -> dict[str, Any]:
    limits = {GPU: str(gpus)} if gpus else {"cpu": "1"}
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": limits}}]},
    }


class Client:
    """Answers with the pods of the node that is asked about."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = pods
        self.asked: list[Mapping[str, Any]] = []
        self.fault: Exception | None = None
        self.answer: bytes | None = None

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str], **bounds: Any
    ) -> bytes:
        self.asked.append({"path": path, **params, **bounds})
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        node = params["fieldSelector"].partition(",")[0].removeprefix("spec.nodeName=")
        found = [body for body in self.pods if body["spec"]["nodeName"] == node]
        return self.answer or json.dumps({"items": found}).encode()


def census(client: Client, *nodes: str, times: int = 1) -> Any:
    async def story() -> Any:
        found = Lookups(client)  # type: ignore[arg-type]
        return (await asyncio.gather(*(found.census(GPU, nodes) for _ in range(times))))[-1]

    return asyncio.run(story())


def test_only_the_pods_of_nodes_with_gpus_are_asked_for():
    client = Client(pod("a", "gpu-0", 4), pod("web", "gpu-0", 0), pod("b", "cpu-0", 0))
    found = census(client, "gpu-0", "gpu-1")
    assert found == {"gpu-0": (Holder(namespace="shop", name="a", count=4),)}
    selectors = [asked["fieldSelector"] for asked in client.asked]
    assert [selector.partition(",")[0] for selector in selectors] == [
        "spec.nodeName=gpu-0",
        "spec.nodeName=gpu-1",
    ]
    assert all("status.phase!=Failed" in selector for selector in selectors)
    assert {asked["most"] for asked in client.asked} == {lookups.MOST_BYTES}


def test_many_pools_at_once_ask_once():
    client = Client(pod("a", "gpu-0", 4))
    assert census(client, "gpu-0", times=100) == {
        "gpu-0": (Holder(namespace="shop", name="a", count=4),)
    }
    assert len(client.asked) == 1


def test_pools_with_other_gpus_do_not_have_them_asked_again():
    client = Client(pod("a", "gpu-0", 4))

    async def story() -> None:
        found = Lookups(client)  # type: ignore[arg-type]
        for _ in range(20):
            assert await found.census(GPU, ["gpu-0"]) == {
                "gpu-0": (Holder(namespace="shop", name="a", count=4),)
            }
            assert await found.census("amd.com/gpu", ["gpu-1"]) == {}
            assert await found.census("example.com/none", []) == {}

    asyncio.run(story())
    assert len(client.asked) == 2


def test_the_answers_for_few_resources_are_kept():
    client = Client()

    async def story() -> Lookups:
        found = Lookups(client)  # type: ignore[arg-type]
        for number in range(100):
            await found.census(f"example.com/gpu-{number}", ["gpu-0"])
        return found

    assert len(asyncio.run(story())._censuses) == lookups.MOST_RESOURCES


def test_what_could_not_be_learnt_is_not_asked_again_at_once():
    client = Client()
    client.fault = ApiTooLargeError("an answer of more than 16 MiB")
    assert census(client, "gpu-0", "gpu-1", times=50) is None
    assert len(client.asked) == 1


def test_the_more_it_takes_the_more_seldom_it_is_asked(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = Client()
    nodes = [f"gpu-{number}" for number in range(400)]

    async def story() -> None:
        nonlocal now
        found = Lookups(client)  # type: ignore[arg-type]
        for _ in range(1000):
            await found.census(GPU, nodes)
            now += 1.0

    asyncio.run(story())
    assert len(client.asked) <= 1000 / lookups.SECONDS_OF_NODE


def test_of_a_cluster_that_is_too_large_nothing_is_asked():
    client = Client()
    assert census(client, *(f"gpu-{number}" for number in range(lookups.MOST_NODES + 1))) is None
    assert not client.asked


def test_where_it_is_forbidden_it_is_asked_seldom(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = Client(pod("a", "gpu-0", 4))
    client.fault = ApiError(403, "Forbidden", "no", None)

    async def story() -> None:
        nonlocal now
        found = Lookups(client)  # type: ignore[arg-type]
        for number in range(5):
            assert await found.census(GPU, [f"gpu-{number}"]) is None
        assert len(client.asked) == 1
        now += lookups.REFUSED_SECONDS
        client.fault = None  # the role was mended
        assert await found.census(GPU, ["gpu-0"])

    asyncio.run(story())


class EventsOfOne:
    """Gives the events of every namespace but one."""

    def __init__(self, forbidden: str) -> None:
        self.forbidden: str | None = forbidden
        self.asked = 0

    async def request(self, method: str, path: str, **bounds: Any) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if f"/namespaces/{self.forbidden}/" in path:
            raise ApiError(403, "Forbidden", "no", None)
        return b'{"items": [{"reason": "FailedMount", "message": "no such share"}]}'


def test_a_namespace_whose_events_may_not_be_read_costs_the_others_nothing(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = EventsOfOne("team-b")
    uids = [names.Uid(f"u{number}") for number in range(4)]

    async def story() -> None:
        nonlocal now
        found = Lookups(client)  # type: ignore[arg-type]
        assert not any((await found.events("team-b", uids)).values())
        assert all((await found.events("team-a", uids)).values())
        before = client.asked
        assert not await found.events("team-b", uids)
        assert client.asked == before
        now += lookups.REFUSED_SECONDS
        client.forbidden = None  # its role was mended
        assert all((await found.events("team-b", uids)).values())

    asyncio.run(story())


BAD = [b"null", b'{"items": null}', b'{"items": [null]}', b"[" * 5000, b'{"items": [{"spec": 3}]}']


@pytest.mark.parametrize("answer", BAD)
def test_an_answer_that_cannot_be_read_explains_nothing_and_harms_nobody(answer):
    client = Client()
    client.answer = answer

    async def story() -> None:
        found = Lookups(client)  # type: ignore[arg-type]
        assert not await found.census(GPU, ["gpu-0"])
        told = await found.events("rl", [names.Uid("uid")])
        assert all(event.reason == "" for event in told[names.Uid("uid")])

    asyncio.run(story())
