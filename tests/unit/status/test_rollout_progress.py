"""Whether a rollout gets on: by the number of engines that came up, and by no clock that is set."""

from dataclasses import replace

import pytest

from sglang_operator.api import conditions
from sglang_operator.observed.model import Gate
from sglang_operator.observed.moment import Moment
from sglang_operator.status import compute, rollout_progress, stored
from tests.builders import (
    NOW,
    a_failed_start,
    a_lease,
    a_pod,
    a_pool,
    all_pods,
    planned,
    refused,
    weighed,
)

LIMIT = 600
OLD = "0" * 10
OPEN = Gate(is_open=True, version="step-9")
BEGIN = Moment(wall=NOW, steady=5000.0)


def four(gate="Off", **rollout):
    rollout = {"progressDeadlineSeconds": LIMIT, **rollout}
    return a_pool(device_mapping="list(range(0,8))", rollout=rollout, weights={"gate": gate})


def later(seconds, *, wall=0.0):
    return Moment(wall=NOW + seconds + wall, steady=BEGIN.steady + seconds)


class Watch:
    """What one operator knows of a rollout, pass by pass; a new one begins with the status."""

    def __init__(self, pool, status=None):
        self.pool, self.status, self.known = pool, status or {}, None

    def see(self, pods, at, pool=None, **observed):
        self.pool = pool or self.pool
        plan = planned(self.pool, pods, at.steady, **observed)
        self.known = rollout_progress.advance(self.pool, plan, self.status, self.known, at)
        self.status = self.known.written() if self.known else {}
        return self.known


def with_up(pool, count):
    """So many engines of the new revision are up, one more starts, and the others are old."""
    pods = all_pods(pool, revision=OLD, ready=True, gate=OPEN)
    for rank in range(count):
        pods[rank] = a_pod(pool, pool.engines[rank], 1, ready=not pool.gated)
    if count < len(pods):
        pods[count] = a_pod(pool, pool.engines[count], 1, containers_ready=False)
    return pods


def test_a_rollout_takes_too_long_once_no_engine_came_up_for_the_deadline():
    watch = Watch(pool := four())
    assert not watch.see(with_up(pool, 0), BEGIN).overdue
    assert rollout_progress.due(pool, watch.known) == BEGIN.steady + LIMIT
    assert not watch.see(with_up(pool, 0), later(LIMIT - 1)).overdue
    assert watch.see(with_up(pool, 0), later(LIMIT)).overdue
    assert rollout_progress.due(pool, watch.known) is None


def test_each_engine_that_comes_up_gives_the_next_one_the_whole_time():
    watch = Watch(pool := four())
    for count in range(4):
        assert not watch.see(with_up(pool, count), later(500 * count)).overdue
    assert watch.see(with_up(pool, 3), later(1500 + LIMIT)).overdue
    # The next one that is up ends it.
    assert watch.see(with_up(pool, 4), later(1600 + LIMIT)).complete


def test_an_engine_that_comes_and_goes_is_no_progress():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 1), BEGIN)
    for second in range(100, LIMIT, 100):
        watch.see(with_up(pool, second // 100 % 2), later(second))
    assert watch.see(with_up(pool, 1), later(LIMIT)).overdue


def test_what_happens_after_all_were_up_is_no_rollouts():
    watch = Watch(pool := four())
    watch.see(all_pods(pool), BEGIN)
    failing = [*all_pods(pool)[:3], a_failed_start(pool, pool.engines[3])]
    assert not watch.see(failing, later(LIMIT)).overdue
    assert not watch.see(failing, later(9 * LIMIT)).overdue


def test_a_lower_partition_begins_it_anew():
    watch = Watch(four(partition=2))
    pods = all_pods(watch.pool)
    pods[0] = a_pod(watch.pool, watch.pool.engines[0], revision=OLD)
    pods[1] = a_pod(watch.pool, watch.pool.engines[1], revision=OLD)
    assert watch.see(pods, BEGIN).complete
    assert not watch.see(pods, later(LIMIT), pool=four()).complete
    assert watch.see(pods, later(2 * LIMIT)).overdue


def test_another_revision_has_the_whole_time():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 2), BEGIN)
    other = replace(pool, revision="1" * 10, base_revision="1" * 10, accepted=frozenset({"1" * 10}))
    assert not watch.see(with_up(other, 0), later(LIMIT), pool=other).overdue


def test_what_is_tuned_is_no_rollout_of_its_own():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 0), BEGIN)
    tuned = replace(pool, revision="1" * 10, accepted=pool.accepted | {"1" * 10})
    assert watch.see(with_up(tuned, 0), later(LIMIT), pool=tuned).overdue


@pytest.mark.parametrize("phase", ["Syncing", "Sleeping"])
def test_no_time_passes_in_the_trainers_turn(phase):
    watch = Watch(pool := four("Auto"))
    lease = a_lease(pool, phase=phase, holder="trainer")
    pods = [*with_up(pool, 0)[1:], a_pod(pool, pool.engines[0], 1, containers_ready=False)]
    assert watch.see(pods, BEGIN).since
    assert watch.see(pods, later(10), children=lease).since is None
    assert not watch.see(pods, later(LIMIT), children=lease).overdue
    # What had passed before counts on when the trainer is done.
    assert not watch.see(pods, later(LIMIT + 10)).overdue
    assert rollout_progress.due(pool, watch.known) == BEGIN.steady + 2 * LIMIT
    assert not watch.see(pods, later(2 * LIMIT - 1)).overdue
    assert watch.see(pods, later(2 * LIMIT)).overdue


@pytest.mark.parametrize("phase", ["Syncing", "Sleeping"])
def test_a_trainer_that_comes_again_and_again_puts_no_deadline_off_for_ever(phase):
    watch = Watch(pool := four("Auto"))
    lease = a_lease(pool, phase=phase, holder="trainer")
    pods = [*with_up(pool, 0)[1:], a_pod(pool, pool.engines[0], 1, containers_ready=False)]
    for second in range(0, 2 * LIMIT - 20, 20):
        turn = {"children": lease} if second // 20 % 2 else {}
        assert not watch.see(pods, later(second), **turn).overdue, second
    assert watch.see(pods, later(2 * LIMIT)).overdue
    # Nor does its next turn take back what was told.
    assert watch.see(pods, later(2 * LIMIT + 20), children=lease).overdue
    assert watch.see(pods, later(2 * LIMIT + 40)).overdue


def test_an_engine_that_comes_up_in_the_trainers_turn_gives_the_whole_time():
    watch = Watch(pool := four())
    lease = a_lease(pool, phase="Syncing", holder="trainer")
    watch.see(with_up(pool, 1), BEGIN)
    watch.see(with_up(pool, 1), later(LIMIT - 1), children=lease)
    watch.see(with_up(pool, 2), later(LIMIT), children=lease)
    assert not watch.see(with_up(pool, 2), later(2 * LIMIT - 1)).overdue
    assert watch.see(with_up(pool, 2), later(3 * LIMIT - 1)).overdue


def test_an_operator_that_begins_in_the_trainers_turn_gives_the_whole_time():
    watch = Watch(pool := four())
    lease = a_lease(pool, phase="Syncing", holder="trainer")
    watch.see(with_up(pool, 1), BEGIN)
    watch.see(with_up(pool, 1), later(LIMIT - 1), children=lease)
    other = Watch(pool, watch.status)
    other.see(with_up(pool, 1), later(LIMIT), children=lease)
    assert not other.see(with_up(pool, 1), later(2 * LIMIT - 1)).overdue
    assert other.see(with_up(pool, 1), later(3 * LIMIT - 1)).overdue


def test_no_time_passes_while_it_waits_for_weights():
    watch = Watch(pool := four("Auto"))
    pods = all_pods(pool, revision=OLD, ready=True, gate=OPEN)
    pods[3] = a_pod(pool, pool.engines[3], 1)
    watch.see(pods, BEGIN)
    assert not watch.see(pods, later(LIMIT)).overdue


def test_no_time_passes_while_it_is_paused():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 1), BEGIN)
    assert not watch.see(with_up(pool, 1), later(LIMIT), pool=four(paused=True)).overdue
    assert not watch.see(with_up(pool, 1), later(LIMIT + 10), pool=four()).overdue
    # One that is resumed has the whole time, as a Deployment has.
    assert rollout_progress.due(pool, watch.known) == BEGIN.steady + 2 * LIMIT + 10


@pytest.mark.parametrize("changes", [{}, {"suspend": True}])
def test_nobody_is_told_who_did_not_ask(changes):
    rollout = {"progressDeadlineSeconds": LIMIT} if changes else {}
    pool = a_pool(rollout=rollout, **changes)
    assert Watch(pool).see(all_pods(pool), BEGIN) is None
    assert rollout_progress.due(pool, None) is None


# --- clocks, and operators that come and go


def test_a_wall_clock_that_is_put_right_ends_no_deadline():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 0), BEGIN)
    assert not watch.see(with_up(pool, 0), later(10, wall=86400.0)).overdue
    assert watch.see(with_up(pool, 0), later(LIMIT, wall=-86400.0)).overdue


def test_an_operator_that_begins_in_the_middle_believes_the_status():
    first = Watch(pool := four())
    first.see(with_up(pool, 1), BEGIN)
    at = Moment(wall=NOW + LIMIT - 1, steady=40.0)  # of another machine
    second = Watch(pool, first.status)
    assert not second.see(with_up(pool, 1), at).overdue
    assert second.see(with_up(pool, 1), Moment(wall=0.0, steady=41.0)).overdue


def test_a_stamp_of_the_future_is_of_now():
    pool = four()
    told = Watch(pool)
    told.see(with_up(pool, 1), later(86400))
    next_one = Watch(pool, told.status)
    next_one.see(with_up(pool, 1), BEGIN)
    assert next_one.see(with_up(pool, 1), later(LIMIT)).overdue


def test_what_another_operator_told_meanwhile_counts():
    watch = Watch(pool := four())
    watch.see(with_up(pool, 1), BEGIN)
    other = Watch(pool, watch.status)
    other.see(with_up(pool, 3), later(500))
    watch.status = other.status
    assert not watch.see(with_up(pool, 3), later(LIMIT)).overdue


@pytest.mark.parametrize("odd", [None, "", 7, [], {}, "never", True])
@pytest.mark.parametrize("field", ["revision", "up", "progressed", "complete"])
def test_a_status_of_anybody_else_does_no_harm(field, odd):
    pool = four()
    whole = rollout_progress.Progress(revision=pool.base_revision, up=1, since=BEGIN).written()
    status = {**whole, field: odd}
    known = stored.understood({"rollout": status})["rollout"]
    assert Watch(pool, known).see(with_up(pool, 1), BEGIN).up >= 1


# --- how it is told


def status_of(pool, pods, progress, **observed):
    return compute.compute(
        pool,
        planned(pool, pods, **observed),
        weighed(pool, pods, **observed),
        ignored=(),
        troubles=(),
        previous={},
        now=NOW,
        progress=progress,
    )


def condition(told, type_):
    """The condition of this type, or an empty one."""
    return conditions.find(told["conditions"], type_) or {}


def test_a_pool_that_takes_too_long_is_stalled_in_words():
    watch = Watch(pool := four())
    pods = with_up(pool, 1)
    watch.see(pods, BEGIN)
    told = status_of(pool, pods, watch.see(pods, later(LIMIT)))
    stalled = condition(told, conditions.STALLED)
    assert stalled["reason"] == "ProgressDeadlineExceeded"
    assert stalled["message"].startswith(
        f"no engine of revision {pool.revision} came up for 600 s (rollout.progressDeadlineSeconds)"
        ", 1/4 are up; RollingUpdate: 2/4 engines run revision"
    )
    assert "kubectl sglang rollout pause actor-infer -n rl" in stalled["message"]
    assert not condition(told, conditions.RECONCILING)
    assert condition(told, conditions.READY)["reason"] == stalled["reason"]
    assert told["rollout"] == {
        "revision": pool.revision,
        "up": 1,
        "progressed": "2027-01-15T08:00:00Z",
    }


def test_what_engines_die_of_is_told_with_it():
    pool = four()
    pods = [*all_pods(pool, revision=OLD)[:3], a_failed_start(pool, pool.engines[3])]
    progress = rollout_progress.Progress(revision=pool.base_revision, since=BEGIN, overdue=True)
    told = status_of(pool, pods, progress)
    message = condition(told, conditions.STALLED)["message"]
    assert "EnginesFailing: " in message or "CUDAOutOfMemory" in message


def test_a_pool_without_a_deadline_tells_nothing_of_it():
    pool = four()
    assert "rollout" not in status_of(pool, all_pods(pool), None)


@pytest.mark.parametrize("value", [29, 86401])
def test_a_deadline_has_bounds(value):
    (problem,) = refused(rollout={"progressDeadlineSeconds": value}).errors
    assert problem.field == "spec.rollout.progressDeadlineSeconds"
