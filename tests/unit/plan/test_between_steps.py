"""A pool whose GPUs change in the middle of a trainer's step (``rollout.window`` BetweenSteps).

What a changed revision does then stands in ``rollouts/between_steps.yaml``.
"""

import dataclasses
from typing import Any

import pytest

from sglang_operator.observed.model import Gate, Observed, ObservedPod
from sglang_operator.observed.moment import Moment, Steps
from sglang_operator.plan.decision import Plan
from sglang_operator.plan.plan import plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pool, all_pods, created, removed

WINDOW = {"window": "BetweenSteps", "windowDeadlineSeconds": 600, "maxUnavailable": 2}
SHAPE = {"device_mapping": "list(range(0,8))", "num_gpus_per_worker": 2, "rollout": WINDOW}
GATES = pytest.mark.parametrize("gate", ["Managed", "Off"])
MOVES: dict[str, dict[str, Any]] = {
    "all others": {"device_mapping": "list(range(8,16))"},
    "half of them others": {"device_mapping": "list(range(4,12))"},
    "others, and fewer at a time": {"device_mapping": "list(range(8,16))", "replicas": 4},
}


def the_pool(gate: str, **changes) -> Pool:
    weights = {"gate": gate} if gate == "Off" else {}
    return a_pool(**{**SHAPE, "weights": weights, **changes})


def serving(pool: Pool) -> list[ObservedPod]:
    """Its engines, to which the last commit was."""
    return [
        dataclasses.replace(
            pod,
            ready=True,
            gate=Gate(is_open=True, version="step-1") if pool.gated else None,
        )
        for pod in all_pods(pool, ready=True, container_id="c1")
    ]


def decided(pool: Pool, pods, in_step, *, committed: float | None = None, since=NOW - 20) -> Plan:
    """What is decided in the step that began with some of these pods."""
    commit = Transaction(
        phase=Phase.COMMITTED,
        id="t1",
        version="step-1",
        instances=frozenset(pod.instance for pod in in_step),
        intact=True,
    )
    steps = Steps(committed=committed, rolling=Moment(wall=since, steady=since))
    children = a_lease_saying(pool, commit)
    return plan(pool, Observed(pods=tuple(pods), children=children, steps=steps), NOW)


def moved(pool: Pool, old: list[ObservedPod]) -> list[ObservedPod]:
    """The new engines have come up as well, with weights of their own."""
    there = {pod.engine for pod in old}
    return [*old, *(pod for pod in serving(pool) if pod.engine not in there)]


@GATES
@pytest.mark.parametrize("change", MOVES.values(), ids=MOVES)
def test_where_the_mapping_moves_none_that_serves_goes_in_the_middle_of_a_step(gate, change):
    pool, old = the_pool(gate, **change), serving(the_pool(gate))
    made = decided(pool, old, old)
    assert not removed(made)
    assert created(made), "new ones begin at any time"
    made = decided(pool, moved(pool, old), old)
    assert not removed(made), "not either when those that take their place serve"
    assert made.waiting is not None
    assert made.waiting.what is Waits.FOR_WINDOW
    assert made.waiting.until == NOW + 580


@GATES
def test_they_go_as_the_next_step_begins_and_at_the_deadline(gate):
    pool, old = the_pool(gate, **MOVES["all others"]), serving(the_pool(gate))
    both = moved(pool, old)
    names = {pod.name for pod in old}
    assert set(removed(decided(pool, both, both, committed=NOW - 1))) == names
    assert set(removed(decided(pool, both, old, since=NOW - 600))) == names


@GATES
def test_as_many_go_at_once_as_fewer_are_wanted(gate):
    pool, old = the_pool(gate, replicas=3), serving(the_pool(gate))
    assert len(removed(decided(pool, old, old))) == 1
    pool = the_pool(gate, device_mapping="list(range(8,14))")
    assert len(removed(decided(pool, old, old))) == 1, "but those that others take the place of"
    assert not removed(decided(pool, moved(pool, old[:3]), old))


@GATES
def test_one_that_serves_nobody_goes_where_the_mapping_moves(gate):
    pool, old = the_pool(gate, **MOVES["all others"]), serving(the_pool(gate))
    old[1] = dataclasses.replace(
        old[1], ready=False, containers_ready=False, engine_runs=False, answered=False
    )
    assert removed(decided(pool, old, old)) == [old[1].name]


@GATES
@pytest.mark.parametrize("size", [4, 1])
def test_a_regrouping_says_that_it_waits_for_the_end_of_the_step(gate, size):
    pool, old = the_pool(gate, num_gpus_per_worker=size), serving(the_pool(gate))
    made = decided(pool, old, old)
    assert not removed(made)
    assert made.waiting is not None
    assert made.waiting.what is Waits.FOR_WINDOW
    assert removed(decided(pool, old, old, committed=NOW - 1))
