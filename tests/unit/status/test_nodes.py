"""Replacements are rather put where their engines were, also by the operator that comes next."""

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.children import engine_pod
from sglang_operator.controller import acting
from sglang_operator.observed.model import EngineReport, Stuck
from sglang_operator.plan.decision import CreateEngine, HungPod, LostPod, Plan
from sglang_operator.plan.startup import FailureStreak
from sglang_operator.status import compute, nodes
from tests.builders import NOW, a_pod, a_pool, all_pods, planned, weighed

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def placed(pool, *names):
    """The pool's pods on these nodes, one after another."""
    return [dataclasses.replace(p, node=n) for p, n in zip(all_pods(pool), names, strict=True)]


def status(pool, pods, previous=None):
    return compute.compute(
        pool,
        planned(pool, pods),
        weighed(pool, pods),
        ignored=(),
        troubles=(),
        previous=previous or {},
        now=NOW,
    )


def four(**changes):
    return a_pool(**{"device_mapping": "list(range(0,8))", **changes})


def create(pool, told, rank=1, pool_now=None, plan=None, **changes):
    """The pod that is made for this rank by what a status told."""
    now = pool_now or pool
    made = CreateEngine(
        engine=now.engines[rank], attempt=1, failures=0, reason="it has no pod", **changes
    )
    plan = dataclasses.replace(plan or Plan(), creates=(made,), removals=())
    this: Any = SimpleNamespace(record=SimpleNamespace(status=told))
    near = acting._where_it_was(this, now, plan)
    (action,) = actions.pod_actions(now, plan, engine_pod.template(now), near)
    assert isinstance(action, actions.CreatePod)
    return action.body


def terms(body):
    return body["spec"].get("affinity", {}).get("nodeAffinity", {}).get(PREFERRED, [])


def preferred(body):
    found = terms(body)
    return found[-1]["preference"]["matchFields"][0]["values"] if found else []


def test_the_status_tells_where_pods_are_in_few_words():
    pool = four()
    told = status(pool, placed(pool, "a", "a", "b", "a"))
    assert told["nodes"] == [{"name": "a", "pods": "0-1,3"}, {"name": "b", "pods": "2"}]
    assert nodes.last(pool, told) == {0: "a", 1: "a", 2: "b", 3: "a"}


def test_what_is_known_outlasts_the_pods_a_suspension_and_a_smaller_pool():
    pool = four()
    told = status(pool, placed(pool, "a", "a", "b", "b"))
    for changes in ({"suspend": True}, {"replicas": 1}, {}):
        now = four(**changes)
        later = status(now, all_pods(now)[:0], told)
        assert later["nodes"] == told["nodes"]
    moved = dataclasses.replace(placed(pool, "a", "a", "b", "b")[0], node="c")
    assert status(pool, [moved], told)["nodes"] == [
        {"name": "a", "pods": "1"},
        {"name": "b", "pods": "2-3"},
        {"name": "c", "pods": "0"},
    ]


def test_a_replacement_is_rather_put_where_the_engine_was():
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    body = create(pool, told)
    assert preferred(body) == ["b"]
    assert body["metadata"]["labels"]["sglang-operator.dev/revision"] == pool.revision
    without = copy.deepcopy(body)
    del without["spec"]["affinity"]
    assert without == create(pool, {}), "nothing else of the pod is another"


def test_the_new_revision_of_an_engine_knows_it_too():
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    assert preferred(create(pool, told, pool_now=four(seed=9))) == ["b"]


def test_after_a_failure_no_node_is_better_than_another():
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    assert not preferred(create(pool, told, streak=FailureStreak(reason="X", count=1)))


def broken(pool, kind):
    """A plan in which the second engine is lost with its node b, or fails there."""
    pod = placed(pool, "a", "b", "b", "b")[1]
    kinds: dict[str, dict[str, Any]] = {
        "its node is lost": {"lost": (LostPod(pod=pod, since=NOW),)},
        "it hangs": {"hung": (HungPod(pod=pod, since=NOW),)},
        "it ended": {"ended": (pod,)},
        "it is evicted": {"disrupted": (pod,)},
        "it is in a crash loop": {"taken_over": (pod,)},
    }
    return dataclasses.replace(planned(pool, placed(pool, "a", "b", "b", "b")), **kinds[kind])


KINDS = pytest.mark.parametrize(
    "kind",
    ["its node is lost", "it hangs", "it ended", "it is evicted", "it is in a crash loop"],
)


@KINDS
def test_where_an_engine_failed_is_forgotten(kind):
    """Its next pod follows no failure that it knows of: the revision may be another by then."""
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    written = nodes.told(pool, broken(pool, kind), told)
    assert written == [{"name": "a", "pods": "0"}, {"name": "b", "pods": "2-3"}]


@KINDS
def test_what_is_made_as_an_engine_fails_is_not_sent_back(kind):
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    failing = broken(pool, kind)
    assert not preferred(create(pool, told, plan=failing))
    assert preferred(create(pool, told, rank=2, plan=failing)) == ["b"], "others are"


def test_one_that_hangs_as_the_planner_finds_it_is_not_sent_back():
    pool = four(restart={"hangSeconds": 600})
    pods = placed(pool, "a", "b", "b", "b")
    pods[1] = dataclasses.replace(pods[1], ready=True, answered=True, container_id="c1")
    assert pods[1].instance
    report = EngineReport(instance=pods[1].instance, stuck=Stuck(NOW - 1e6, NOW))
    told = status(pool, pods)
    assert nodes.last(pool, told)[1] == "b"
    made = planned(pool, pods, reports={report.instance: report}, recorded=frozenset({pods[1].uid}))
    assert [each.pod.name for each in made.removals] == [pods[1].name]
    assert 1 not in nodes.last(pool, {**told, "nodes": nodes.told(pool, made, told)})


def test_one_that_goes_for_a_failure_is_not_told_of_again():
    pool = four()
    pods = placed(pool, "a", "b", "b", "b")
    told = {**status(pool, pods), "nodes": [{"name": "a", "pods": "0"}]}
    pods[1] = dataclasses.replace(pods[1], deleting=True)
    made = planned(pool, pods)
    members = dataclasses.replace(made.engines[1], members=(pods[1],))
    made = dataclasses.replace(made, engines=(made.engines[0], members, *made.engines[2:]))
    assert 1 not in nodes.last(pool, {**told, "nodes": nodes.told(pool, made, told)})


def test_where_the_next_one_has_come_is_told_though_the_one_before_is_still_there():
    pool = four()
    pods = placed(pool, "a", "c", "b", "b")
    before = dataclasses.replace(pods[1], node="b")
    pods[1] = dataclasses.replace(pods[1], attempt=1)
    made = dataclasses.replace(planned(pool, pods), ended=(before,))
    assert nodes.told(pool, made, {})[2] == {"name": "c", "pods": "1"}


def test_an_engine_whose_pods_find_no_room_beside_its_first_is_not_sent_there_again():
    pool = a_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    (engine,) = pool.engines
    told = status(pool, [a_pod(pool, engine, node_rank=rank, node="n") for rank in range(2)])
    assert told["nodes"]
    pods = [
        a_pod(pool, engine, node_rank=0, node="n", containers_ready=False),
        a_pod(pool, engine, node_rank=1, node="", containers_ready=False, unschedulable="0/1"),
    ]
    assert "nodes" not in status(pool, pods, told)


def test_what_the_user_prefers_stays_and_weighs_no_less():
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}
    required = {"nodeSelectorTerms": [own["preference"]]}
    affinity = {
        "nodeAffinity": {
            PREFERRED: [own],
            "requiredDuringSchedulingIgnoredDuringExecution": required,
        }
    }
    pool = four(podTemplate={"spec": {"affinity": affinity}})
    shared = engine_pod.template(pool)
    body = create(pool, status(pool, placed(pool, "a", "b", "b", "b")))
    assert terms(body)[:-1] == [own]
    assert terms(body)[-1]["weight"] == 1
    assert body["spec"]["affinity"]["nodeAffinity"] | {PREFERRED: [own]} == affinity["nodeAffinity"]
    assert engine_pod.template(pool) == shared


def test_pods_of_a_queue_have_all_the_same():
    pool = four(scheduling={"gang": "Kueue", "queueName": "gpus"})
    assert not preferred(create(pool, status(pool, placed(pool, "a", "b", "b", "b"))))


def test_engines_of_another_size_begin_anew():
    pool = four()
    told = status(pool, placed(pool, "a", "b", "b", "b"))
    larger = four(num_gpus_per_worker=4)
    assert not preferred(create(pool, told, pool_now=larger))
    assert "nodes" not in status(larger, [], told)


def test_each_pod_of_an_engine_is_told():
    pool = a_pool(num_gpus_per_worker=16, device_mapping="list(range(0,32))")
    pods = [
        a_pod(pool, engine, node_rank=rank, node=f"n{engine.rank}{rank}")
        for engine in pool.engines
        for rank in range(2)
    ]
    told = status(pool, pods)
    assert [each["pods"] for each in told["nodes"]] == ["0", "1", "2", "3"]
    assert nodes.last(pool, told)[nodes.number(pool, 1, 1)] == "n11"


@pytest.mark.parametrize(
    "found",
    [
        1,
        "x",
        [1],
        [{"name": "a"}],
        [{"name": "a", "pods": 3}],
        [{"name": "a", "pods": "x,-,1-,-1,²"}],
        [{"name": "a", "pods": "4-999999999999999999999"}],
    ],
)
def test_a_status_of_another_make_tells_nothing(found):
    pool = four()
    told = {"resolved": {"numGpusPerWorker": pool.gpus}, "nodes": found}
    assert set(nodes.last(pool, told)) <= {1}


def test_ranges_end_with_the_pool():
    pool = four()
    told = {"resolved": {"numGpusPerWorker": 2}, "nodes": [{"name": "a", "pods": "2-999999"}]}
    assert nodes.last(pool, told) == {2: "a", 3: "a"}
