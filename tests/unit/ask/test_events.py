"""Whose Events are asked for: only where nothing else explains a pod."""

import dataclasses

from sglang_operator.ask import events
from tests.builders import NOW, a_failed_start, a_pod, a_pool, all_pods, an_ended_pod, planned

POOL = a_pool(replicas=2)


def creating(age: float = 100, **changes):
    values = {"containers_ready": False, "waiting_reason": "ContainerCreating", **changes}
    return a_pod(POOL, POOL.engines[0], created=NOW - age, **values)


def test_an_end_without_a_text_is_looked_into_and_one_with_a_cause_is_not():
    silent = an_ended_pod(POOL, POOL.engines[0])
    known = a_failed_start(POOL, POOL.engines[1])
    plan = planned(POOL, [silent, known])
    assert [pod.name for pod in events.unexplained_ends(POOL, plan)] == [silent.name]


def test_a_pool_that_is_up_asks_nothing():
    plan = planned(POOL, all_pods(POOL))
    assert not list(events.unexplained_ends(POOL, plan))
    assert not list(events.slow_to_create(plan, NOW))
    assert not events.lacks_room(plan)
    assert events.next_look(plan, NOW) is None


def test_a_container_that_is_not_created_in_its_time_is_looked_into_now_and_then():
    plan = planned(POOL, [creating(age=100)])
    assert [pod.engine for pod in events.slow_to_create(plan, NOW)] == ["g0-1"]
    assert events.next_look(plan, NOW) == NOW + events.CREATING_SECONDS
    plan = planned(POOL, [creating(age=10)])
    assert not list(events.slow_to_create(plan, NOW))
    assert events.next_look(plan, NOW) == NOW + events.CREATING_SECONDS - 10


def test_a_container_that_runs_is_not():
    pod = dataclasses.replace(creating(), container_id="containerd://1", waiting_reason="")
    assert not list(events.slow_to_create(planned(POOL, [pod]), NOW))


def test_pods_without_a_node_are_looked_at_again():
    pods = all_pods(POOL, node="", containers_ready=False, unschedulable="0/3 nodes")
    plan = planned(POOL, pods)
    assert events.lacks_room(plan)
    assert events.next_look(plan, NOW) == NOW + events.CREATING_SECONDS
