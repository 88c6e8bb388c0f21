"""What the loop counts: engines, GPUs, failures once each, the time behind a closed gate."""

import dataclasses

from sglang_operator.controller.meters import (
    MAX_CAUSES,
    OTHER_CAUSE,
    Histogram,
    PassMeter,
    PoolMeter,
)
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Termination
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import (
    NOW,
    a_lease_saying,
    a_pod,
    a_pool,
    all_pods,
    an_ended_pod,
    planned,
    weighed,
)


def test_values_are_counted_under_the_first_bound_that_is_not_below_them():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert list(histogram.cumulative()) == [("1", 2.0), ("2", 3.0), ("+Inf", 4.0)]
    assert (histogram.count, histogram.sum) == (4, 102.0)


def test_a_pass_counts_under_its_result():
    meter = PassMeter()
    meter.ended(0.1, again=False)
    meter.ended(0.1, again=True)
    meter.crashed(0.1)
    assert meter.results == {"success": 1, "requeue_after": 1, "error": 1}
    assert meter.panics == 1
    assert meter.seconds.count == 3


def test_engines_and_gpus_are_those_of_the_last_plan():
    pool, meter = a_pool(), PoolMeter()
    pods = [*all_pods(pool)[:10], a_pod(pool, pool.engines[10], node="", containers_ready=False)]
    meter.planned(pool, planned(pool, pods), NOW)
    assert meter.states() == {
        EngineState.UP: 10,
        EngineState.PENDING: 1,
        EngineState.CREATING: 1,
    }
    assert (meter.gpus_wanted, meter.gpus_bound) == (24, 20)


def test_the_time_behind_a_closed_gate_adds_up_over_engines():
    pool, meter = a_pool(), PoolMeter()
    closed = planned(pool, all_pods(pool))
    half_open = planned(pool, all_pods(pool)[:6] + all_pods(pool, ready=True)[6:])
    meter.planned(pool, closed, NOW)
    meter.planned(pool, half_open, NOW + 10)
    assert meter.gate_closed_seconds(NOW + 10) == 120
    assert meter.gate_closed_seconds(NOW + 15) == 150  # six more engines for five seconds


def test_a_clock_that_goes_back_takes_nothing_away():
    pool, meter = a_pool(), PoolMeter()
    meter.planned(pool, planned(pool, all_pods(pool)), NOW)
    assert meter.gate_closed_seconds(NOW - 100) == 0


def test_an_ended_pod_counts_once_however_often_it_is_seen():
    pool, meter = a_pool(), PoolMeter()
    plan = planned(pool, [an_ended_pod(pool, pool.engines[0]), *all_pods(pool)[1:]])
    for _ in range(3):
        meter.planned(pool, plan, NOW)
    assert meter.failures == {"EngineKilled": 1}


def test_a_second_end_of_the_same_engine_counts_again():
    pool, meter = a_pool(), PoolMeter()
    meter.planned(pool, planned(pool, [an_ended_pod(pool, pool.engines[0])]), NOW)
    meter.planned(pool, planned(pool, all_pods(pool)), NOW)
    meter.planned(pool, planned(pool, [an_ended_pod(pool, pool.engines[0], 1)]), NOW)
    assert meter.failures == {"EngineKilled": 2}


def test_a_restart_in_place_counts_by_its_number():
    pool, meter = a_pool(), PoolMeter()
    ended = Termination(exit_code=137, reason="OOMKilled", message="", finished=NOW)
    for restarts in (1, 1, 2):
        pods = [a_pod(pool, pool.engines[0], restarts=restarts, last_termination=ended)]
        meter.planned(pool, planned(pool, pods), NOW)
    assert sum(meter.failures.values()) == 2


def test_causes_are_bounded():
    pool, meter = a_pool(), PoolMeter()
    for number in range(MAX_CAUSES + 5):
        pod = an_ended_pod(pool, pool.engines[0], number, reason=f"Evicted{number}")
        meter.planned(
            pool, planned(pool, [dataclasses.replace(pod, termination=None, message="x")]), NOW
        )
    assert len(meter.failures) == MAX_CAUSES + 1
    assert meter.failures[OTHER_CAUSE] == 5


def _weighed(*states: tuple[float, Transaction]) -> PoolMeter:
    meter = PoolMeter()
    for now, transaction in states:
        meter.weighed(GatePlan(engines=(), transaction=transaction), now)
    return meter


def test_a_commit_counts_once_with_the_time_it_took():
    syncing = Transaction(phase=Phase.SYNCING, begun=NOW)
    committed = Transaction(phase=Phase.COMMITTED, begun=NOW, committed=NOW + 7)
    meter = _weighed((NOW, syncing), (NOW + 8, committed), (NOW + 9, committed))
    assert meter.syncs == {"committed": 1}
    assert (meter.sync_seconds.count, meter.sync_seconds.sum) == (1, 7)


def test_what_was_committed_before_this_process_began_does_not_count():
    committed = Transaction(phase=Phase.COMMITTED, begun=NOW - 60, committed=NOW - 50)
    assert not _weighed((NOW, committed), (NOW + 1, committed)).syncs


def test_waking_with_kept_weights_is_no_sync_and_sleep_adds_up():
    committed = Transaction(phase=Phase.COMMITTED, begun=NOW - 9, committed=NOW - 2)
    asleep = dataclasses.replace(committed, phase=Phase.SLEEPING, released=("weights",))
    meter = _weighed((NOW, committed), (NOW + 1, asleep), (NOW + 31, committed))
    assert not meter.syncs
    assert meter.asleep_seconds(NOW + 100) == 30

    came_to_nothing = dataclasses.replace(asleep, released=())
    meter = _weighed((NOW, committed), (NOW + 1, came_to_nothing), (NOW + 31, committed))
    assert meter.asleep_seconds(NOW + 100) == 0


def test_an_abort_counts_once():
    syncing, aborted = Transaction(phase=Phase.SYNCING), Transaction(phase=Phase.ABORTED)
    assert _weighed((NOW, syncing), (NOW, aborted), (NOW, aborted)).syncs == {"aborted": 1}


def test_seconds_of_a_part_that_sleeps_count_as_much_as_it_is_of_the_pool():
    pool = a_pool(replicas=4)
    pods = [a_pod(pool, e, container_id=f"c{e.rank}") for e in pool.running]
    runs = [str(pod.instance) for pod in pods]
    asleep = Transaction(
        phase=Phase.SLEEPING,
        id="t",
        version="v",
        intact=True,
        released=("kv_cache",),
        asleep=(runs[0],),
        apart=frozenset({runs[0]}),
    )
    plan = weighed(pool, pods, children=a_lease_saying(pool, asleep))
    meter = PoolMeter()
    meter.weighed(plan, NOW)
    assert meter.asleep() == 1
    assert meter.asleep_seconds(NOW + 100) == 25
