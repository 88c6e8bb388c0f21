"""The pods of one pool as they are, read past the stream that tells of them."""

import asyncio
from typing import Any

import msgspec
import pytest

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
    assert selector == names.pods_text(KEY.name), "of engines that span nodes also followers"
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


def test_what_the_stream_still_tells_of_the_time_before_makes_no_pod():
    """It is behind: those who are not among the pods that were read are gone, known or not."""
    store = PodStore(Wakes())
    called(store, a_pod("a", 150))
    for record in (a_pod("never-known", 120), a_pod("last-moment", VERSION), a_pod("a", 130)):
        store.put(record)
    assert known(store) == {("a", 150)}
    store.put(a_pod("new", VERSION + 1))
    assert known(store) == {("a", 150), ("new", VERSION + 1)}


def test_pods_that_were_not_asked_for_are_learnt_from_the_stream_as_ever():
    store = PodStore(Wakes())
    called(store)
    aside = a_pod("aside", 100)
    del aside.metadata.labels[names.LABEL_COMPONENT]
    elsewhere = msgspec.structs.replace(a_pod("p").metadata, namespace="elsewhere")
    store.put(aside)
    store.put(msgspec.structs.replace(a_pod("p"), metadata=elsewhere))
    assert known(store) == {("aside", 100)}
    assert known(store, PoolKey("elsewhere", KEY.name)) == {("p", 10)}


def test_a_pod_that_was_there_and_could_not_be_read_is_learnt_from_the_stream():
    store = PodStore(Wakes())
    store.replace_of(KEY, [], VERSION, [a_pod("unreadable").metadata])
    store.put(a_pod("unreadable", 100))
    assert known(store) == {("unreadable", 100)}
    store.replace_of(KEY, [], VERSION, [wire.Meta()])  # anybody
    store.put(a_pod("whoever", 100))
    assert known(store) == {("unreadable", 100), ("whoever", 100)}


def test_what_the_api_server_answers_of_a_pod_counts_whatever_its_version():
    """The cluster may have been restored from a backup, and the stream has not told of it yet."""
    store = PodStore(Wakes())
    called(store)
    store.answered(a_pod("made", 100))
    assert known(store) == {("made", 100)}


@pytest.mark.parametrize(
    ("versions", "is_there"),
    [
        pytest.param((150,), False, id="a list that was under way"),
        pytest.param((150, 160), True, id="a restored cluster"),
        pytest.param((VERSION,), True, id="a list as new as that"),
    ],
)
def test_what_lists_of_the_stream_say_of_those_who_were_not_read(versions, is_there):
    store = PodStore(Wakes())
    called(store)
    for version in versions:
        store.replace("", [a_pod("p", 100)], version)
    assert bool(known(store)) is is_there


def test_once_the_cluster_is_restored_versions_say_nothing_of_what_was_read_before():
    store = PodStore(Wakes())
    called(store)
    store.restored()
    store.put(a_pod("p", 100))
    assert known(store) == {("p", 100)}
