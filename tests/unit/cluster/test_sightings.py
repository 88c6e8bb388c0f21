"""When we saw what, whatever the stamps in objects say."""

from dataclasses import replace

import pytest

from sglang_operator.clocks import Moment
from sglang_operator.cluster import sightings
from sglang_operator.planner import restart
from sglang_operator.planner.observed import ObservedPod, Sightings, Termination
from tests.builders import NOW, a_pod, a_pool, an_ended_pod, created, planned

HOUR = 3600.0
POOL = a_pool()
ENGINE = POOL.running[0]
AT = Moment(wall=NOW, steady=500.0)
CLOCKS = pytest.mark.parametrize("skew", [HOUR, 0.0, -HOUR], ids=["ahead", "right", "behind"])


def alive(**changes) -> ObservedPod:
    seen = Sightings(first=100.0, placed=110.0)
    return a_pod(POOL, ENGINE, container_id="containerd://1", seen=seen, **changes)


def end(at: float) -> Termination:
    return Termination(exit_code=137, reason="Error", message="", finished=at, started=at - 60)


def dead(finished: float, **changes) -> ObservedPod:
    """A pod as the next event has it, before sightings are added."""
    pod = an_ended_pod(POOL, ENGINE, failures=2, termination=end(finished), **changes)
    return replace(pod, seen=Sightings(first=100.0, placed=110.0))


@CLOCKS
def test_a_backoff_counts_from_when_the_end_was_seen_whatever_a_nodes_clock_says(skew):
    pod = sightings.ended(dead(NOW - 1 + skew), AT, alive())
    assert pod.seen.ended == AT.steady
    assert restart.due(pod, POOL.spec.restart) > AT.steady


@CLOCKS
def test_or_our_own(skew):
    """The replacement came at once from an operator whose clock was an hour ahead, and an hour late
    from one whose clock was put back."""
    at = Moment(wall=NOW + skew, steady=AT.steady)
    pod = sightings.ended(dead(NOW - 1), at, alive())
    later = sightings.ended(dead(NOW - 1), Moment(wall=NOW - skew, steady=AT.steady + 3), pod)
    assert later.seen.ended == pod.seen.ended == AT.steady
    assert later.ended_at == pod.ended_at


def test_an_end_that_nobody_saw_is_as_old_as_its_stamp_says():
    pod = sightings.ended(dead(NOW - 40), AT, None)
    assert pod.seen.ended == AT.steady - 40


def test_one_whose_stamp_lies_in_the_future_waits_no_longer_than_from_now_on():
    pod = sightings.ended(dead(NOW + HOUR), AT, None)
    assert pod.seen.ended == AT.steady


@CLOCKS
def test_an_engine_that_ends_in_its_deletion_did_not_fail_whatever_its_nodes_clock_says(skew):
    """An hour behind, each engine that a rollout replaced counted as a crash."""
    going = alive(deleting=True, deletion_asked=NOW - 20)
    pod = sightings.ended(dead(NOW - 1 + skew, deleting=True, deletion_asked=NOW - 20), AT, going)
    assert not pod.failed
    assert created(planned(POOL, [pod]))[0] == (ENGINE.group, 1)


@CLOCKS
def test_an_engine_that_is_deleted_after_its_end_failed_all_the_same(skew):
    """An hour ahead, whoever deleted the pod of a crashed engine took its backoff away."""
    first = sightings.ended(dead(NOW - 30 + skew), AT, alive())
    again = sightings.ended(
        dead(NOW - 30 + skew, deleting=True, deletion_asked=NOW - 10), AT, first
    )
    assert again.failed
    third = sightings.ended(
        dead(NOW - 30 + skew, deleting=True, deletion_asked=NOW - 10), AT, again
    )
    assert third.failed


def test_a_crash_that_kubelet_told_while_the_pod_was_going_is_one():
    going = alive(deleting=True, deletion_asked=NOW - 2)
    pod = sightings.ended(dead(NOW - 5, deleting=True, deletion_asked=NOW - 2), AT, going)
    assert pod.failed


def test_a_pods_grace_counts_from_when_its_deletion_was_seen():
    seen = sightings.of_pod("gpu-node-0", NOW + HOUR, 30.0, AT, alive())
    assert seen == Sightings(first=100.0, placed=110.0, due=AT.steady + 30)
    going = alive(deleting=True, deletion_due=NOW + HOUR)
    going = replace(going, seen=seen)
    later = Moment(wall=NOW, steady=AT.steady + 5)
    assert sightings.of_pod("gpu-node-0", NOW + HOUR, 30.0, later, going) == seen
    forced = sightings.of_pod("gpu-node-0", NOW + HOUR - 25, 0.0, later, going)
    assert forced.due == later.steady


def test_a_pod_has_its_time_on_a_node_from_when_it_is_seen_there():
    waiting = replace(alive(), node="", seen=Sightings(first=100.0))
    assert sightings.of_pod("n0", 0.0, 0.0, AT, waiting) == Sightings(first=100.0, placed=500.0)
    assert sightings.of_pod("", 0.0, 0.0, AT, waiting) == Sightings(first=100.0)
