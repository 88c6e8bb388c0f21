"""Engines that came up after a commit catch up from its checkpoint, and the Lease knows of it."""

import dataclasses

import pytest

from sglang_operator.gates import decide, recovery
from sglang_operator.observed.model import EngineReport, Gate, Loading
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import LEASE_SECONDS, Phase, Transaction
from tests.builders import NOW, OPERATOR, a_lease_saying, a_pool, all_pods, weighed

OPEN = Gate(is_open=True, version="step-1", reason=decide.COMMITTED)
ME = steps.Trainer(holder=OPERATOR, transaction="")
OTHER = steps.Trainer(holder="operator-b", transaction="")
RESTED = NOW + recovery.REST_SECONDS


def a_recovering_pool(**changes):
    return a_pool(
        weights={"recovery": "FromCheckpoint"}, device_mapping="list(range(0,6))", **changes
    )


def running(pool, **changes):
    return [
        dataclasses.replace(pod, container_id=f"containerd://{pod.name}")
        for pod in all_pods(pool, **changes)
    ]


def committed(pods, **changes):
    values = {
        "phase": Phase.COMMITTED,
        "id": "t1",
        "version": "step-1",
        "checkpoint": "/ckpt/step-1",
        "intact": True,
        "instances": frozenset(pod.instance for pod in pods),
    }
    return Transaction(**{**values, **changes})


def loading(pod, **changes):
    of = {"path": "/ckpt/step-1", "version": "step-1", "commit": "t1"}
    return {pod.instance: EngineReport(instance=pod.instance, loading=Loading(**{**of, **changes}))}


class Case:
    """Three engines, of which the first was covered; the others came up after."""

    def __init__(self, **changes):
        self.pool = a_recovering_pool()
        self.pods = running(self.pool)
        self.state = committed(self.pods[:1], **changes)

    def weigh(self, now=RESTED, pods=None, operator=OPERATOR, seen=NOW, pool=None, **observed):
        pool = pool or self.pool
        lease = a_lease_saying(pool, self.state, seen=seen)
        return weighed(
            pool, self.pods if pods is None else pods, now, operator, children=lease, **observed
        )

    def held(self, *pods, by=ME, now=NOW):
        instances = [pod.instance for pod in pods]
        self.state = steps.recover(self.state, by, instances=instances, now=now, seen=now)
        return self


def test_the_lease_is_taken_before_anything_is_loaded():
    case = Case()
    plan = case.weigh()
    assert plan.recoveries == ()
    assert plan.recovery is not None
    state = plan.recovery.state
    lacking = {pod.instance for pod in case.pods[1:]}
    assert (state.phase, state.holder, state.recovering) == (Phase.COMMITTED, OPERATOR, lacking)
    assert state.id == "t1"  # nothing new to whoever follows the trainer's transactions
    case.state = state
    loads = {(load.instance, load.checkpoint, load.version) for load in case.weigh().recoveries}
    assert loads == {(run, "/ckpt/step-1", "step-1") for run in lacking}


def test_the_lease_is_left_to_trainers_for_a_moment_first():
    plan = Case().weigh(now=RESTED - 0.5)
    assert plan.recovery is None
    assert plan.due == RESTED


def test_what_is_loaded_is_covered_like_the_rest_and_the_last_one_frees_the_lease():
    case = Case().held(*(case := Case()).pods[1:])
    plan = case.weigh(reports=loading(case.pods[1], done=True))
    assert not any(
        gate.pod.name == case.pods[1].name for gate in plan.gates
    )  # not before it stands
    case.state = plan.recovery.state
    assert case.state.instances == {pod.instance for pod in case.pods[:2]}
    assert case.state.recovering == {case.pods[2].instance}
    opened = {(gate.pod.name, gate.reason, gate.message) for gate in case.weigh().gates}
    assert (case.pods[1].name, decide.COMMITTED, "step-1") in opened
    case.state = case.weigh(reports=loading(case.pods[2], done=True)).recovery.state
    assert (case.state.holder, case.state.recovering) == ("", frozenset())
    assert case.state.instances == {pod.instance for pod in case.pods}


def test_what_failed_opens_nothing_frees_the_lease_and_is_tried_again_in_its_time():
    case = Case().held((case := Case()).pods[1])
    failed = loading(case.pods[1], error="no such file", again=NOW + 60)
    pods = case.pods[:2]
    plan = case.weigh(pods=pods, reports=failed)
    assert plan.recovery.state == dataclasses.replace(
        committed(case.pods[:1]),
        acquired=NOW,
        renewed=RESTED,
        torn=frozenset({case.pods[1].instance}),
    )
    case.state = plan.recovery.state
    assert case.weigh(pods=pods, reports=failed).due == NOW + 60
    again = case.weigh(NOW + 60, pods=pods, reports=failed)
    case.state = again.recovery.state
    assert case.state.recovering == {case.pods[1].instance}
    # The error of the time before is not the end of this one.
    plan = case.weigh(NOW + 61, pods=pods, reports=failed, seen=NOW + 60)
    assert plan.recovery is None
    assert [load.instance for load in plan.recoveries] == [case.pods[1].instance]
    anew = loading(case.pods[1], error="no such file", again=NOW + 66, tries=2)
    case.state = case.weigh(NOW + 62, pods=pods, reports=anew, seen=NOW + 60).recovery.state
    assert (case.state.holder, case.state.recovering) == ("", frozenset())


def test_an_engine_that_ended_while_it_loaded_is_waited_for_no_more():
    case = Case().held((case := Case()).pods[1])
    state = case.weigh(pods=case.pods[:1]).recovery.state
    assert (state.holder, state.instances) == ("", {case.pods[0].instance})


def test_an_engine_that_misses_its_probes_while_it_reads_loads_on():
    case = Case().held((case := Case()).pods[1])
    busy = dataclasses.replace(case.pods[1], containers_ready=False)
    assert [load.instance for load in case.weigh(pods=[case.pods[0], busy]).recoveries] == [
        busy.instance
    ]


def test_an_engine_of_which_kubelet_tells_no_container_loads_on():
    """A status that is not there is no end: what was sent is written over what comes after."""
    case = Case().held((case := Case()).pods[1])
    unseen = dataclasses.replace(case.pods[1], container_id="", containers_ready=False, ip="")
    plan = case.weigh(pods=[case.pods[0], unseen])
    assert plan.recovery is None
    assert [load.instance for load in plan.recoveries] == [case.pods[1].instance]
    ended = dataclasses.replace(unseen, over=True)
    assert case.weigh(pods=[case.pods[0], ended]).recovery.state.holder == ""
    other = dataclasses.replace(case.pods[1], container_id="containerd://other")
    assert case.weigh(pods=[case.pods[0], other]).recovery.state.holder == ""


def test_the_hold_is_renewed_though_the_wall_clock_was_set_back():
    case = Case().held(*(case := Case()).pods[1:])
    back = NOW - 3600  # and what was seen moves with it
    later = back + LEASE_SECONDS / 3
    plan = case.weigh(now=later, seen=back)
    assert plan.recovery.state == dataclasses.replace(case.state, renewed=later)


def test_the_hold_is_renewed_while_loads_go_on():
    case = Case().held(*(case := Case()).pods[1:])
    plan = case.weigh(now=NOW + LEASE_SECONDS / 3 - 1)
    assert plan.recovery is None
    assert plan.due == NOW + LEASE_SECONDS / 3
    later = NOW + LEASE_SECONDS / 3
    assert case.weigh(now=later).recovery.state == dataclasses.replace(case.state, renewed=later)


def test_engines_that_come_up_soon_join_and_later_ones_wait_for_the_next_time():
    case = Case().held((case := Case()).pods[1])
    both = {pod.instance for pod in case.pods[1:]}
    assert case.weigh().recovery.state.recovering == both
    late = NOW + recovery.JOIN_SECONDS + 1
    case.state = dataclasses.replace(case.state, renewed=late)
    assert case.weigh(now=late, seen=late).recovery is None


def test_nobody_joins_loads_that_were_begun_in_the_future():
    """The clock was put back since: a trainer would have had no turn for that hour."""
    case = Case().held((case := Case()).pods[1])
    case.state = dataclasses.replace(case.state, acquired=NOW + 3600)
    assert case.weigh().recovery is None


def test_nobody_loads_while_another_operator_does_until_it_is_gone():
    case = Case().held(*(case := Case()).pods[1:], by=OTHER)
    plan = case.weigh()
    assert (plan.recovery, plan.recoveries) == (None, ())
    assert plan.due == NOW + LEASE_SECONDS
    taken = case.weigh(now=NOW + LEASE_SECONDS + 1)
    assert taken.recoveries == ()
    assert taken.recovery.state.holder == OPERATOR


def test_what_an_operator_that_is_gone_left_in_the_lease_is_cleared_away():
    case = Case().held((case := Case()).pods[1], by=OTHER)
    gone = case.weigh(now=NOW + LEASE_SECONDS + 1, pods=case.pods[:1]).recovery
    assert (gone.state.holder, gone.state.recovering) == ("", frozenset())


def test_a_pool_that_is_told_to_wait_loads_no_more_and_lets_its_hold_run_out():
    case = Case().held(*(case := Case()).pods[1:])
    waiting = a_pool(device_mapping="list(range(0,6))")
    plan = case.weigh(pool=waiting)
    assert (plan.recovery, plan.recoveries) == (None, ())
    assert case.weigh(NOW + LEASE_SECONDS + 1, pool=waiting).recovery.state.holder == ""


def test_the_load_of_another_commit_counts_for_nothing():
    case = Case().held((case := Case()).pods[1])
    for changes in ({"commit": "t0"}, {"version": "step-0"}, {"path": "/ckpt/step-0"}):
        plan = case.weigh(pods=case.pods[:2], reports=loading(case.pods[1], done=True, **changes))
        assert [load.instance for load in plan.recoveries] == [case.pods[1].instance], changes


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.COMMITTED])
def test_nothing_is_loaded_but_after_a_commit(phase):
    case = Case()
    case.state = dataclasses.replace(
        case.state, phase=phase, holder="trainer", recovering=frozenset({"stale"})
    )
    plan = case.weigh()
    assert (plan.recovery, plan.recoveries) == (None, ())


def test_loads_whose_holder_was_edited_away_are_waited_for():
    """So are those that an older client left in the Lease when it took it, once."""
    case = Case()
    case.state = dataclasses.replace(case.state, recovering=frozenset({"on its way"}))
    plan = case.weigh()
    expires = NOW + case.state.duration
    assert (plan.recovery, plan.recoveries, plan.due) == (None, (), expires)
    again = case.weigh(expires + 1).recovery.state
    assert again.recovering == {pod.instance for pod in case.pods[1:]}
    over = case.weigh(expires + 1, pods=case.pods[:1]).recovery.state
    assert (over.holder, over.recovering) == ("", frozenset())


def test_without_a_checkpoint_or_anybody_who_may_ask_engines_they_wait_for_the_trainer():
    case = Case()
    assert case.weigh(operator="").recovery is None
    case.state = dataclasses.replace(case.state, checkpoint="")
    assert case.weigh().recovery is None


def test_who_serves_already_loads_nothing():
    case = Case()
    gate = Gate(is_open=True, version="step-1", reason=decide.RECOVERED)
    pods = [case.pods[0], *(dataclasses.replace(pod, gate=gate) for pod in case.pods[1:])]
    plan = case.weigh(pods=pods)
    assert plan.recovery is None
    # As an earlier version of the operator opened it.
    assert {gate.pod.name for gate in plan.gates} == {case.pods[0].name}


def test_only_so_many_load_at_a_time():
    pool = a_pool(weights={"recovery": "FromCheckpoint"}, device_mapping="list(range(0,80))")
    pods = running(pool)
    lease = a_lease_saying(pool, committed([]))
    taking = weighed(pool, pods, RESTED, children=lease).recovery
    assert taking is not None
    state = taking.state
    assert len(state.recovering) == recovery.AT_ONCE < len(pods)
    again = weighed(pool, pods, RESTED, children=a_lease_saying(pool, state, seen=RESTED))
    assert again.recovery is None
    assert len(again.recoveries) == recovery.AT_ONCE
