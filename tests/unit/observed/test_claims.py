"""Claims and slices as the API server sends them."""

import msgspec
import pytest

from sglang_operator.observed.claims import ClaimObject, SliceObject, kept_claim, kept_slice
from sglang_operator.placement.devices import Allocated, Place
from tests.integration import slices
from tests.unit.placement.trainers import gpu

TAINT = {"key": "bad", "value": "79", "effect": "NoExecute"}


def read(kind, body):
    return msgspec.convert(body, kind)


def test_the_cards_of_a_slice_are_read_with_their_uuids_and_taints():
    body = slices.resource_slice(2, {3: TAINT, 4: {"key": "seen", "effect": "None"}})
    seen = kept_slice(read(SliceObject, body)).seen
    assert [each.uuid for each in seen] == [gpu(2, index) for index in range(8)]
    assert {each.node for each in seen} == {"gpu-node-2"}
    assert all(each.whole for each in seen)
    assert seen[3].taints == ("bad=79:NoExecute",)
    assert not seen[4].taints, "which is said to be no taint yet"


def test_a_part_of_a_card_is_no_card():
    body = slices.resource_slice(0)
    body["spec"]["devices"][0]["attributes"]["type"] = {"string": "mig"}
    seen = read(SliceObject, body).seen
    assert [each.whole for each in seen] == [False, *[True] * 7]


def test_what_a_claim_asks_for_and_has_is_read():
    body = slices.claim("job", 1)
    body["metadata"] |= {"namespace": "rl", "resourceVersion": "7"}
    several = {"name": "more", "exactly": {"deviceClassName": "x", "count": 2}}
    either = {"name": "first", "firstAvailable": [{"name": "a", "deviceClassName": "x"}]}
    body["spec"]["devices"]["requests"] += [several, either]
    results = [{"request": "cards", "driver": "d", "pool": "p", "device": "gpu-1"}]
    body["status"] = {
        "allocation": {"devices": {"results": results}},
        "reservedFor": [{"resource": "pods", "name": "trainer-0", "uid": "x"}],
    }
    seen = kept_claim(read(ClaimObject, body)).seen
    assert seen.requests == ("cards",), "that ask for one device each"
    assert seen.classes == (slices.DRIVER, "x"), "of all of them"
    assert not seen.admin
    assert seen.devices == (Allocated("cards", Place("d", "p", "gpu-1")),)
    assert (seen.allocated, seen.used, seen.users) == (True, True, ("trainer-0",))
    assert (seen.version, seen.made_of, seen.going) == (7, "", False)


@pytest.mark.parametrize(
    "request_",
    [
        {"name": "a", "exactly": {"deviceClassName": "kvm"}},
        {"name": "a", "exactly": {"deviceClassName": "kvm", "allocationMode": "All"}},
        {"name": "a", "exactly": {"deviceClassName": "kvm", "count": 2}},
        {"name": "a", "firstAvailable": [{"name": "b", "deviceClassName": "kvm"}]},
        {"name": "a", "ofALaterKubernetes": {"deviceClassName": "kvm"}},
    ],
    ids=str,
)
def test_no_way_of_asking_for_a_class_goes_unseen(request_):
    body = slices.claim("job", 1)
    body["metadata"] |= {"namespace": "rl", "resourceVersion": "7"}
    body["spec"]["devices"]["requests"].append(request_)
    seen = read(ClaimObject, body).seen
    assert {*seen.classes} - {slices.DRIVER} == {"" if "ofALaterKubernetes" in request_ else "kvm"}


def test_a_claim_for_devices_of_others_is_seen_to_be_one():
    body = slices.claim("job", 1)
    body["metadata"] |= {"namespace": "rl", "resourceVersion": "7"}
    body["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = True
    assert read(ClaimObject, body).seen.admin
