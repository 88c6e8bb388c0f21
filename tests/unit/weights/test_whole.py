"""Which engines hold the weights that they are to be answered from."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.weights import lease_state, lost_lease, steps, whole
from sglang_operator.weights.lease_state import Transaction
from sglang_operator.weights.steps import Trainer
from tests.unit.weights import test_parts as apart
from tests.unit.weights.test_lease_state import (
    LATER,
    MINE,
    NOW,
    OTHER,
    A,
    B,
    C,
    asleep,
    committed,
    in_vain,
    syncing,
    withdrawn,
)

OTHER_LIFE = Trainer(holder="trainer-0", transaction="t4")


def shared_over(before: Transaction, engines: tuple[str, ...] = (A, B)) -> Transaction:
    """A shared sync over this, as another process reads it in the Lease."""
    later = NOW + before.duration + 1
    step: dict[str, Any] = {"epoch": "e", "version": "v", "now": later, "seen": NOW}
    begun = steps.begin(before, LATER, engines=engines, shared=True, **step)
    return lease_state.read(lease_state.written({}, begun))


@pytest.mark.parametrize(
    ("before", "held"),
    [
        (Transaction(), [A, B]),
        (withdrawn(Transaction()), [A, B]),
        (committed(), [A, B]),
        (withdrawn(committed()), [A, B]),
        (dataclasses.replace(committed(), instances=frozenset({A})), [A]),
        (dataclasses.replace(Transaction(), torn=frozenset({A})), []),
        (in_vain(committed()), [A, B]),
        (asleep("weights"), []),
        (steps.aborted(committed(), "no"), []),
        (syncing(), []),
        (lost_lease.made_anew(MINE, message="", now=NOW), []),
    ],
)
def test_the_processes_of_a_shared_sync_read_what_held_whole_weights_as_it_began(before, held):
    begun = shared_over(before)
    assert [each for each in (A, B, C) if whole.still_whole(each, begun)] == held
    alone = syncing(before, LATER, now=NOW + 99)
    assert not any(whole.still_whole(each, alone) for each in (A, B, C))


ALL = (apart.A, apart.B, apart.C)


def kept(*runs: str, state: Transaction | None = None) -> Transaction:
    return apart.asleep(*runs, tags=["kv_cache"], state=state)


@pytest.mark.parametrize(
    ("before", "held"),
    [
        (apart.sleeping(apart.A), [*ALL]),  # nobody is named yet: nothing is released
        (apart.asleep(apart.A), [apart.B, apart.C]),
        (apart.asleep(apart.B, state=apart.asleep(apart.A)), [apart.C]),
        (apart.asleep(apart.C, state=apart.asleep(apart.A, apart.B)), []),
        (kept(apart.A), [*ALL]),
        (kept(apart.B, state=apart.asleep(apart.A)), [apart.B, apart.C]),
        (apart.asleep(apart.A, state=kept(apart.A, apart.B)), [apart.B, apart.C]),
        (kept(apart.A, state=Transaction()), [*ALL]),
        (apart.resumed(apart.asleep(apart.A), apart.A), [apart.B, apart.C]),
        (apart.resumed(apart.asleep(apart.A, apart.B), apart.A), [apart.C]),
        (apart.resumed(kept(apart.A), apart.A), [*ALL]),
        (steps.aborted(apart.asleep(apart.A), "no"), []),
    ],
)
def test_of_a_pool_of_which_a_part_sleeps_who_serves_is_whole_and_who_gave_weights_up_is_not(
    before, held
):
    """As the trainer itself sees it, and as the processes of its shared sync read it."""
    assert whole.whole(ALL, before) == held
    begun = shared_over(before, ALL)
    assert [each for each in ALL if whole.still_whole(each, begun)] == held


@pytest.mark.parametrize(
    "ends",
    [
        lambda state: steps.abort(state, LATER, message="no"),
        lambda state: steps.aborted(state, "no"),
        lambda state: steps.ended(state, "admin", message="no", now=NOW),
        lambda state: steps.attach(steps.rests(state, LATER), OTHER_LIFE, now=NOW, seen=NOW),
        lambda state: steps.commit(state, LATER, instances=[A], wrote=[A], now=NOW),
        lambda state: syncing(state, OTHER, now=NOW + 999),
    ],
    ids=["abort", "expiry", "by force", "attach", "commit", "the next sync"],
)
def test_nothing_counts_as_whole_by_what_a_sync_before_has_found(ends):
    after = ends(shared_over(committed()))
    assert not after.found_whole
    # Who does not know of it leaves it standing in another transaction.
    stood = lease_state.written({}, shared_over(committed()))
    notes = stood["metadata"]["annotations"]
    stood["metadata"]["annotations"] = notes | {names.ANNOTATION_TRANSACTION: "another"}
    assert not lease_state.read(stood).found_whole
