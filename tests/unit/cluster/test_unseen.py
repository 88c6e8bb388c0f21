"""Pods of which no stream tells, and that may be there."""

import dataclasses

import pytest

from sglang_operator.api import names
from sglang_operator.cluster import unseen
from sglang_operator.cluster.unseen import Unseen
from sglang_operator.observed.model import ObservedPod

POD = ObservedPod(
    name="pool-g0-1-0",
    uid=names.Uid("uid-0"),
    resource_version=1,
    engine=names.EngineName("g0-1"),
    attempt=0,
    revision="r",
    gpus_seen=("GPU-0",),
)


def another(number: int, *gpus: str) -> ObservedPod:
    return dataclasses.replace(
        POD, name=f"p-{number}", uid=names.Uid(str(number)), gpus_seen=gpus or ("GPU-0",)
    )


def on(pods: Unseen, gpu: str) -> list[str]:
    return sorted(each.pod.name for each in pods.on(gpu))


def test_they_are_found_by_their_gpus_as_long_as_they_may_hold_memory_there():
    pods = Unseen()
    pods.lost("rl", "pool", another(1, "GPU-0", "GPU-1"))
    pods.add("rl", "", another(2, "GPU-1"))
    assert [on(pods, gpu) for gpu in ("GPU-0", "GPU-1", "GPU-2")] == [["p-1"], ["p-1", "p-2"], []]
    pods.add("rl", "", dataclasses.replace(another(2, "GPU-1"), over=True))
    assert on(pods, "GPU-1") == ["p-1"]
    pods.discard("1")
    assert (on(pods, "GPU-0"), on(pods, "GPU-1"), len(pods)) == ([], [], 1)


def test_one_that_turns_out_to_have_other_gpus_is_found_by_those():
    """Of a create the metadata alone is answered."""
    pods = Unseen()
    pods.add("rl", "pool", dataclasses.replace(POD, gpus_seen=()))
    pods.add("rl", "pool", POD)
    assert on(pods, "GPU-0") == [POD.name]
    pods.discard(POD.uid)
    assert on(pods, "GPU-0") == []


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(unseen, "MOST", 2)


def test_what_there_is_no_room_for_is_not_forgotten_in_silence_nor_in_anothers_place(few):
    pods = Unseen()
    pods.lost("rl", "pool", POD)
    for number in range(1, 5):
        pods.lost("mine", "", another(number))
    pods.lost("rl", "pool", another(9))
    assert on(pods, "GPU-0") == ["p-1", "p-2", "p-9", POD.name]
    assert (pods.beyond("mine"), pods.beyond("rl")) == (2, 0)


def test_more_is_known_again_once_all_pods_of_the_namespace_were_read(few):
    pods = Unseen()
    for number in range(3):
        pods.lost("mine", "", another(number))
    before = pods.beyond("mine")
    pods.lost("mine", "", another(3))
    pods.recounted("mine", before)
    assert pods.beyond("mine"), "one more was lost while they were read"
    pods.recounted("mine", pods.beyond("mine"))
    assert not pods.beyond("mine")
    pods.discard("0")
    pods.lost("mine", "", another(3))
    assert not pods.beyond("mine")


def test_those_that_are_known_beside_take_no_room(few):
    pods = Unseen()
    for number in range(5):
        pods.add("mine", "", another(number))
    assert (len(pods), pods.beyond("mine")) == (5, 0)


def test_a_new_one_is_told_of_until_it_is_asked_for():
    pods = Unseen()
    pods.add("rl", "pool", POD)
    assert (pods.news.is_set(), pods.has_new("rl"), pods.namespaces) == (True, True, ["rl"])
    (each,) = pods.of("rl")
    pods.asked(each)
    pods.add("rl", "pool", POD)
    assert not pods.has_new("rl")
    pods.discard(POD.uid)
    assert (pods.namespaces, list(pods.of("rl")), pods.get(POD.uid)) == ([], [], None)
