"""The pods of one pool as they are, read past the stream that tells of them."""

import asyncio
from typing import Any

import msgspec

from sglang_operator.api import names
from sglang_operator.cluster.roll_call import RollCall
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.observed import wire
from tests.unit.cluster.test_stores import KEY, Wakes, a_pod

VERSION = 200


class Client:
    """Answers with a page for each pod."""

    def __init__(self, *pods: wire.Pod) -> None:
        self.pods = [msgspec.to_builtins(pod) for pod in pods]
        self.asked: list[dict[str, str]] = []

    async def request(self, method: str, path: str, *, params: dict[str, str]) -> bytes:
        self.asked.append(dict(params))
        place = int(params.get("continue", 0))
        more = str(place + 1) if place + 1 < len(self.pods) else ""
        meta = {"resourceVersion": str(VERSION), "continue": more}
        items = self.pods[place : place + 1]
        return msgspec.json.encode({"metadata": meta, "items": items})


def called(store: PodStore, *pods: wire.Pod) -> tuple[bool, Client]:
    client: Any = Client(*pods)
    return asyncio.run(RollCall(client, store).take(KEY)), client


def known(store: PodStore, key: PoolKey = KEY) -> set[tuple[str, int]]:
    return {(entry.pod.name, entry.pod.resource_version) for entry in store.of(key)}


def test_all_pages_are_read_and_who_is_not_in_them_is_gone():
    store = PodStore(Wakes())
    for pod in (a_pod("a", 100), a_pod("gone", 101), a_pod("new", 201)):
        store.put(pod)
    is_news, client = called(store, a_pod("a", 150), a_pod("b", 160))
    assert is_news
    assert known(store) == {("a", 150), ("b", 160), ("new", 201)}
    (selector,) = {asked["labelSelector"] for asked in client.asked}
    assert selector == ",".join(
        f"{key}={value}" for key, value in sorted(names.serving_selector(KEY.name).items())
    )
    store.put(a_pod("gone", 101))  # a late answer
    assert "gone" not in {name for name, _ in known(store)}


def test_what_was_known_is_no_news():
    store = PodStore(Wakes())
    store.put(a_pod("a", 100))
    assert not called(store, a_pod("a", 100))[0]


def test_pods_of_other_pools_and_those_out_of_sight_stay():
    store = PodStore(Wakes())
    aside = a_pod("aside", 100)
    del aside.metadata.labels[names.LABEL_COMPONENT]
    store.put(aside)
    other = msgspec.to_builtins(a_pod("other", 100))
    other["metadata"]["ownerReferences"][0]["name"] = "other"
    store.put(msgspec.convert(other, wire.Pod))
    assert not called(store)[0]
    assert known(store) == {("aside", 100)}
    assert known(store, PoolKey("rl", "other")) == {("other", 100)}
