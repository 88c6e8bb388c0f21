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


@pytest.mark.parametrize("available", [1, "100%"])
def test_a_revision_that_was_held_back_from_all_has_a_deadline_once_it_is_let_in(available):
    watch = Watch(four(partition=4, maxUnavailable=available))
    old = all_pods(watch.pool, revision=OLD)
    assert watch.see(old, BEGIN).complete
    let_in = four(maxUnavailable=available)
    assert not watch.see(old, later(100), pool=let_in).complete
    # With all of them let go at once, no old one is left that could be seen.
    starting = [a_pod(let_in, e, 1, containers_ready=False) for e in let_in.engines]
    assert not watch.see(starting, later(99 + LIMIT)).overdue
    assert watch.see(starting, later(100 + LIMIT)).overdue


@pytest.mark.parametrize("begins_anew", [False, True])
def test_each_step_of_a_partition_has_a_deadline(begins_anew):
    watch = Watch(four(partition=3))
    pods = all_pods(watch.pool, revision=OLD, ready=True)
    pods[3] = a_pod(watch.pool, watch.pool.engines[3], 1, ready=True)
    assert watch.see(pods, BEGIN).complete
    if begins_anew:
        watch = Watch(watch.pool, watch.status)
    assert not watch.see(pods, later(100), pool=four(partition=2)).complete
    pods[2] = a_pod(watch.pool, watch.pool.engines[2], 1, containers_ready=False)
    assert not watch.see(pods, later(99 + LIMIT)).overdue
    assert watch.see(pods, later(100 + LIMIT)).overdue
    pods[2] = a_pod(watch.pool, watch.pool.engines[2], 1)
    assert watch.see(pods, later(200 + LIMIT)).complete


def test_a_step_in_the_middle_of_the_one_before_gives_no_more_time():
    watch = Watch(four(partition=3))
    pods = all_pods(watch.pool, revision=OLD)
    pods[3] = a_pod(watch.pool, watch.pool.engines[3], 1, containers_ready=False)
    watch.see(pods, BEGIN)
    watch.see(pods, later(LIMIT - 1), pool=four(partition=2))
    assert watch.see(pods, later(LIMIT)).overdue


def test_a_status_of_before_a_step_takes_nothing_back():
    watch = Watch(four(partition=4, maxUnavailable="100%"))
    old = all_pods(watch.pool, revision=OLD)
    watch.see(old, BEGIN)
    stale = watch.status
    starting = [a_pod(watch.pool, e, 1, containers_ready=False) for e in watch.pool.engines]
    watch.see(old, later(100), pool=four(maxUnavailable="100%"))
    for second in range(200, 100 + LIMIT, 100):
        watch.status = stale
        assert not watch.see(starting, later(second)).complete
    assert watch.see(starting, later(100 + LIMIT)).overdue


def test_a_step_while_paused_has_the_whole_time_once_it_is_resumed():
    watch = Watch(four(partition=4))
    old = all_pods(watch.pool, revision=OLD)
    watch.see(old, BEGIN)
    assert not watch.see(old, later(100), pool=four(paused=True, maxUnavailable="100%")).complete
    assert not watch.see(old, later(5 * LIMIT), pool=four(maxUnavailable="100%")).overdue
    starting = [a_pod(watch.pool, e, 1, containers_ready=False) for e in watch.pool.engines]
    assert not watch.see(starting, later(6 * LIMIT - 1)).overdue
    assert watch.see(starting, later(6 * LIMIT)).overdue


def test_a_partition_that_goes_up_and_down_again_over_engines_that_were_up_is_no_rollout():
    watch = Watch(four())
    watch.see(all_pods(watch.pool), BEGIN)
    watch.see(all_pods(watch.pool), later(10), pool=four(partition=3))
    failing = [a_failed_start(watch.pool, watch.pool.engines[0]), *all_pods(watch.pool)[1:]]
    assert watch.see(failing, later(20), pool=four()).complete
    assert not watch.see(failing, later(9 * LIMIT)).overdue


def so_many(count, **rollout):
    rollout = {"progressDeadlineSeconds": LIMIT, **rollout}
    mapping = f"list(range(0,{2 * count}))"
    return a_pool(device_mapping=mapping, rollout=rollout, weights={"gate": "Off"})


def test_each_engine_that_comes_up_counts_in_a_pool_that_became_smaller_in_the_middle():
    watch = Watch(so_many(8))
    pods = [*all_pods(watch.pool, revision=OLD)[:3], *all_pods(watch.pool)[3:]]
    watch.see(pods, BEGIN)
    four_left = pods[:4]
    watch.see(four_left, later(10), pool=so_many(4))
    for rank, second in ((2, 500), (1, 1000)):
        four_left[rank] = a_pod(watch.pool, watch.pool.engines[rank], 1)
        assert not watch.see(four_left, later(second)).overdue
    # But none that comes and goes.
    four_left[1] = a_pod(watch.pool, watch.pool.engines[1], 1, containers_ready=False)
    watch.see(four_left, later(1100))
    four_left[1] = a_pod(watch.pool, watch.pool.engines[1], 1)
    assert not watch.see(four_left, later(999 + LIMIT)).overdue
    late = watch.see(four_left, later(1000 + LIMIT))
    assert late.overdue
    stalled = condition(status_of(watch.pool, four_left, late), conditions.STALLED)
    assert ", 3/4 are up" in stalled["message"]


def test_engines_of_a_pool_that_was_larger_count_anew_with_a_lower_partition():
    pool = so_many
    watch = Watch(pool(8, partition=3))
    pods = [*all_pods(watch.pool, revision=OLD)[:3], *all_pods(watch.pool)[3:]]
    assert watch.see(pods, BEGIN).up == 5
    four_left = pods[:4]
    watch.see(four_left, later(10), pool=pool(4, partition=3))
    assert watch.see(four_left, later(20), pool=pool(4)).up == 1
    # Each of them gives the next one the whole time.
    for rank, second in ((2, 500), (1, 1000)):
        four_left[rank] = a_pod(watch.pool, watch.pool.engines[rank], 1)
        assert not watch.see(four_left, later(second)).overdue
    assert not watch.see(four_left, later(999 + LIMIT)).overdue
    assert watch.see(four_left, later(1000 + LIMIT)).overdue


def test_a_pool_that_grows_after_a_rollout_rolls_nothing_out():
    watch = Watch(four())
    watch.see(all_pods(watch.pool), BEGIN)
    larger = a_pool(
        device_mapping="list(range(0,12))",
        rollout={"progressDeadlineSeconds": LIMIT},
        weights={"gate": "Off"},
    )
    assert watch.see(all_pods(larger)[:4], later(10), pool=larger).complete
    assert not watch.see(all_pods(larger)[:4], later(9 * LIMIT)).overdue


def test_a_held_back_revision_whose_first_engines_come_by_growth_has_a_deadline():
    watch = Watch(four(partition=4))
    old = all_pods(watch.pool, revision=OLD)
    assert watch.see(old, BEGIN).complete
    larger = a_pool(
        device_mapping="list(range(0,12))",
        rollout={"progressDeadlineSeconds": LIMIT, "partition": 4},
        weights={"gate": "Off"},
    )
    assert not watch.see(old, later(10), pool=larger).complete
    assert watch.see(old, later(10 + LIMIT)).overdue


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
@pytest.mark.parametrize("field", ["revision", "up", "progressed", "complete", "partition"])
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
