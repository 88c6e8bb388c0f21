"""What a trainer says of its GPUs, in a ConfigMap and by hand: one model, and one judge."""

import dataclasses
import json
import time

import pytest

from sglang_operator.api import names
from sglang_operator.api.spec import GivenSlot
from sglang_operator.placement import slots
from tests.unit.placement.trainers import THREE, a_slot, gpu, published

WHERE = "ConfigMap actor-infer-slots"


def test_what_is_published_is_read_as_it_was_meant():
    found = slots.published(published(*THREE), WHERE)
    assert not found.problems
    assert tuple(found.slots.values()) == THREE


def test_slots_by_hand_are_the_same_without_a_pod_to_follow():
    given = [GivenSlot(node_rank=0, node="gpu-0", gpus=list(THREE[0].gpus))]
    found = slots.by_hand(given, "spec.placement.shared.slots")
    assert not found.problems
    assert found.slots == {0: a_slot(0, pod="", uid="")}


def test_who_the_trainer_runs_as_is_told_where_it_is_known():
    (slot,) = slots.published(published(a_slot(0, user=1000)), WHERE).slots.values()
    assert slot.user == 1000
    assert a_slot(0).user is None


def test_two_pods_of_one_node_have_a_slot_each():
    """By UUID: both count their GPUs from 0."""
    first = a_slot(0, "gpu-0", gpus=(gpu(0, 4), gpu(0, 5)))
    second = a_slot(1, "gpu-0", gpus=(gpu(0, 0), gpu(0, 1)))
    found = slots.published(published(first, second), WHERE)
    assert not found.problems
    assert [slot.node for slot in found.slots.values()] == ["gpu-0", "gpu-0"]


@pytest.mark.parametrize("key", ["engines", "node-rank-", "node-rank-01", "node-rank-x"])
def test_a_key_that_is_no_slot_s_is_nobody_s_business(key):
    assert slots.published({key: "x"}, WHERE) == slots.Slots()
    assert names.slot_of(key) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "no JSON"),
        ("[]", "a list"),
        ("[" * 4_000, "no JSON"),
        ("x" * 20_000, "20000 characters"),
        (json.dumps({"node": "a", "pod": "b", "gpus": []}), "null for uid"),
        (json.dumps({"node": 1, "pod": "b", "uid": "c", "gpus": []}), "a number for node"),
        (json.dumps({"node": "a", "pod": "b", "uid": "c", "gpus": "GPU-1"}), "no list of texts"),
    ],
)
def test_what_is_no_slot_is_told_with_what_it_should_be(text, found):
    (problem,) = slots.published({"node-rank-0": text}, WHERE).problems
    assert problem.reason == "SlotsDisagree"
    assert problem.field == f"{WHERE}, node-rank-0"
    assert f"found {found}" in problem.message
    assert "expected {" in problem.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": ("GPU-1",)}, "the GPU GPU-1"),
        ({"gpus": ("0",)}, "the GPU 0"),
        ({"gpus": ("all",)}, "the GPU all"),
        ({"gpus": (f"MIG-{gpu(0, 0)[4:]}",)}, "parts of a card (MIG) cannot be shared so"),
        ({"gpus": (gpu(10, 10).upper(),)}, "small hexadecimal digits"),
        ({"gpus": ()}, "0 GPUs for node rank 0"),
        ({"gpus": (gpu(0, 0), gpu(0, 0))}, "twice, in node rank 0"),
        ({"node": "not a node"}, "the node not a node"),
        ({"pod": "Trainer"}, "the pod Trainer"),
    ],
)
def test_what_cannot_be_a_slot_is_told(changes, words):
    (problem,) = slots.published(published(a_slot(0, **changes)), WHERE).problems
    assert words in str(problem)


def test_a_gpu_in_two_slots_is_told_with_both():
    wrong = a_slot(1, gpus=(gpu(1, 0), gpu(0, 3)))
    (problem,) = slots.published(published(THREE[0], wrong), WHERE).problems
    assert f"GPU {gpu(0, 3)} twice, in node ranks 0 and 1" in problem.message


def test_a_node_rank_is_written_once():
    given = [GivenSlot(node_rank=0, node="a", gpus=[gpu(0, each)]) for each in range(2)]
    (problem,) = slots.by_hand(given, "spec.placement.shared.slots").problems
    assert problem.field == "spec.placement.shared.slots[1].nodeRank"


def test_a_mark_is_another_one_wherever_the_gpus_are_or_whose_they_are():
    slot, gpus = THREE[0], THREE[0].gpus[:2]
    marks = {
        slot.mark(gpus),
        slot.mark(gpus[::-1]),
        slot.mark(slot.gpus[2:4]),
        a_slot(0, "other").mark(gpus),
        a_slot(0, uid="uid-anew").mark(gpus),
    }
    assert len(marks) == 5
    assert slots.trainer_of(slot.mark(gpus)) == "uid-trainer-0"
    assert slots.trainer_of(a_slot(0, uid="").mark(gpus)) == ""
    assert slots.trainer_of("") == ""


# --- sizes that whoever may write the ConfigMap could choose


class Counted(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_the_gpus_of_a_slot_are_not_compared_with_each_other(monkeypatch):
    monkeypatch.setattr(Counted, "compared", 0)
    given = [
        GivenSlot(node_rank=rank, node="a", gpus=[Counted(gpu(rank, each)) for each in range(64)])
        for rank in range(8)
    ]
    assert not slots.by_hand(given, "spec.placement.shared.slots").problems
    assert Counted.compared < 64, "hashes that are the same by chance"


def of_size(characters: int, number: int) -> dict[str, str]:
    """So many slots, as long together, of as many GPUs as that leaves room for."""
    each = characters // number - 100
    return {
        names.slot_key(rank): slots.written(
            a_slot(rank, gpus=tuple(f"{rank:x}{index:x}" for index in range(each // 9)))
        )
        for rank in range(number)
    }


HOSTILE = {
    "many texts": of_size(10**6, 63),
    "as many slots as there may be": of_size(10**6, slots.MOST_SLOTS),
    "more slots": {names.slot_key(rank): "" for rank in range(9999)},
    "GPUs of a right form": published(
        *(
            a_slot(rank, gpus=tuple(gpu(rank, each) for each in range(64 if rank < 340 else 1)))
            for rank in range(slots.MOST_SLOTS)
        )
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_slots_is_read_in_little_time(data):
    """Once in each pass: 4.8 s of CPU time where each text was compared with all of its slot."""
    spent = []
    for _ in range(3):
        begun = time.process_time()
        found = slots.published(data, WHERE)
        spent.append(time.process_time() - begun)
    assert len(found.problems) <= 1
    assert min(spent) < 0.05


def test_slots_are_counted_before_any_is_read(monkeypatch):
    monkeypatch.setattr(slots, "_read", None)
    (problem,) = slots.published(HOSTILE["more slots"], WHERE).problems
    assert (problem.field, problem.reason) == (WHERE, "SlotsDisagree")
    assert f"found 9999 slots; expected at most {slots.MOST_SLOTS}" in problem.message


def test_the_gpus_of_a_slot_are_counted_before_any_is_looked_at(monkeypatch):
    monkeypatch.setattr(slots, "_GPU", None)
    found = slots.published(published(a_slot(0, gpus=("x",) * 65)), "ConfigMap sizes-slots")
    assert "found 65 GPUs for node rank 0; expected 1 to 64" in str(found.problems[0])


def test_a_slot_of_the_largest_size_is_read():
    """So many UUIDs, and names that are as long as Kubernetes allows."""
    most = a_slot(9999, ".".join(["a" * 63] * 4)[:253], pod="b" * 253, user=2**31 - 1)
    most = dataclasses.replace(most, gpus=tuple(gpu(0, each) for each in range(slots.MOST_GPUS)))
    found = slots.published(published(most), WHERE)
    assert not [each for each in found.problems if "characters" in each.message]


def test_what_has_not_changed_is_not_read_again(monkeypatch):
    data = published(*THREE)
    before = slots.published(data, WHERE)
    monkeypatch.setattr(slots, "_parsed", None)
    assert slots.published(dict(data), WHERE) == before
