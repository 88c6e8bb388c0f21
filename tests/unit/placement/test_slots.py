"""What a trainer says of its GPUs, in a ConfigMap and by hand: one model, and one judge."""

import json

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
        ("[" * 9_000, "no JSON"),
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
