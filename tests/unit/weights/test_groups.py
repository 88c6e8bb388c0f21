"""Whose process groups the engines are in, as the Lease says it."""

import dataclasses
import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.weights import groups, lease_state, steps
from sglang_operator.weights.groups import FORMING_SECONDS
from sglang_operator.weights.lease_state import GroupsOwner, Transaction
from sglang_operator.weights.steps import Refusal, RefusedError, Trainer

NOW = 1_800_000_000.0
A = GroupsOwner(id="a1", holder="job-a")
B = GroupsOwner(id="b1", holder="job-b")
MINE = Trainer(holder="job-a", transaction="t1")


def claimed(
    state: Transaction, me: GroupsOwner, *, now: float = NOW, seen: float = NOW
) -> Transaction:
    return groups.claimed(state, me, now=now, seen=seen)


def owner(state: Transaction) -> GroupsOwner:
    assert state.groups is not None
    return state.groups


def refusal(call: Any, *arguments: Any, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **options)
    return caught.value


def test_who_sets_groups_up_stands_on_record_until_another_does():
    state = claimed(Transaction(), A)
    assert state.groups == dataclasses.replace(A, since=NOW, seen=NOW, claims=1)
    again = claimed(state, A, now=NOW + 5)
    assert again.groups == dataclasses.replace(A, since=NOW, seen=NOW + 5, claims=2)
    other = claimed(again, B, now=NOW + 9)
    assert other.groups == dataclasses.replace(B, since=NOW + 9, seen=NOW + 9, claims=1)


def test_while_a_job_forms_its_groups_no_other_does():
    forming = claimed(Transaction(), dataclasses.replace(A, forming=True))
    refused = refusal(claimed, forming, B, now=NOW + FORMING_SECONDS, seen=NOW)
    assert refused.reason is Refusal.FORMING
    assert "job-a forms its process groups" in str(refused)
    late = NOW + FORMING_SECONDS + 1
    assert owner(claimed(forming, B, now=late, seen=NOW)).id == "b1"
    has_formed = groups.acts(forming, "a1", NOW + 1)
    assert has_formed.groups == dataclasses.replace(A, since=NOW, seen=NOW + 1, claims=1)
    assert owner(claimed(has_formed, B, now=NOW + 2, seen=NOW + 1)).id == "b1"


def test_another_that_acts_says_nothing_of_the_groups():
    state = claimed(Transaction(), A)
    assert groups.acts(state, "b1", NOW + 1) is state
    assert groups.acts(Transaction(), "", NOW + 1) == Transaction()


@pytest.mark.parametrize(
    ("after", "forming", "in_use"), [(1, False, True), (31, False, False), (31, True, True)]
)
def test_groups_are_in_use_while_their_owner_was_seen_within_its_duration(after, forming, in_use):
    state = claimed(Transaction(), dataclasses.replace(A, forming=forming))
    groups.unused(state, "job-a", NOW + after)
    if not in_use:
        groups.unused(state, "kubectl", NOW + after)
        return
    refused = refusal(groups.unused, state, "kubectl", NOW + after)
    assert refused.reason is Refusal.IN_USE
    assert "job-a" in str(refused)
    assert "--force" in str(refused)


def test_what_was_reset_is_in_nobodys_use():
    state = claimed(Transaction(), dataclasses.replace(A, left=True))
    groups.unused(state, "kubectl", NOW)


@pytest.mark.parametrize("step", ["begin", "abort", "expire", "operator"])
def test_no_other_step_takes_it_off_the_record(step):
    state = claimed(Transaction(), A)
    if step != "operator":
        state = steps.begin(state, MINE, epoch="e", version="1", now=NOW, seen=NOW)
    if step == "abort":
        state = steps.abort(state, MINE, message="why")
    if step == "expire":
        state = steps.aborted(state, "silent")
    assert state.groups == claimed(Transaction(), A).groups
    assert lease_state.read(lease_state.written({}, state)).groups == state.groups


def test_an_operator_that_knows_nothing_of_it_leaves_it_as_it_is(monkeypatch):
    lease = lease_state.written({}, claimed(Transaction(), A))
    known = dict(lease_state._ANNOTATIONS)
    del known[names.ANNOTATION_GROUPS]
    monkeypatch.setattr(lease_state, "_ANNOTATIONS", known)
    state = dataclasses.replace(lease_state.read(lease), groups=None)
    put = lease_state.written(lease, steps.aborted(state, "silent"))
    noted = lease["metadata"]["annotations"][names.ANNOTATION_GROUPS]
    assert put["metadata"]["annotations"][names.ANNOTATION_GROUPS] == noted
    patch = lease_state.patch(lease, steps.aborted(state, "silent"))
    assert names.ANNOTATION_GROUPS not in patch["metadata"]["annotations"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "job-a", "7", "null", "[]", "{}", '{"id": 5, "holder": "a"}', "[" * 5000),
        json.dumps({"id": "a", "holder": "h" * 20_000}),
    ],
)
def test_what_cannot_be_read_is_nobodys(text):
    lease = {"metadata": {"annotations": {names.ANNOTATION_GROUPS: text}}}
    assert lease_state.read(lease).groups is None


def test_what_somebody_wrote_by_hand_is_kept_within_bounds():
    said = {"id": "a\n", "holder": "h" * 600, "since": "never", "seen": [], "forming": "yes"}
    said |= {"claims": "7"}
    lease = {"metadata": {"annotations": {names.ANNOTATION_GROUPS: json.dumps(said)}}}
    found = owner(lease_state.read(lease))
    assert (found.since, found.seen, found.forming, found.claims) == (0.0, 0.0, False, 0)
    assert len(found.holder) <= 512
    assert found.id.isprintable()


def test_a_count_of_claims_that_somebody_wrote_by_hand_is_one_that_others_can_read():
    said = json.dumps({"id": "a", "holder": "h", "claims": 10**400})
    state = lease_state.read({"metadata": {"annotations": {names.ANNOTATION_GROUPS: said}}})
    again = claimed(state, owner(state))
    assert owner(lease_state.read(lease_state.written({}, again))).claims <= 2**31
