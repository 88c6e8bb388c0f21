"""Replacements are rather put where their engines were, also by the operator that comes next."""

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.children import engine_pod
from sglang_operator.controller import acting
from sglang_operator.plan.decision import CreateEngine, Plan
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


def create(pool, told, rank=1, pool_now=None, **changes):
    """The pod that is made for this rank by what a status told."""
    now = pool_now or pool
    made = CreateEngine(
        engine=now.engines[rank], attempt=1, failures=0, reason="it has no pod", **changes
    )
    plan = Plan(creates=(made,))
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
