"""Where each engine belongs, and what is said where nobody can tell."""

import pytest

from sglang_operator.placement import seats
from sglang_operator.placement.seats import Seen, TrainerPod
from tests.builders import a_pool
from tests.unit.placement.trainers import THREE, a_slot, gpu, pods, published

WHERE = "ConfigMap actor-infer-slots"
ENGINES = {each.name: each.shares for each in a_pool().engines}


def seating(*of, engines=ENGINES, per_node=8, **seen):
    told = {"trainers": pods(*of), "nodes": {slot.node for slot in of}} | seen
    there = Seen(published=published(*of), **told)
    known = seats.published(there, engines, per_node, WHERE)
    return seats.seating(known, engines, per_node, there, WHERE)


def test_each_engine_has_the_gpus_of_its_ids_on_its_trainers_node():
    found = seating(*THREE)
    assert found.problem is None
    assert not found.waits
    (seat,) = found.seats["g10-11"]
    assert (seat.node, seat.gpus) == ("gpu-1", (gpu(1, 2), gpu(1, 3)))


def test_the_order_is_that_of_the_device_group():
    (seat,) = seating(*THREE, engines={"g1-0": ((1, 0),)}).seats["g1-0"]
    assert seat.gpus == (gpu(0, 1), gpu(0, 0))


def test_an_engine_across_nodes_has_a_seat_on_each():
    found = seating(*THREE, engines={"g0-15": (tuple(range(8)), tuple(range(8, 16)))})
    assert [seat.node for seat in found.seats["g0-15"]] == ["gpu-0", "gpu-1"]
    assert found.seats["g0-15"][1].gpus == THREE[1].gpus


def test_a_trainer_with_some_of_a_node_s_gpus_counts_them_alone():
    first = a_slot(0, "gpu-0", gpus=(gpu(0, 6), gpu(0, 7)))
    second = a_slot(1, "gpu-0", gpus=(gpu(0, 2), gpu(0, 3)))
    engines = {"g0-1": ((0, 1),), "g2-3": ((2, 3),)}
    found = seating(first, second, engines=engines, per_node=2)
    assert found.seats["g0-1"][0].gpus == (gpu(0, 6), gpu(0, 7))
    assert found.seats["g2-3"][0].gpus == (gpu(0, 2), gpu(0, 3))


def test_engines_whose_slot_is_not_published_yet_wait_and_the_others_do_not():
    found = seating(THREE[0], THREE[2])
    assert found.problem is None
    assert len(found.seats) == 8
    assert "at node rank 1 (ConfigMap actor-infer-slots)" in found.why_waiting("g8-9")
    assert found.why_waiting("g0-1") == ""


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (a_slot(0, gpus=THREE[0].gpus[:4]), "found 4 GPUs for node rank 0; expected at least 8"),
        (a_slot(0, gpus=("0",)), "the GPU 0"),
    ],
)
def test_slots_that_contradict_the_mapping_leave_nobody_a_seat(slot, words):
    found = seating(slot, *THREE[1:])
    assert not found.seats
    assert all(words in found.why_waiting(name) for name in ENGINES)


def test_a_node_that_there_is_not_is_told():
    found = seating(*THREE, nodes={"gpu-0", "gpu-1"})
    assert "found node gpu-2 for node rank 2; expected the name of a node" in str(found.problem)
    assert seating(*THREE, nodes=None).problem is None


def test_a_node_that_is_gone_with_the_trainers_pod_is_no_contradiction():
    found = seating(*THREE, nodes={"gpu-0", "gpu-1"}, trainers=pods(*THREE[:2]))
    assert found.problem is None
    assert len(found.waits) == 4


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (None, "pod trainer-0 of the trainer, which has the GPUs of node rank 0, is not there"),
        (TrainerPod(uid="anew", node="gpu-5"), "pod trainer-0 of the trainer was made anew"),
        (TrainerPod(uid="uid-trainer-0", node="gpu-0", gone=True), "on its way out"),
        (TrainerPod(uid="uid-trainer-0", node=""), "pod trainer-0 of the trainer, which has the "),
        (TrainerPod(uid="uid-trainer-0", node=""), "of node rank 0, is on no node yet"),
        (
            TrainerPod(uid="uid-trainer-0", node="other"),
            "pod trainer-0 of the trainer is on node other, but what it has published of node "
            f"rank 0 ({WHERE}) names node gpu-0: have it publish its own (spec.nodeName)",
        ),
    ],
)
def test_engines_wait_for_a_trainers_pod_that_is_not_there(pod, words):
    there = {name: each for name, each in pods(*THREE).items() if name != "trainer-0"}
    found = seating(*THREE, trainers=there if pod is None else {**there, "trainer-0": pod})
    assert found.problem is None
    assert words in found.why_waiting("g0-1")
    assert found.why_waiting("g8-9") == ""


@pytest.mark.parametrize("node", ["", "gpu-0"], ids=["not bound", "bound to another"])
def test_a_pod_has_no_say_about_a_node_that_it_is_not_on(node):
    """Else whoever may make a pod, which need never start, could have engines on any node."""
    there = {**pods(*THREE), "trainer-0": TrainerPod(uid="uid-trainer-0", node=node)}
    claims = a_slot(0, "control-plane-1", gpus=THREE[1].gpus)
    found = seating(claims, *THREE[1:], trainers=there)
    assert found.problem is None, "it stalls no other either"
    assert "g0-1" not in found.seats
    assert found.seats["g8-9"][0].node == "gpu-1"


# --- what a trainer of before has left


@pytest.mark.parametrize(
    "stale",
    [
        a_slot(1, "gpu-0", gpus=THREE[0].gpus),
        a_slot(1, gpus=THREE[1].gpus[:4]),
        a_slot(1, gpus=("0",)),
        a_slot(1, "gone"),
    ],
    ids=["GPUs that are another's now", "too few", "no UUID", "on a node that is gone"],
)
def test_a_slot_whose_pod_is_gone_disagrees_with_nobody(stale):
    there = {"trainers": pods(THREE[0], THREE[2]), "nodes": {"gpu-0", "gpu-1", "gpu-2"}}
    found = seating(THREE[0], stale, THREE[2], **there)
    assert found.problem is None
    assert len(found.seats) == 8
    assert "pod trainer-1 of the trainer" in found.why_waiting("g8-9")


def test_a_name_that_no_pod_can_have_is_no_pod_to_wait_for():
    """It would be repeated in conditions, at any length."""
    found = seating(a_slot(0, pod="x\n" * 900), *THREE[1:], trainers=pods(*THREE))
    assert "expected the name of a pod" in str(found.problem)
    assert len(str(found.problem)) < 1000


@pytest.mark.parametrize("trainers", [pods(*THREE), None], ids=["seen", "nobody looked"])
def test_a_node_rank_that_the_mapping_does_not_name_disagrees_with_nobody(trainers):
    engines = {name: shares for name, shares in ENGINES.items() if name in ("g0-1", "g2-3")}
    other = a_slot(1, "gpu-0", gpus=THREE[0].gpus)
    found = seating(THREE[0], other, a_slot(2, gpus=("0",)), engines=engines, trainers=trainers)
    assert found.problem is None
    assert set(found.seats) == {"g0-1", "g2-3"}


# --- who has to go


def marks(found, engine):
    return [seat.mark for seat in found.seats[engine]]


def test_an_engine_stays_while_its_gpus_are_where_they_were():
    found = seating(*THREE)
    assert found.left("g0-1", marks(found, "g0-1")) == ""


def test_an_engine_goes_when_its_trainers_pod_is_gone_whatever_else_is_said():
    before = marks(seating(*THREE), "g0-1")
    for later in (seating(trainers={}), seating(*THREE, trainers=pods(*THREE[1:]))):
        assert "gone" in later.left("g0-1", before)


def test_an_engine_goes_when_its_gpus_are_elsewhere():
    before = marks(seating(*THREE), "g0-1")
    moved = seating(a_slot(0, "gpu-9"), *THREE[1:])
    assert "on node gpu-9 now" in moved.left("g0-1", before)


@pytest.mark.parametrize(
    "later",
    [
        seating(*THREE[1:], trainers=pods(*THREE)),
        seating(a_slot(0, gpus=("0",)), *THREE[1:]),
        seating(trainers=None),
        seating(a_slot(0, "gpu-9"), *THREE[1:], trainers=pods(*THREE)),
    ],
    ids=[
        "a slot is not there any more",
        "slots disagree",
        "nobody knows who is there",
        "a slot is not where its pod is",
    ],
)
def test_an_engine_stays_while_nothing_says_that_it_has_to_go(later):
    assert later.left("g0-1", marks(seating(*THREE), "g0-1")) == ""


def test_a_pod_without_a_mark_is_the_rollout_s_to_replace():
    assert seating(*THREE).left("g0-1", [""]) == ""
