"""Slot: GPUs by a claim for each node rank, which engines and trainer refer to."""

import dataclasses

import pytest

from sglang_operator.api import conditions, texts
from sglang_operator.api.names import EngineName
from sglang_operator.placement.base import Placed
from sglang_operator.placement.devices import Inventory, Pin
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, guide_spec
from tests.unit.placement.claims import (
    DRIVER,
    SLOT,
    a_claim,
    a_slot_pool,
    cards,
    inventory,
    place,
    requests,
    seated,
)
from tests.unit.placement.trainers import a_slot, gpu, pods

HALF = {"device_mapping": "list(range(0,8))", "num_gpus_per_worker": 4}
FIRST, SECOND = EngineName("g0-3"), EngineName("g4-7")
NAME = f"{OWNER.name}-node-0"


def only(raw):
    """The one thing that is wrong with this spec."""
    found = resolve_pool(OWNER, raw)
    assert isinstance(found, Refused)
    (problem,) = found.errors
    return problem


# --- what is wanted


def test_each_node_rank_is_a_claim_with_a_request_for_each_gpu_that_the_mapping_names():
    pool = a_slot_pool(device_mapping="list(range(0,8)) + list(range(12,16))")
    one, two = seated(pool, inventory()).claims
    assert (one.name, two.name) == (NAME, f"{OWNER.name}-node-1")
    assert [each["name"] for each in requests(one.spec)] == [f"gpu-{n}" for n in range(8)]
    assert [each["name"] for each in requests(two.spec)] == [f"gpu-{n}" for n in range(4, 8)]
    for asked in (each["exactly"] for each in requests(one.spec)):
        assert asked == {
            "deviceClassName": DRIVER,
            "allocationMode": "ExactCount",
            "count": 1,
        }


def test_an_engine_has_the_requests_of_its_ids():
    pool = a_slot_pool(**HALF)
    seats = seated(pool, inventory(a_claim(pool, 0))).seats
    (first,), (second,) = seats[FIRST], seats[SECOND]
    assert (first.claim, first.requests) == (NAME, ("gpu-0", "gpu-1", "gpu-2", "gpu-3"))
    assert second.requests == ("gpu-4", "gpu-5", "gpu-6", "gpu-7")
    assert first.mark != second.mark
    assert not set(first.gpus) & set(second.gpus), "nobody is taken for being in the other's place"


def test_engines_release_their_memory_as_on_any_trainers_gpus():
    assert "--enable-memory-saver" in a_slot_pool().argv
    config = {**guide_spec()["strategy_args"]["strategy_config"], "enable_memory_saver": False}
    strategy = {**guide_spec()["strategy_args"], "strategy_config": config}
    problem = only(guide_spec(placement=SLOT, strategy_args=strategy))
    assert problem.reason == "MemorySaverOff"


def test_a_listed_claim_that_is_another_node_ranks_is_nobodys_seat_there():
    """Engines of the two would be put on the same GPUs."""
    listed = {**SLOT, "slot": {"claims": [{"nodeRank": 1, "claimName": NAME}]}}
    pool = a_slot_pool(device_mapping="list(range(0,16))", num_gpus_per_worker=8, placement=listed)
    seating = seated(pool, inventory(a_claim(pool, 0)))
    ((waits, why),) = seating.waits.items()
    assert waits == EngineName("g8-15")
    assert "is that of node rank 0" in why


# --- what is refused


@pytest.mark.parametrize(
    ("slot", "field", "words"),
    [
        (
            {"claims": [{"nodeRank": 9, "claimName": "gpus"}]},
            "claims[0].nodeRank",
            "found node rank 9; expected one that device_mapping names: 0, 1, 2",
        ),
        (
            {"claims": [{"nodeRank": n, "claimName": "gpus"} for n in (0, 1)]},
            "claims[1]",
            "claim gpus a second time",
        ),
        (
            {"claims": [{"nodeRank": n, "claimName": "ab"[n]} for n in (0, 0)]},
            "claims[1]",
            "found node rank 0",
        ),
        ({"claims": [{"nodeRank": 0, "claimName": "GPUs"}]}, "claims[0].claimName", "GPUs"),
        ({"deviceClassName": "GPUs"}, "deviceClassName", "GPUs"),
        ({"sharedMemory": {"hostPath": "/etc"}}, "sharedMemory.hostPath", "NAMESPACE"),
    ],
)
def test_a_wrong_claim_is_refused_in_words(slot, field, words):
    problem = only(guide_spec(placement={**SLOT, "slot": slot}))
    assert problem.field == f"spec.placement.slot.{field}"
    assert words in problem.message


LISTED = {**SLOT, "slot": {"claims": [{"nodeRank": 0, "claimName": "mine"}]}}
KVM = "kvm.devices.example.com"
OF_KVM = f"deviceclass.resource.kubernetes.io/{KVM}"


@pytest.mark.parametrize("listed", [True, False], ids=["by name", "under the operator's name"])
@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ({"classes": (KVM,)}, f"the resource {OF_KVM} of ResourceClaim"),
        ({"classes": (DRIVER, KVM)}, f"the resource {OF_KVM} of ResourceClaim"),
        ({"admin": True}, "adminAccess of ResourceClaim"),
    ],
    ids=str,
)
def test_a_claim_for_what_engines_may_not_have_is_nobodys_seat(listed, asks, words):
    """Also one that was made in the place of the operator's, with its annotation."""
    pool = a_slot_pool(**HALF, **({"placement": LISTED} if listed else {}))
    named = {**asks, "name": "mine"} if listed else asks
    seating = seated(pool, inventory(a_claim(a_slot_pool(**HALF), 0, **named)))
    assert not seating.seats
    assert words in seating.why_waiting(FIRST)
    assert "is not allowed here" in seating.why_waiting(FIRST)
    field = "spec.placement.slot.claims" if listed else "spec.placement.slot"
    assert seating.problem is not None
    assert seating.problem.field == field


def test_a_claim_of_a_class_that_the_operator_allows_is_a_seat():
    pool = dataclasses.replace(a_slot_pool(**HALF, placement=LISTED), allowed=frozenset({OF_KVM}))
    claim = a_claim(a_slot_pool(**HALF), 0, name="mine", classes=(DRIVER, KVM))
    assert seated(pool, inventory(claim)).seats.keys() == {FIRST, SECOND}


def test_a_claim_of_another_pool_is_the_same_gpus_for_both():
    """So that of the two pools at most one has their memory (``plan.contending``)."""
    claim = a_claim(a_slot_pool(**HALF), 0)
    own = seated(a_slot_pool(**HALF), inventory(claim)).seats[FIRST]
    named = {**SLOT, "slot": {"claims": [{"nodeRank": 0, "claimName": NAME}]}}
    other = dataclasses.replace(
        a_slot_pool(**HALF, placement=named), owner=dataclasses.replace(OWNER, name="other")
    )
    (seat,) = seated(other, inventory(claim)).seats[FIRST]
    assert seat.gpus == own[0].gpus


def test_a_claim_asks_for_no_more_devices_than_kubernetes_lets_it():
    wide = {"num_gpus_per_node": 64, "num_gpus_per_worker": 4}
    problem = only(guide_spec(placement=SLOT, device_mapping="list(range(0,64))", **wide))
    assert "found 64 GPUs of one node rank; expected at most 32" in problem.message
    a_slot_pool(device_mapping="list(range(0,32))", **wide)


def test_of_another_mode_the_section_is_refused():
    problem = only(guide_spec(placement={"slot": {"pinned": False}}))
    assert problem.reason == "PlacementSectionUnused"
    assert "expected Slot" in problem.message


def test_where_claims_are_not_served_nobody_gets_a_seat():
    seating = seated(a_slot_pool(), Inventory())
    assert seating.problem is not None
    assert seating.problem.reason == conditions.CLAIMS_NOT_SERVED
    assert "Kubernetes 1.34" in seating.problem.message
    assert not seating.seats


@pytest.mark.parametrize(
    ("node", "counted", "refused"),
    [
        (None, {"gpu-1": 8}, True),  # its claim may come there
        (0, {"gpu-1": 8}, False),
        (1, {"gpu-1": 8}, True),
        (None, {"gpu-1": 0}, False),
        (None, {"cpu-only": 8}, False),  # no driver publishes its GPUs
    ],
)
def test_a_node_whose_gpus_are_counted_twice_is_refused_by_name(node, counted, refused):
    pool = a_slot_pool(**HALF)
    seating = seated(pool, inventory(a_claim(pool, 0, node)), counted=counted)
    assert (seating.problem is not None) is refused
    if seating.problem is not None:
        assert "GPUs of node gpu-1 counted by a device plugin (nvidia.com/gpu)" in str(
            seating.problem
        )


# --- who waits


def test_engines_wait_for_their_claim():
    pool = a_slot_pool(**HALF)
    waits = seated(pool, inventory()).waits
    assert waits.keys() == {FIRST, SECOND}
    assert f"ResourceClaim {NAME}" in waits[FIRST] and "yet to be made" in waits[FIRST]
    assert not seated(pool, inventory(a_claim(pool, 0))).waits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"going": True, "users": ("trainer-0",)}, "is being deleted (pods trainer-0 have it)"),
        ({"made_of": ""}, "is somebody else's"),
        ({"made_of": "0123"}, "is made anew"),
    ],
)
def test_why_a_claim_cannot_be_referred_to_is_told(changes, words):
    pool = a_slot_pool(**HALF)
    assert words in seated(pool, inventory(a_claim(pool, 0, **changes))).waits[FIRST]


def test_who_has_no_request_in_a_claim_that_pods_have_waits_and_the_others_do_not():
    old = a_slot_pool(device_mapping="list(range(0,4))", num_gpus_per_worker=4)
    seating = seated(a_slot_pool(**HALF), inventory(a_claim(old, 0, 0)))
    assert seating.seats.keys() == {FIRST}
    assert "has no request gpu-4, gpu-5, gpu-6, gpu-7" in seating.waits[SECOND]
    (warning,) = seating.warnings
    assert warning.reason == "ClaimOutdated"
    assert "trainer-0" in warning.message


def test_a_claim_that_is_named_is_nobodys_to_make():
    slot = {"claims": [{"nodeRank": 0, "claimName": "trainers"}]}
    pool = a_slot_pool(placement={**SLOT, "slot": slot}, **HALF)
    seating = seated(pool, inventory())
    assert not seating.claims
    assert "there is no ResourceClaim trainers" in seating.waits[FIRST]
    there = a_claim(pool, 0, 1, name="trainers")
    (seat,) = seated(pool, inventory(there)).seats[FIRST]
    assert seat.claim == "trainers"
    lacks = dataclasses.replace(there, requests=("cards",))
    assert "has no request gpu-0" in seated(pool, inventory(lacks)).waits[FIRST]


def test_an_engine_whose_claim_is_another_one_goes():
    pool = a_slot_pool(**HALF)
    (seat,) = seated(pool, inventory(a_claim(pool, 0))).seats[FIRST]
    slot = {"claims": [{"nodeRank": 0, "claimName": "trainers"}]}
    other = a_slot_pool(placement={**SLOT, "slot": slot}, **HALF)
    there = seated(other, inventory(a_claim(other, 0, name="trainers")))
    assert there.left(FIRST, [seat.mark]) == "the GPUs of its ids are those of ResourceClaim " + (
        "trainers now"
    )
    assert not seated(pool, inventory(a_claim(pool, 0, 2))).left(FIRST, [seat.mark])


def test_an_engine_that_was_made_in_mode_shared_goes_with_its_trainer():
    mark = a_slot(0).mark([gpu(0, 0)])
    pool = a_slot_pool(**HALF)
    assert seated(pool, inventory(), trainers={}).left(FIRST, [mark]) == texts.SEAT_LEFT
    assert not seated(pool, inventory(), trainers=pods(a_slot(0))).left(FIRST, [mark])


# --- what a claim has, and gets again


def test_the_devices_behind_a_claim_are_told_by_uuid():
    pool = a_slot_pool(**HALF)
    (held,) = seated(pool, inventory(a_claim(pool, 0, 2))).slots
    told = held.written(8)
    assert (told["nodeRank"], told["claim"], told["node"]) == (0, NAME, "gpu-2")
    assert told["allocated"] is True
    assert told["gpus"][3] == {"id": 3, "request": "gpu-3", "uuid": gpu(2, 3)}


def test_a_claim_that_nobody_has_any_more_is_to_have_the_same_devices_again():
    pool = a_slot_pool(**HALF)
    pins = seated(pool, inventory(a_claim(pool, 0, 2))).pins
    assert pins == {0: Pin("gpu-2", DRIVER, {n: gpu(2, n) for n in range(8)})}
    seating = seated(pool, inventory(a_claim(pool, 0)), pins=pins)
    (wanted,) = seating.claims
    (selector,) = requests(wanted.spec)[3]["exactly"]["selectors"]
    assert selector["cel"]["expression"] == (
        f'device.attributes["gpu.nvidia.com"].uuid == "{gpu(2, 3)}"'
    )
    assert "is made anew" in seating.waits[FIRST], "the present one asks for any"
    anew = a_claim(pool, 0, made_of=wanted.made_of)
    assert not seated(pool, inventory(anew), pins=pins).waits
    assert seated(pool, inventory(anew), pins=pins).pins == pins, "also while it has none"


def test_whoever_does_not_want_the_same_devices_says_so():
    pool = a_slot_pool(placement={**SLOT, "slot": {"pinned": False}}, **HALF)
    pins = {0: Pin("gpu-2", DRIVER, {n: gpu(2, n) for n in range(8)})}
    (wanted,) = seated(pool, inventory(), pins=pins).claims
    assert all("selectors" not in each["exactly"] for each in requests(wanted.spec))


@pytest.mark.parametrize(
    ("nodes", "published", "left"),
    [
        ({"gpu-0", "gpu-1", "gpu-2"}, 3, 8),
        ({"gpu-0", "gpu-1"}, 2, 0),  # the node is gone
        (None, 2, 8),  # its driver publishes nothing, and may be about to
    ],
)
def test_a_device_that_is_no_more_is_not_waited_for(nodes, published, left):
    pool = a_slot_pool(**HALF)
    pins = {0: Pin("gpu-2", DRIVER, {n: gpu(2, n) for n in range(8)})}
    found = inventory(devices=cards(published))
    seating = seated(pool, found, pins=pins, nodes=nodes)
    (wanted,) = seating.claims
    assert sum("selectors" in each["exactly"] for each in requests(wanted.spec)) == left


def test_of_a_card_that_was_replaced_the_others_are_still_asked_for():
    pool = a_slot_pool(**HALF)
    pins = {0: Pin("gpu-2", DRIVER, {n: gpu(2, n) for n in range(8)})}
    there = cards()
    there[place(2, 3)] = dataclasses.replace(there[place(2, 3)], uuid=gpu(9, 9))
    (wanted,) = seated(pool, inventory(devices=there), pins=pins).claims
    free = [each["name"] for each in requests(wanted.spec) if "selectors" not in each["exactly"]]
    assert free == ["gpu-3"]


def test_where_slices_may_not_be_read_it_is_told_that_nothing_is_known():
    pool = a_slot_pool(**HALF)
    blind = dataclasses.replace(inventory(a_claim(pool, 0, 1)), devices=None)
    seating = seated(pool, blind)
    assert [each.reason for each in seating.warnings] == ["DevicesUnknown"]
    assert not seating.pins
    assert seating.seats, "engines come up all the same"


def test_a_taint_on_a_device_is_told():
    pool = a_slot_pool(**HALF)
    there = cards()
    bad = there[place(1, 5)]
    there[bad.place] = dataclasses.replace(bad, taints=("gpu.nvidia.com/xid=79:NoExecute",))
    (warning,) = seated(pool, inventory(a_claim(pool, 0, 1), devices=there)).warnings
    assert warning.reason == "DeviceTainted"
    assert bad.uuid in warning.message and "gpu.nvidia.com/xid=79:NoExecute" in warning.message


def test_what_is_achieved_is_told():
    placed = Placed(engines=2, of=2, nodes=1, gpus=4, neighbours=("rl/other",))
    found = a_slot_pool().placement.achieved(placed)
    assert (found.complete, found.reason) == (True, conditions.CLAIMED)
    assert "8 GPUs of ResourceClaims on 1 nodes" in found.message
    assert "rl/other" in found.message
