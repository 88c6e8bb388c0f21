"""Pools in queues of the real Kueue: who waits, who is let in, who makes way and who comes back."""

import json
import re

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.scheduling import texts
from sglang_operator.testing import errors, kueue
from tests.docs import pages
from tests.integration.pools import PoolUnderTest
from tests.integration.test_docs import example, run, session
from tests.kueue.queues import (
    FOUR,
    GPUS,
    PAIRS,
    QUEUE,
    WAIT,
    failures,
    running,
    summary,
    waiting,
)

RACK = "example.com/rack"


def test_of_two_pools_and_one_quota_the_second_waits_until_the_first_gives_some_back(queue):
    """It says so where everybody looks, and is taken for no failure."""
    shared = queue(8)
    first = shared.pool("first")
    first.wait_ready(WAIT)
    second = shared.pool("second")
    told = waiting(second, 4)
    assert f"LocalQueue {QUEUE} has quota for 2 {GPUS} each" in told["message"]
    shown = second.kubectl("get", "sgi", "second").splitlines()[-1].split()
    assert shown[:4] == ["second", "0/4", "0/4", conditions.WAITING_FOR_QUOTA]
    first.patch({"replicas": 2})
    summary(second, "2/4")
    waiting(second, 2)
    first.patch({"replicas": 0})
    second.wait_ready(WAIT)
    assert not failures(second)
    assert "lastFailures" not in second.status


def test_quota_is_free_when_the_gpus_are(queue):
    """An engine that drains has its GPUs still: nobody is let in for them before it is gone."""
    slow = {"metadata": {"annotations": {"fake.sglang/stop-delay": "5"}}}
    shared = queue(8)
    first = shared.pool("first", podTemplate=slow)
    first.wait_ready(WAIT)
    second = shared.pool("second")
    waiting(second, 4)
    first.patch({"replicas": 0})

    def let_in() -> bool:
        there = [pod for pod in second.all_pods() if not pod["spec"].get("schedulingGates")]
        if len(there) > 4:  # an assertion would only be waited for
            pytest.fail(f"{len(there)} pods of 2 GPUs have 8")
        return bool(second.is_ready())

    second.wait(let_in, "Ready", WAIT)


def test_while_kueue_is_away_engines_run_on_and_come_back_with_it(queue, installed):
    """Its webhook then refuses every pod that is made; what it does not see it does not hold."""
    pool = queue(8).pool(weights={})
    before = pool.wait_ready(WAIT)
    installed.kill()
    try:
        (victim,) = [name for name in running(pool) if "-g0-1-" in name]
        pool.kubectl("delete", "pod", victim, "--wait=false")
        words = 'failed calling webhook "mpod.kb.io"'
        pool.wait(lambda: words in pool.condition(conditions.READY).get("message", ""), words)
        assert len(running(pool)) == 3
    finally:
        installed.start()
    after = pool.wait_ready(WAIT)
    assert {e for e in after if after[e] != before[e]} == {"g0-1"}


def test_a_pool_goes_to_0_and_comes_back_by_the_queue(queue):
    pool = queue(8).pool()
    pool.wait_ready(WAIT)
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.all_pods(), "no pods", WAIT)
    pool.patch({"replicas": 4})
    assert len(pool.wait_ready(WAIT)) == 4


def test_nothing_of_a_pool_is_left_when_it_is_deleted(queue):
    """Also not of engines that wait, on which nobody looks but Kueue."""
    shared = queue(32)
    pool = shared.pool(**{**PAIRS, "device_mapping": "list(range(0,48))"})
    waiting(pool, 1)
    assert len(shared.left()) == 6 + 3
    pool.delete("--wait=false")
    pool.plane.wait(lambda: not shared.left(), WAIT, "nothing left")


def test_who_has_a_lower_class_makes_way_and_comes_back(queue):
    """Kueue deletes its pods.  That is no failure: nothing is counted, and nothing backs off."""
    shared = queue(8)
    low = shared.pool("low", scheduling={"workloadPriorityClassName": "low"})
    low.wait_ready(WAIT)
    high = shared.pool(
        "high",
        scheduling={"workloadPriorityClassName": "high"},
        device_mapping="list(range(0,4))",
    )
    high.wait_ready(WAIT)
    summary(low, "2/4")
    waiting(low, 2)
    (told,) = low.status["lastFailures"]
    assert told["reason"] == "EvictedByQueue"
    assert "Preempted to accommodate a workload" in told["message"]
    assert not failures(low)
    high.delete()
    low.wait_ready(WAIT)
    assert not failures(low)


def test_both_pods_of_an_engine_make_way_and_come_back(queue):
    shared = queue(32)
    low = shared.pool("low", scheduling={"workloadPriorityClassName": "low"}, **PAIRS)
    low.wait_ready(WAIT)
    chosen = {"workloadPriorityClassName": "high"}
    high = shared.pool("high", scheduling=chosen, device_mapping="list(range(0,2))")
    high.wait_ready(WAIT)
    summary(low, "1/2")
    waiting(low, 1)
    (told,) = low.status["lastFailures"]
    assert told["reason"] == "EvictedByQueue"
    high.patch({"replicas": 0})
    low.wait_ready(WAIT)
    assert not failures(low)
    low.wait(lambda: len(low.all_pods()) == 4, "nothing else", WAIT)


def test_a_pool_of_the_same_name_comes_up_beside_what_is_left_of_the_one_before(queue):
    """Its groups have the names of Workloads that nobody has collected yet."""
    shared = queue(8)
    pool = shared.pool()
    before = pool.wait_ready(WAIT)
    pool.delete("--wait=false")
    again = shared.pool()
    again.wait_ready(WAIT)
    assert not set(again.uids().values()) & set(before.values())


def test_the_api_server_refuses_what_kueue_cannot_do_in_the_operators_words(queue):
    pool = queue(8).pool()
    for scheduling, words in (
        ({"gang": "Kueue", "queueName": None}, f"missing; write {texts.A_LOCAL_QUEUE}"),
        ({"gang": None}, "mean nothing while scheduling.gang is None"),
        ({"minEngines": 2}, f"expected {texts.NOT_OF_KUEUE}; {texts.DO_LEAVE_OUT}"),
    ):
        with pytest.raises(errors.ApiError, match=re.escape(words)):
            pool.patch({"scheduling": scheduling})


def test_a_killed_engine_comes_back_under_a_full_quota(queue):
    """Its own predecessor, which is kept until its end is told, holds no quota against it."""
    pool = queue(8).pool(weights={})  # an engine that is not gated starts again in its place
    before = pool.wait_ready(WAIT)
    (victim,) = [name for name in running(pool) if "-g0-1-" in name]
    pool.break_pod(victim)
    pool.wait(lambda: victim not in running(pool), "it is gone", WAIT)
    after = pool.wait_ready(WAIT)
    assert after.keys() == before.keys()
    assert {e for e in after if after[e] != before[e]} == {"g0-1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_an_engine_of_two_pods_comes_back_under_a_full_quota_whichever_is_killed(queue, rank):
    shared = queue(32)
    pool = shared.pool(**PAIRS)
    pool.wait_ready(WAIT)
    first = {f"actor-g0-15-0n{each}" for each in (0, 1)}
    assert first < running(pool)
    pool.break_pod(f"actor-g0-15-0n{rank}")
    second = {f"actor-g0-15-1n{each}" for each in (0, 1)}
    pool.wait(lambda: second < running(pool) and pool.is_ready(), "the next try", WAIT)
    pool.wait(lambda: len(shared.left()) == 4 + 2, "nothing of the first try is left", WAIT)


@pytest.mark.parametrize("spec", [FOUR, PAIRS], ids=["one pod", "two pods"])
def test_an_engine_whose_pods_are_gone_at_once_comes_back_again_and_again(queue, spec):
    """No pod of the last try is left, so the next has its number, and its group the same name as
    that whose Workload is about to be collected."""
    shared = queue(8 if spec is FOUR else 32)
    pool = shared.pool(weights={}, **spec)
    pool.wait_ready(WAIT)
    for _ in range(4):
        there = pool.all_pods()
        engine = there[0]["metadata"]["labels"][names.LABEL_ENGINE]
        gone = {p["metadata"]["uid"] for p in there if f"-{engine}-" in p["metadata"]["name"]}
        selector = f"{names.LABEL_ENGINE}={engine}"
        pool.kubectl("delete", "pod", "-l", selector, "--force", "--grace-period=0", "--wait=false")

        def back(gone: set[str] = gone, count: int = len(there)) -> bool:
            uids = {pod["metadata"]["uid"] for pod in pool.all_pods()}
            return pool.is_ready() and not uids & gone and len(running(pool)) == count

        pool.wait(back, f"{engine} is back", WAIT)


def test_an_engine_of_two_pods_comes_back_from_a_lost_node_under_a_full_quota(queue, plane):
    """Its pods there end nowhere: what is deleted holds no quota, though nobody has seen it end."""
    shared = queue(32)
    pool = shared.pool(**PAIRS, restart={"nodeLostSeconds": 1})
    pool.wait_ready(WAIT)
    path = f"/api/v1/namespaces/{pool.namespace}/pods/actor-g0-15-0n1"
    node = plane.api.get(path)["spec"]["nodeName"]
    plane.fail_node(node)
    second = {f"actor-g0-15-1n{each}" for each in (0, 1)}
    pool.wait(lambda: second < running(pool) and pool.is_ready(), "the next try", WAIT)
    plane.restore_node(node)


def test_both_pods_of_an_engine_are_let_in_or_none(queue, installed):
    """Quota for one and a half engines is quota for one."""
    shared = queue(24)
    pool = shared.pool(**PAIRS)
    # Of one role: else Kueue would choose a place for each pod by itself.
    plane = shared.plane
    plane.wait(lambda: len(installed.workloads(shared.namespace)) == 2, WAIT, "two Workloads")
    for workload in installed.workloads(shared.namespace):
        assert [each["count"] for each in workload["spec"]["podSets"]] == [2]
    summary(pool, "1/2")
    waiting(pool, 1)
    assert len(running(pool)) == 2
    assert len(pool.pods()) == 4


def test_an_engine_in_a_queue_that_is_not_there_is_moved_when_the_name_is_corrected(queue):
    """One that was let in runs on: the queue is no part of its revision."""
    pool = queue(8).pool(scheduling={"queueName": "typo"})
    assert "LocalQueue typo" in waiting(pool, 4)["message"]
    pool.patch({"scheduling": {"queueName": QUEUE}})
    before = pool.wait_ready(WAIT)
    pool.patch({"scheduling": {"queueName": "another"}})
    pool.wait_for(conditions.READY, conditions.POOL_READY)
    assert pool.uids() == before


def test_pods_that_kueue_does_not_look_at_stay_and_say_so(plane, installed, operator):
    """As in a namespace that it leaves alone: they do not start past all quotas."""
    pool = PoolUnderTest(plane, kueue.NAMESPACE)
    pool.apply(scheduling={"gang": "Kueue", "queueName": QUEUE}, **FOUR)
    words = "4 engines waiting for LocalQueue gpus, and Kueue has not looked at them"
    pool.wait(lambda: words in pool.condition(conditions.READY).get("message", ""), words)
    assert pool.condition(conditions.READY)["reason"] == conditions.NOT_QUEUED
    assert not running(pool)
    pool.remove()


def test_an_engine_is_put_into_one_rack_or_waits(queue, plane, installed):
    """Each rack has a node more than an engine needs, and nobody takes one of each."""
    nodes = sorted(each["metadata"]["name"] for each in plane.api.get("/api/v1/nodes")["items"])
    for index, node in enumerate(nodes):
        plane.kubectl("label", "node", node, f"{RACK}={index // 3}", "group=racks")
    shared = queue(48)
    levels = [{"nodeLabel": RACK}, {"nodeLabel": "kubernetes.io/hostname"}]
    installed.apply(
        {"kind": "Topology", "metadata": {"name": "racks"}, "spec": {"levels": levels}},
        {
            "kind": "ResourceFlavor",
            "metadata": {"name": "in-racks"},
            "spec": {"nodeLabels": {"group": "racks"}, "topologyName": "racks"},
        },
        {
            "kind": "ClusterQueue",
            "metadata": {"name": "in-racks"},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [
                    {
                        "coveredResources": [GPUS],
                        "flavors": [
                            {
                                "name": "in-racks",
                                "resources": [{"name": GPUS, "nominalQuota": 48}],
                            }
                        ],
                    }
                ],
            },
        },
    )
    installed.queue(shared.namespace, "racks", of="in-racks")
    chosen = {"queueName": "racks", "requiredTopology": RACK}
    pool = shared.pool(scheduling=chosen, **{**PAIRS, "device_mapping": "list(range(0,48))"})
    summary(pool, "2/3")
    waiting(pool, 1)
    racks: dict[str, set[int]] = {}
    for pod in pool.pods():
        if node := pod["spec"].get("nodeName"):
            engine = pod["metadata"]["labels"][names.LABEL_ENGINE]
            racks.setdefault(engine, set()).add(nodes.index(node) // 3)
    assert sorted(map(len, racks.values())) == [1, 1], json.dumps(
        {k: [*v] for k, v in racks.items()}
    )


def test_an_engine_that_is_not_ready_for_too_long_is_evicted_and_says_what_to_change(
    queue, installed
):
    """One with a gate is not Ready before a trainer comes, though it is up.  It comes back."""
    installed.configure(waitForPodsReady={"timeout": "3s"})
    try:
        pool = queue(8).pool(weights={}, device_mapping="list(range(0,2))")
        pool.wait(lambda: pool.status.get("lastFailures"), "an eviction", WAIT)
        (told,) = pool.status["lastFailures"]
        assert told["reason"] == "NotReadyForQueue"
        assert "Exceeded the PodsReady timeout" in told["message"]
        assert "recoveryTimeout of waitForPodsReady" in told["advice"]
        pool.wait(lambda: "actor-g0-1-1" in running(pool), "the next try", 2 * WAIT)
        assert not failures(pool)
    finally:
        installed.configure()


def test_the_page_does_what_it_says(plane, installed, operator, tmp_path):
    """All of its files and commands, in its order."""
    namespace = plane.namespace("page")
    environment = session(plane, tmp_path, namespace)
    for block in pages.blocks(pages.DOCS / "how-to" / "kueue.md"):
        if block.language == "yaml" and block.file is not None:
            example(block, tmp_path, environment)
        elif block.language == "sh":
            said = run(block, block.text, tmp_path, environment)
            assert re.search(r"Kueue of actor-infer/g\d+: couldn't assign flavors", said)
    PoolUnderTest(plane, namespace).remove()
