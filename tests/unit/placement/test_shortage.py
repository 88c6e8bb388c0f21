"""Why a claim finds no devices: wanted, free, and who holds the rest."""

import dataclasses

import msgspec

from sglang_operator.cluster.device_store import ClaimStore, DeviceView, SliceStore
from sglang_operator.observed.claims import ClaimObject
from sglang_operator.observed.model import Observed
from sglang_operator.placement.devices import DeviceClaim
from sglang_operator.plan import seating
from sglang_operator.plan.plan import plan
from tests.builders import NOW, OWNER
from tests.integration import slices
from tests.unit.placement.claims import (
    SLOT,
    a_claim,
    a_slot_pool,
    cards,
    inventory,
    place,
    seated,
)
from tests.unit.placement.test_slot import FIRST, HALF, SECOND
from tests.unit.placement.trainers import gpu

OTHER = {"made_of": "", "name": "job"}


def test_of_a_claim_that_no_node_has_room_for_it_is_told_who_has_it():
    pool = a_slot_pool(**HALF)
    small = a_claim(pool, 0, 0, **OTHER)
    small = dataclasses.replace(small, devices=small.devices[:3])
    foreign = a_claim(pool, 0, 1, namespace="others", **OTHER)
    found = inventory(a_claim(pool, 0), small, foreign, devices=cards(2))
    told = seated(pool, found).lacking
    assert told.keys() == {FIRST, SECOND}
    assert "wants 8 devices of class gpu.nvidia.com on one node" in told[FIRST]
    assert "5 of 16 cards are free in the cluster" in told[FIRST]
    assert "nearest is gpu-0 with 5 of 8 free, held by ResourceClaim job (pods trainer-0 have it) 3"
    assert "others" not in told[FIRST], "who may read the status may not know those of others"


def test_a_claim_of_another_namespace_is_counted_and_not_named():
    pool = a_slot_pool(**HALF)
    foreign = a_claim(pool, 0, 0, namespace="others", **OTHER)
    told = seated(pool, inventory(a_claim(pool, 0), foreign, devices=cards(1))).lacking[FIRST]
    assert "held by ResourceClaims of other namespaces 8" in told


def test_where_there_is_room_nothing_is_said_of_devices():
    pool = a_slot_pool(**HALF)
    assert not seated(pool, inventory(a_claim(pool, 0))).lacking
    assert not seated(pool, inventory(a_claim(pool, 0, 0))).lacking, "it has them"


def test_that_no_driver_publishes_a_card_is_told():
    pool = a_slot_pool(**HALF)
    told = seated(pool, inventory(a_claim(pool, 0), devices={})).lacking[FIRST]
    assert "no driver publishes a card" in told


def pinned(**changes):
    """Why a claim that is to have its devices again does not."""
    pool = a_slot_pool(placement=SLOT, **HALF)
    pins = seated(pool, inventory(a_claim(pool, 0, 2))).pins
    (wanted,) = seated(pool, inventory(), pins=pins).claims
    again = a_claim(pool, 0, made_of=wanted.made_of)
    more = changes.pop("holders", ())
    return seated(pool, inventory(again, *more, **changes), pins=pins).lacking[FIRST]


def test_who_has_the_device_that_a_claim_had_is_told():
    holder = a_claim(a_slot_pool(**HALF), 0, 2, **OTHER)
    told = pinned(holders=(holder,))
    assert f"is to have GPU {gpu(2, 0)} on node gpu-2 again, which ResourceClaim job" in told
    assert "placement.slot.pinned: false" in told


def test_that_such_a_device_is_tainted_or_not_published_is_told():
    there = cards()
    bad = there[place(2, 4)]
    there[bad.place] = dataclasses.replace(bad, taints=("bad:NoSchedule",))
    assert "has the taint bad:NoSchedule" in pinned(devices=there)
    assert "where no driver publishes devices now" in pinned(devices=cards(2))


class Counted(dict[tuple[str, str], DeviceClaim]):
    """Counts how many claims were looked at in going through all."""

    seen = 0

    def values(self):
        for each in super().values():
            self.seen += 1
            yield each


def test_whoever_waits_goes_through_the_claims_of_a_cluster_once():
    """Of 20,000 each was looked at three times in every pass of every pool that waits."""
    pool, many = a_slot_pool(**HALF), 20_000
    known = Counted({("rl", f"{OWNER.name}-node-0"): a_claim(pool, 0)})
    for number in range(many - 1):
        name = f"job-{number}"
        known["others", name] = a_claim(pool, 0, number % 3, namespace="others", name=name)
    found = dataclasses.replace(inventory(devices=cards(3)), claims=known)
    observed = Observed(inventory=found)
    other = dataclasses.replace(pool)
    every = plan(pool, observed, NOW).seating, *(seating.of(p, observed) for p in (pool, other))
    assert all(each is not None and each.lacking for each in every)
    assert known.seen == many


def test_what_was_found_out_of_claims_stands_until_one_changes():
    claims, slices_ = ClaimStore(lambda *_: None), SliceStore(lambda *_: None)
    slices_.served(True)
    claims.replace("", [], 1)
    view = DeviceView(claims, slices_)
    first = view.of(False)
    assert view.of(False) is first
    body = slices.claim("job", 1)
    body["metadata"] |= {"namespace": "rl", "resourceVersion": "7"}
    claims.put(msgspec.convert(body, ClaimObject))
    assert view.of(False) is not first
    assert view.of(True).claims is None
