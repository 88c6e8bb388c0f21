"""When we saw what, whatever the stamps in objects say."""

from dataclasses import replace

import pytest

from sglang_operator.observed import health, sightings
from sglang_operator.observed.model import ObservedPod, Sightings, Termination
from sglang_operator.observed.moment import Moment
from sglang_operator.plan import restart
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
    assert created(planned(POOL, [pod]))[0] == (ENGINE.name, 1)


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
    due = AT.steady + 30
    assert seen == Sightings(first=100.0, placed=110.0, due=due, going=AT.steady)
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


# --- for how long an engine ran


def lived(
    told: float, *, ran: float, watched: bool = True, off: float = 0.0, seen_alive: bool = True
) -> ObservedPod:
    """An engine that ran for ``ran`` seconds, where the stamps of its node say ``told``.

    ``watched``: from before it began to run; ``off``: how wrong the node's clock is at its end.
    """
    start = Moment(wall=NOW, steady=500.0)
    pod: ObservedPod | None = None
    if watched:
        idle = a_pod(POOL, ENGINE, created=NOW - 30, engine_runs=False)
        pod = sightings.running(idle, Moment(start.wall - 1, start.steady - 1), None)
    if seen_alive:
        alive = a_pod(POOL, ENGINE, created=NOW - 30, container_id="containerd://1")
        pod = sightings.running(alive, start, pod)
    finished = NOW + ran + off
    ended = Termination(
        exit_code=1, reason="Error", message="", finished=finished, started=finished - told
    )
    last = an_ended_pod(POOL, ENGINE, failures=3, created=NOW - 30, termination=ended)
    return sightings.ended(last, Moment(NOW + ran, 500.0 + ran), pod)


RESET = POOL.spec.restart.reset_seconds
WATCHED = pytest.mark.parametrize("watched", [True, False], ids=["from the start", "later"])


@WATCHED
@pytest.mark.parametrize("jump", [3 * HOUR, -3 * HOUR], ids=["forward", "back"])
def test_a_clock_that_is_put_right_does_not_make_a_crash_a_long_life(jump, watched):
    """An engine that crashed after five seconds was started again at once, again and again."""
    pod = lived(5.0 + jump, ran=5.0, watched=watched)
    assert health.ran(pod) == 5.0
    assert restart.failures(pod, POOL.spec.restart) == 4


@WATCHED
def test_nor_a_long_life_a_crash(watched):
    pod = lived(-HOUR, ran=RESET + 60, watched=watched)
    assert health.ran(pod) == RESET + 60
    assert restart.failures(pod, POOL.spec.restart) == 1


@WATCHED
@pytest.mark.parametrize("off", [3 * HOUR, -3 * HOUR, 0.0], ids=["ahead", "behind", "right"])
@pytest.mark.parametrize("ran", [5.0, RESET + 60.0])
def test_a_clock_that_is_wrong_all_the_time_is_right_about_how_long(off, ran, watched):
    pod = lived(ran, ran=ran, watched=watched, off=off)
    assert health.ran(pod) == ran


def test_one_that_nobody_saw_run_is_as_old_as_its_pod_at_most():
    pod = lived(5.0 + 3 * HOUR, ran=5.0, watched=False, seen_alive=False)
    assert health.ran(pod) == 0.0
    assert health.ran(lived(20.0, ran=20.0, watched=False, seen_alive=False)) == 20.0
    quick = lived(5.0 + 3 * HOUR, ran=5.0, seen_alive=False)
    assert restart.failures(quick, POOL.spec.restart) == 4


def test_a_container_that_was_started_again_in_its_pod_counts_anew():
    start = Moment(wall=NOW, steady=500.0)
    first = sightings.running(a_pod(POOL, ENGINE, container_id="1"), start, None)
    same = sightings.running(a_pod(POOL, ENGINE, container_id="1"), Moment(NOW + 9, 509.0), first)
    assert same.seen.alive == 500.0
    second = sightings.running(a_pod(POOL, ENGINE, container_id="2"), Moment(NOW + 60, 560.0), same)
    assert second.seen.alive == 560.0
