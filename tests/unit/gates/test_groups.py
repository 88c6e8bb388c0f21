"""The gate of an engine of several pods: the leader's, by what is known of all of them."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api.spec import Weights
from sglang_operator.gates import decide
from sglang_operator.observed import groups
from sglang_operator.observed.model import EngineReport, Gate, Observed, ObservedPod
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import a_lease_saying, a_pod, a_pool, guide_spec, weighed

SPEC = guide_spec(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
POOL = a_pool(SPEC)
(ENGINE,) = POOL.engines
OPEN = Gate(is_open=True, version="v1", reason=decide.COMMITTED)
LEADER = "actor-infer-g0-15-0n0"


def members(gate: Gate | None = None, pool: Any = POOL) -> list[ObservedPod]:
    pods = [a_pod(pool, ENGINE, node_rank=rank, container_id=f"c{rank}") for rank in (0, 1)]
    return [dataclasses.replace(pods[0], gate=gate), pods[1]]


def run_of(pods: list[ObservedPod]) -> str:
    (group,) = groups.of(pods)
    return str(group.last_instance)


def moved(plan: decide.GatePlan) -> dict[str, bool]:
    return {change.pod.name: change.is_open for change in plan.gates}


@pytest.mark.parametrize("rank", [0, 1])
def test_whichever_of_its_pods_stands_aside_the_gate_does_not_open(rank):
    for gate, expected in ((None, {}), (OPEN, {LEADER: False})):
        pods = members(gate)
        committed = Transaction(
            phase=Phase.COMMITTED, id="t", version="v1", instances=frozenset({run_of(pods)})
        )
        lease = a_lease_saying(POOL, committed)
        assert moved(weighed(POOL, members(), children=lease)) == {LEADER: True}
        aside = (pods.pop(rank),)
        plan = weighed(POOL, pods, children=lease, aside=aside)
        assert moved(plan) == expected
        assert {change.reason for change in plan.gates} <= {decide.ASIDE}


def test_a_run_that_was_torn_is_closed_whatever_it_says():
    pool = a_pool({**SPEC, "weights": {"gate": "Versioned"}})
    pods = members(OPEN, pool)
    run = run_of(pods)
    state = Transaction(phase=Phase.COMMITTED, id="t", version="v2", torn=frozenset({run}))
    reports = {run: EngineReport(instance=run, weight_version="v1")}
    plan = weighed(pool, pods, children=a_lease_saying(pool, state), reports=reports)
    assert moved(plan) == {LEADER: False}
    whole = dataclasses.replace(state, torn=frozenset())
    plan = weighed(pool, pods, children=a_lease_saying(pool, whole), reports=reports)
    assert moved(plan) == {}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_sleeper_of_which_one_container_is_out_of_sight_is_on_record(rank):
    """Who forgets it has a sync write into memory that is not there."""
    pods = members(Gate(is_open=False, reason="Sleeping", released=frozenset({"kv_cache"})))
    run = run_of(pods)
    state = Transaction(phase=Phase.SLEEPING, id="t", released=("kv_cache",), asleep=(run,))
    pods[rank] = dataclasses.replace(pods[rank], container_id="")
    assert run_of(pods) == run
    plan = weighed(POOL, pods, children=a_lease_saying(POOL, state))
    assert plan.hidden == (LEADER,)
    assert moved(plan) == {}, "its pod says that it sleeps"
    lost = weighed(POOL, pods, children={}, said=state)
    assert lost.restore is not None
    assert lost.restore.asleep == (run,)


def test_an_engine_that_comes_together_hides_nobody():
    leader, follower = members()
    follower = dataclasses.replace(
        follower, container_id="", last_container_id="", phase="Pending", engine_runs=False
    )
    plan = weighed(POOL, [leader, follower], children=a_lease_saying(POOL, Transaction()))
    assert plan.hidden == ()


def test_what_stands_aside_under_a_refused_spec_is_named_once():
    pods = members()
    seen: dict[str, Any] = {"children": a_lease_saying(POOL, Transaction())}
    for aside in (pods, pods[1:]):
        others = tuple(pod for pod in pods if pod not in aside)
        observed = Observed(pods=others, aside=tuple(aside), **seen)
        policy = Weights(gate=POOL.gate)
        assert decide.decide(POOL.owner, policy, (), observed, 0.0).hidden == (LEADER,)
