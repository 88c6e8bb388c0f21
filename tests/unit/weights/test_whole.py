"""Which engines hold the weights that they are to be answered from."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.weights import lease_state, lost_lease, steps, whole
from sglang_operator.weights.lease_state import Transaction
from sglang_operator.weights.steps import Trainer
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
