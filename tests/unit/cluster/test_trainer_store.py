"""Which pods of trainers there are, by the stream of those that carry the label."""

from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.cluster.trainer_store import TrainerStore
from sglang_operator.observed import trainers
from sglang_operator.observed.trainers import TrainerObject
from sglang_operator.placement.seats import TrainerPod


def a_pod(name: str = "trainer-0", version: int = 1, **changes: Any) -> TrainerObject:
    meta = {
        "name": name,
        "namespace": "rl",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {names.LABEL_TRAINER: "job", "more": "words"},
    }
    told = {
        "metadata": meta | changes.pop("metadata", {}),
        "spec": {"nodeName": changes.pop("node", "gpu-0")},
        "status": {"phase": changes.pop("phase", "Running")},
    }
    return msgspec.convert(told, TrainerObject)


class World:
    def __init__(self) -> None:
        self.woken: list[str] = []
        self.store = TrainerStore(self.woken.append)

    def take(self, pod: TrainerObject) -> list[str]:
        """Tell of a pod; whom that wakes."""
        self.woken.clear()
        self.store.put(trainers.kept(pod))
        return list(self.woken)


@pytest.fixture
def world() -> World:
    return World()


def test_a_pod_is_known_by_its_name_and_wakes_its_namespace_once(world):
    assert world.take(a_pod()) == ["rl"]
    assert world.take(a_pod(version=2)) == []
    assert world.store.of("rl") == {"trainer-0": TrainerPod(uid="uid-trainer-0", node="gpu-0")}
    assert world.store.of("other") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"deletionTimestamp": "2026-11-30T12:00:00Z"}},
        {"phase": "Failed"},
        {"phase": "Succeeded"},
    ],
    ids=["it is deleted", "it failed", "it is done"],
)
def test_one_that_ends_or_goes_is_gone(world, change):
    world.take(a_pod())
    assert world.take(a_pod(version=2, **change)) == ["rl"]
    assert world.store.of("rl")["trainer-0"].gone


def test_one_that_was_deleted_is_not_there(world):
    world.take(a_pod())
    world.store.drop(a_pod(version=2))
    assert not world.store.of("rl")
    assert world.woken == ["rl", "rl"]


def test_one_without_the_label_is_not_there(world):
    world.take(a_pod())
    world.take(a_pod(version=2, metadata={"labels": {}}))
    assert not world.store.of("rl")


def test_the_end_of_an_earlier_pod_of_its_name_is_none_of_its_own(world):
    world.take(a_pod(version=5, metadata={"uid": "anew"}))
    world.store.drop(a_pod(version=4))
    assert world.store.of("rl")["trainer-0"].uid == "anew"


def test_an_older_word_is_not_taken_and_after_a_restore_it_is(world):
    world.take(a_pod(version=5))
    world.take(a_pod(version=4, node="gpu-9"))
    assert world.store.of("rl")["trainer-0"].node == "gpu-0"
    world.store.restored()
    world.take(a_pod(version=1, node="gpu-9"))
    assert world.store.of("rl")["trainer-0"].node == "gpu-9"


def test_a_list_is_all_there_is(world):
    world.take(a_pod())
    world.take(a_pod("trainer-1", version=9))
    world.store.replace("", [], 7)
    assert list(world.store.of("rl")) == ["trainer-1"]
    world.store.replace("other", [], 20)
    assert list(world.store.of("rl")) == ["trainer-1"]
    world.store.replace("rl", [a_pod("trainer-2", version=20)], 21)
    assert list(world.store.of("rl")) == ["trainer-2"]


def test_no_more_of_a_pod_is_kept_than_is_asked_for():
    kept = trainers.kept(a_pod())
    assert kept.metadata.labels == {names.LABEL_TRAINER: ""}
    assert kept.seen == a_pod().seen
