"""What the operator leaves of a sync whose holder is gone."""

import dataclasses

import pytest

from sglang_operator.gates import lease as leases
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pool


@pytest.mark.parametrize("asleep", [("a",), ()])
def test_one_that_died_amid_waking_is_told_as_that_once_it_has_expired(asleep):
    """Who takes the memory next would count on all of them to be asleep."""
    dies = steps.Trainer(holder="trainer", transaction="t-sleeps")
    state = steps.sleep(Transaction(), dies, tags=["weights"], now=NOW, seen=NOW)
    slept = steps.rests(steps.slept(state, dies, instances=["a"], now=NOW), dies)
    slept = dataclasses.replace(slept, asleep=asleep)
    syncs = dataclasses.replace(dies, transaction="t-syncs")
    says = steps.begin(slept, syncs, epoch="", version="v", now=NOW, seen=NOW)
    (lease,) = a_lease_saying(a_pool(), says).values()
    lease = dataclasses.replace(lease, seen=NOW)
    step, _ = leases.expiry(lease, says, dies, NOW + 60.0)
    assert step is not None
    assert step.state.phase is Phase.ABORTED
    assert step.state.at_work is bool(asleep)
