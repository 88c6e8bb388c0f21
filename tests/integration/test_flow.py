"""The main job on a real control plane: each thing a user sees, with the pods that survive it."""

import pytest

from sglang_operator.api import conditions, names
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8", quiet=True)

# Garbage collection learns of a new kind of owner every 30 s only.
COLLECTED = 60.0

GUIDE_ENGINES = [f"g{2 * i}-{2 * i + 1}" for i in range(12)]


def test_the_guides_example_becomes_twelve_engines_of_two_gpus(pool):
    pool.apply()
    uids = pool.wait_ready()
    assert sorted(uids) == sorted(GUIDE_ENGINES)
    for pod in pool.pods():
        container = pod["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert pod["spec"]["nodeName"]
    assert pool.status["readySummary"] == "12/12"
    assert pool.status["syncedSummary"] == "0/12"


def test_growing_keeps_every_pod(pool):
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_engines(GUIDE_ENGINES[:4])
    pool.apply(device_mapping="list(range(0,12))")
    after = pool.wait_engines(GUIDE_ENGINES[:6])
    assert {engine: after[engine] for engine in before} == before


def test_shrinking_keeps_the_pods_that_stay_in_the_mapping(pool):
    pool.apply(device_mapping="list(range(0,12))")
    before = pool.wait_engines(GUIDE_ENGINES[:6])
    pool.apply(device_mapping="list(range(0,8))")
    after = pool.wait_engines(GUIDE_ENGINES[:4])
    assert after == {engine: before[engine] for engine in GUIDE_ENGINES[:4]}


def test_moving_keeps_the_engines_in_both_mappings_and_changes_their_ranks(pool):
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_engines(GUIDE_ENGINES[:4])
    pool.apply(device_mapping="list(range(4,12))")
    after = pool.wait_engines(GUIDE_ENGINES[2:6])
    assert {e: after[e] for e in GUIDE_ENGINES[2:4]} == {e: before[e] for e in GUIDE_ENGINES[2:4]}

    def ranks() -> dict[str, int]:
        return {engine["engine"]: engine["rank"] for engine in pool.registry()["engines"]}

    pool.wait(lambda: ranks() == {e: i for i, e in enumerate(GUIDE_ENGINES[2:6])}, "ranks")


def test_a_deleted_pod_comes_back_and_no_other_is_touched(pool):
    pool.apply(replicas=4)
    before = pool.wait_ready()
    pool.kubectl("delete", "pod", "actor-infer-g2-3-0", "--wait=false")
    pool.wait(lambda: pool.uids().get("g2-3", before["g2-3"]) != before["g2-3"], "a new pod")
    after = pool.wait_ready()
    assert {e: u for e, u in after.items() if e != "g2-3"} == {
        e: u for e, u in before.items() if e != "g2-3"
    }


@pytest.mark.parametrize("exit_code", [137, 1, 0])
def test_an_engine_that_ended_comes_back_and_its_first_cause_stays_in_status(pool, exit_code):
    pool.apply(replicas=2)
    before = pool.wait_ready()
    pool.break_pod("actor-infer-g0-1-0", exit_code, "something broke")
    pool.wait(lambda: pool.uids().get("g0-1", before["g0-1"]) != before["g0-1"], "a new pod")
    after = pool.wait_ready()
    assert after["g2-3"] == before["g2-3"]
    failures = pool.wait(lambda: pool.status.get("lastFailures"), "the failure in the status")
    assert [failure["pod"] for failure in failures] == ["actor-infer-g0-1-0"]
    assert failures[0]["exitCode"] == exit_code
    pool.wait(lambda: len(pool.pods()) == 2, "the ended pod to be tidied away")


def test_an_evicted_engine_comes_back(pool, plane):
    pool.apply(replicas=2)
    before = pool.wait_ready()
    # Not Ready (the gate is closed), so the budget lets it go.
    plane.api.post(
        f"/api/v1/namespaces/{pool.namespace}/pods/actor-infer-g0-1-0/eviction",
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "actor-infer-g0-1-0", "namespace": pool.namespace},
        },
    )
    pool.wait(lambda: pool.uids().get("g0-1", before["g0-1"]) != before["g0-1"], "a new pod")
    assert pool.wait_ready()["g2-3"] == before["g2-3"]


def test_engines_that_fail_again_and_again_wait_ever_longer(pool):
    pool.apply(replicas=1)
    pool.wait_ready()
    pool.break_pod("actor-infer-g0-1-0", 137, "first")
    pool.wait(lambda: "actor-infer-g0-1-1" in {p["metadata"]["name"] for p in pool.pods()}, "two")
    pool.wait_ready()
    pool.break_pod("actor-infer-g0-1-1", 137, "second")
    words = "1 engine waiting"  # of the first failure another is told
    pool.wait(lambda: words in pool.condition(conditions.RECONCILING).get("message", ""), words)
    pool.wait_for(conditions.RECONCILING, conditions.ENGINES_FAILING)
    pool.wait(lambda: pool.uids(), "the third attempt after ten seconds", 20)
    uid = pool.uids()["g0-1"]
    pod = next(pod for pod in pool.pods() if pod["metadata"]["uid"] == uid)
    assert pod["metadata"]["name"] == "actor-infer-g0-1-2"
    assert pod["metadata"]["annotations"][names.ANNOTATION_FAILURES] == "2"


def test_the_engines_of_a_deleted_node_come_back_elsewhere(pool, plane):
    pool.apply(replicas=4)
    before = pool.wait_ready()
    by_engine = {
        pod["metadata"]["labels"][names.LABEL_ENGINE]: pod["spec"]["nodeName"]
        for pod in pool.pods()
    }
    node = by_engine["g0-1"]
    plane.delete_node(node)
    lost = {engine for engine, on in by_engine.items() if on == node}
    try:
        pool.wait(
            lambda: (
                all(pool.uids().get(engine) not in (None, before[engine]) for engine in lost)
                and pool.is_ready()
            ),
            "new pods for the engines of the node",
            15,
        )
        after = pool.uids()
        assert {e: after[e] for e in before if e not in lost} == {
            e: before[e] for e in before if e not in lost
        }
    finally:
        plane.add_node(node)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"image": "lmsysorg/sglang:v0.5.6.post2"}, id="image"),
        pytest.param(
            {
                "strategy_args": {
                    "strategy_name": "sglang",
                    "strategy_config": {"mem_fraction_static": 0.8},
                }
            },
            id="arguments",
        ),
        pytest.param({"system_envs": {"NCCL_DEBUG": "INFO"}}, id="environment"),
        pytest.param({"num_gpus_per_worker": 4, "device_mapping": "list(range(0,8))"}, id="GPUs"),
    ],
)
def test_a_change_of_what_engines_are_made_of_rolls_through_one_at_a_time(pool, change):
    # They load their weights themselves, so that they serve once they are up.
    loaded = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    given = {"device_mapping": "list(range(0,8))", "strategy_args": loaded}
    pool.apply(**given)
    before = pool.wait_ready()
    pool.apply(**{**given, **change})
    fewest = [4]

    def rolled() -> bool:
        up = sum(
            "ContainersReady"
            in {c["type"] for c in p["status"].get("conditions", []) if c["status"] == "True"}
            and not p["metadata"].get("deletionTimestamp")
            for p in pool.pods()
        )
        fewest[0] = min(fewest[0], up)
        return bool(pool.is_ready())

    pool.wait(rolled, "the rollout")
    after = pool.uids()
    assert not set(after.values()) & set(before.values())
    expected = 2 if "num_gpus_per_worker" in change else 4
    assert len(after) == expected
    # One engine of the new pool may be away: of two GPUs, or the two that make one of four.
    assert fewest[0] >= (1 if expected == 2 else 3)


def test_scaling_to_five_and_back_touches_exactly_the_ranks_above(pool):
    pool.apply()
    before = pool.wait_ready()
    pool.kubectl("scale", "sgi", pool.name, "--replicas=5")
    down = pool.wait_engines(GUIDE_ENGINES[:5])
    assert down == {engine: before[engine] for engine in GUIDE_ENGINES[:5]}
    pool.kubectl("scale", "sgi", pool.name, "--replicas=12")
    up = pool.wait_engines(GUIDE_ENGINES)
    assert {engine: up[engine] for engine in GUIDE_ENGINES[:5]} == down
    assert not {up[engine] for engine in GUIDE_ENGINES[5:]} & set(before.values())


def test_scaling_to_zero_and_back(pool):
    pool.apply(replicas=2)
    pool.wait_ready()
    pool.patch({"replicas": 0})
    pool.wait_engines([])
    assert pool.status["readySummary"] == "0/0"
    pool.patch({"replicas": 2})
    pool.wait_engines(GUIDE_ENGINES[:2])


def test_a_suspended_pool_keeps_its_object_and_no_engine(pool):
    pool.apply(replicas=3)
    pool.wait_ready()
    pool.patch({"suspend": True})
    pool.wait_for(conditions.READY, conditions.SUSPENDED_REASON)
    pool.wait(lambda: not pool.pods(), "no pods")
    pool.patch({"suspend": False})
    pool.wait_engines(GUIDE_ENGINES[:3])


def test_a_deleted_pool_leaves_nothing_behind(pool, plane):
    pool.apply(replicas=3)
    pool.wait_ready()
    pool.delete()
    pool.wait(lambda: not pool.all_pods(), "no pods", COLLECTED)

    def children() -> list[str]:
        found = plane.kubectl(
            "get", "service,configmap,pdb", "-o", "name", "-n", pool.namespace
        ).stdout.split()
        return [name for name in found if "actor-infer" in name]

    pool.wait(lambda: not children(), "no children", COLLECTED)


def test_two_pools_live_side_by_side(pool, plane):
    other = PoolUnderTest(plane, pool.namespace, "reward")
    pool.apply(device_mapping="list(range(0,8))")
    other.apply(device_mapping="list(range(8,16))")
    first, second = pool.wait_ready(), other.wait_ready()
    assert len(first) == len(second) == 4
    other.delete("--wait=true")
    pool.wait(lambda: len(pool.all_pods()) == 4, "the other's pods to be collected", COLLECTED)
    assert pool.uids() == first


def test_a_pool_created_again_under_the_same_name_gets_pods_of_its_own(pool):
    pool.apply(replicas=3)
    before = pool.wait_ready()
    pool.delete("--wait=false")
    pool.wait(lambda: not pool.kubectl("get", "sgi", "-o", "name"), "the object to be gone")
    pool.apply(replicas=3)
    after = pool.wait_ready(10)
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    pool.wait(lambda: len(pool.all_pods()) == 3, "the earlier pods to go", COLLECTED)


def test_a_foreign_pod_with_the_name_of_an_engine_is_never_touched(pool):
    pool.kubectl("run", "actor-infer-g0-1-0", "--image=busybox", "--restart=Never")
    foreign = pool.all_pods()[0]["metadata"]["uid"]
    pool.apply(replicas=3)
    told = pool.wait_for(conditions.STALLED, conditions.NAME_CONFLICT)
    assert "Pod actor-infer-g0-1-0 exists and does not belong to this pool" in told["message"]
    pool.wait(lambda: set(pool.uids()) == {"g2-3", "g4-5"}, "the other engines to come up")
    assert foreign in {pod["metadata"]["uid"] for pod in pool.all_pods()}
    assert not any(
        pod["metadata"].get("deletionTimestamp") or pod["metadata"].get("ownerReferences")
        for pod in pool.all_pods()
        if pod["metadata"]["uid"] == foreign
    )


def test_a_foreign_service_with_the_pools_name_is_never_touched(pool):
    pool.kubectl("create", "service", "clusterip", "actor-infer", "--tcp=80")
    before = pool.kubectl("get", "service", "actor-infer", "-o", "json")
    pool.apply(replicas=1)
    pool.wait_for(conditions.STALLED, conditions.NAME_CONFLICT)
    assert pool.kubectl("get", "service", "actor-infer", "-o", "json") == before


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        pytest.param(
            {"device_mapping": "list(range(0,24)) + [0, 1]"},
            "DeviceMappingInvalid",
            "names GPU 0",
            id="duplicate GPUs",
        ),
        pytest.param(
            {"num_gpus_per_worker": 12, "device_mapping": "list(range(0,24))"},
            "DeviceMappingInvalid",
            "8 on node 0, 4 on node 1",
            id="engine that lies unevenly",
        ),
        pytest.param(
            {"system_envs": {"A B": "1"}}, "SystemEnvInvalid", "environment variable", id="env"
        ),
        pytest.param(
            {"router": {"replicas": 1}}, "NotYetSupported", "not yet supported", id="router"
        ),
    ],
)
def test_an_invalid_change_keeps_the_pods_and_says_why_and_a_corrected_one_recovers(
    pool, change, reason, words
):
    pool.apply(replicas=3)
    before = pool.wait_ready()
    pool.apply(replicas=3, **change)
    told = pool.wait_for(conditions.STALLED, reason)
    assert words in told["message"]
    assert pool.condition(conditions.READY)["status"] == "False"
    assert pool.uids() == before
    pool.apply(replicas=3)
    assert pool.wait_ready() == before


def test_an_invalid_pool_gets_no_pod(pool):
    pool.apply(device_mapping="[0, 0]")
    pool.wait_for(conditions.STALLED, "DeviceMappingInvalid")
    assert not pool.all_pods()
    assert len(pool.told("DeviceMappingInvalid")) == 1


def test_events_tell_transitions_once(pool):
    pool.apply(replicas=2)
    pool.wait_ready()
    assert len(pool.told("PoolReady")) == 1


def test_too_few_gpus_are_told_in_the_schedulers_words_and_kept_trying(pool):
    pool.apply(device_mapping="list(range(0,28))")
    words = "2 engines waiting for a node with 2 free nvidia.com/gpu"  # of one it is told first
    pool.wait(lambda: words in pool.condition(conditions.RECONCILING).get("message", ""), words)
    told = pool.wait_for(conditions.RECONCILING, conditions.DEVICES_PENDING)
    assert "Insufficient nvidia.com/gpu" in told["message"]


def test_a_quota_costs_one_request_and_is_told(pool, plane):
    quotas = f"/api/v1/namespaces/{pool.namespace}/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "4"}},
    }
    plane.api.post(quotas, quota)
    # The API server lets pods through until its own cache has the quota.
    pool.wait(lambda: plane.api.get(f"{quotas}/gpus").get("status", {}).get("hard"), "the quota")
    pool.apply(replicas=4)
    told = pool.wait_for(conditions.RECONCILING, conditions.QUOTA_EXCEEDED)
    assert "requests.nvidia.com/gpu" in told["message"]
    pool.wait(lambda: len(pool.uids()) == 2, "as many as the quota allows")
    pool.kubectl("delete", "resourcequota", "gpus")
    pool.wait_ready(40)
