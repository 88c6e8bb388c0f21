"""A seeded sample of what ``python -m tests.faults`` explores whole.

``FAULT_SEED`` chooses another sample.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator

import pytest

from sglang_operator.testing.faults import Match
from sglang_operator.testing.faults.proxy import Side
from sglang_operator.testing.faults.rules import Drop, Reply
from tests.faults import fields, kills, leaders, points, replies, requests, surroundings, watches
from tests.faults.lab import OURS, FaultPool, Lab, Result

SEED = int(os.environ.get("FAULT_SEED", "1"))


def _passed(result: Result) -> None:
    assert not result.problems, "\n".join([result.point, *result.problems])


@pytest.mark.parametrize("workload", kills.WORKLOADS, ids=lambda workload: workload.name)
def test_an_operator_that_is_killed_at_a_write_leaves_nothing_wrong(lab: Lab, workload):
    coin = random.Random(f"{SEED} {workload.name}")
    reference = kills.fault_free(lab, workload, runs=1)
    k = coin.randint(1, max(1, reference.counted - 1))
    _passed(kills.kill_at(lab, workload, reference, k, coin.choice(list(Side))))


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_lost_replies_cost_requests_and_no_pods(lab: Lab, after):
    def arm(lab: Lab, pool: FaultPool) -> Callable[[], None]:
        fault = Drop(after_commit=after)
        rule = lab.proxy.add(requests.OUR_WRITES, fault, share=0.4, seed=SEED)
        return lambda: lab.proxy.remove(rule)

    _passed(points.with_fault(lab, "lost replies", points.CREATE, arm, hold=2))


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_waited_for(lab: Lab, status):
    def arm(lab: Lab, pool: FaultPool) -> Callable[[], None]:
        rule = lab.proxy.add(OURS, Reply(status), share=0.5, seed=SEED)
        return lambda: lab.proxy.remove(rule)

    _passed(points.with_fault(lab, f"{status}", points.CREATE, arm, hold=2, seconds=15))


@pytest.mark.parametrize("resource", ["sglanginferences", "configmaps"])
def test_a_write_that_conflicts_is_tried_again(lab: Lab, resource):
    def arm(lab: Lab, pool: FaultPool) -> Callable[[], None]:
        match = Match(verbs=["patch"], resource=resource)
        rule = lab.proxy.add(match, Reply(409, "Conflict"), times=6)
        return lambda: lab.proxy.remove(rule)

    _passed(points.with_fault(lab, resource, points.MOVE, arm, hold=1, seconds=30))


def _some(results: Iterator[Result], count: int) -> list[Result]:
    return list(itertools.islice(results, count))


def test_objects_of_somebody_else_are_never_touched(lab: Lab):
    for result in _some(surroundings.foreign_objects(lab), 3):
        _passed(result)


@pytest.mark.parametrize("name", watches.STREAMS)
def test_a_watch_that_expires_behind_a_delete_leaves_no_ghost(lab: Lab, name):
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        return watches.behind_its_back(lab, pool, name, 1)

    _passed(points.judged(lab, Result(point=name), surroundings.four, act))


@pytest.mark.parametrize("name", watches.STREAMS)
def test_a_broken_watch_recovers_in_the_same_process(lab: Lab, name):
    kind = random.Random(f"{SEED} {name}").choice(sorted(watches.BREAKS))
    _passed(watches.broken_watch(lab, name, kind))


def test_an_old_list_costs_no_newer_pod(lab: Lab):
    _passed(_some(watches.old_lists(lab), 1)[0])


def test_dying_pods_are_replaced_and_no_other_is_touched(lab: Lab):
    for result in surroundings.dying_pods(lab):
        _passed(result)


def test_a_pool_deleted_amid_its_scale_up_leaves_nothing_of_itself(lab: Lab):
    for result in _some(surroundings.deleted_pools(lab), 2):
        _passed(result)


def test_fields_that_are_changed_back_leave_no_trace(lab: Lab):
    for result in fields.mutated_fields(lab, every=24):
        _passed(result)


def test_answers_that_come_late_are_not_believed(lab: Lab):
    for result in replies.late_replies(lab):
        _passed(result)


def test_two_operators_that_both_write_waste_requests_and_no_pods(lab: Lab):
    _passed(_some(leaders.two_writers(lab), 1)[0])
