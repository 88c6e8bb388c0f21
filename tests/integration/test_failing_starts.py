"""Engines that cannot start, on a real control plane: diagnosed, given up, healed by a new spec."""

import pytest

from sglang_operator.api import conditions, names
from tests.builders import with_config
from tests.integration.pools import Json, PoolUnderTest

pytestmark = pytest.mark.plane("3x8")

OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total "
    "capacity of 79.10 GiB of which 300.75 MiB is free."
)
QUICK = {"backoffSeconds": 1, "maxBackoffSeconds": 1}


def dying(message: str = OUT_OF_MEMORY, exit_code: int = 137) -> Json:
    """A podTemplate by which every engine ends before it was ever up."""
    return {
        "metadata": {
            "annotations": {
                "fake.sglang/start-delay": "1h",
                "fake.sglang/fail": str(exit_code),
                # Kubernetes tells whole seconds: the end has to lie in another than the start.
                "fake.sglang/fail-delay": "1500ms",
                "fake.sglang/fail-message": message,
            }
        }
    }


def attempts(pool: PoolUnderTest) -> int:
    """Pods that were made so far, the present ones by their number included."""
    return sum(
        1 + int(pod["metadata"]["annotations"][names.ANNOTATION_ATTEMPT])
        for pod in newest(pool).values()
    )


def newest(pool: PoolUnderTest) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for pod in sorted(
        pool.pods(), key=lambda p: int(p["metadata"]["annotations"][names.ANNOTATION_ATTEMPT])
    ):
        found[pod["metadata"]["labels"][names.LABEL_ENGINE]] = pod
    return found


def test_engines_that_all_run_out_of_memory_stall_the_pool_and_a_corrected_spec_heals_it(pool):
    config = with_config(mem_fraction_static=0.95)["strategy_args"]
    pool.apply(
        strategy_args=config,
        restart={**QUICK, "startupBudget": 3},
        podTemplate=dying(),
    )
    pool.wait_for(conditions.STALLED, "CUDAOutOfMemory", 60)
    pool.wait(
        lambda: pool.condition(conditions.STALLED).get("message", "").startswith("12 engines"),
        "all 12",
    )
    assert pool.condition(conditions.STALLED)["message"] == (
        "12 engines failed at the start with CUDAOutOfMemory, after 3 restarts too, to be started "
        "again only when the spec changes or the failed pods are deleted: no 896.00 MiB free "
        "on GPU 0: of 79.10 GiB, 300.75 MiB are left; lower mem_fraction_static (now 0.95), or use "
        "more GPUs for each engine"
    )
    assert attempts(pool) == 12 + 3
    assert {pod["status"]["phase"] for pod in newest(pool).values()} == {"Failed"}
    (failure,) = pool.status["lastFailures"]
    assert failure["reason"] == "CUDAOutOfMemory"
    assert len(failure["engines"]) == 12
    shown = pool.kubectl("get", "sgi", pool.name, "--no-headers").split()
    assert shown[:4] == [pool.name, "0/12", "0/12", "CUDAOutOfMemory"]
    told = pool.told("CUDAOutOfMemory", 2)
    assert len(told) == 2  # the failure, and that it is final
    pool.apply(
        strategy_args=with_config(mem_fraction_static=0.7)["strategy_args"],
        restart={**QUICK, "startupBudget": 3},
    )
    pool.wait_ready(60)
    assert pool.condition(conditions.STALLED) == {}


def test_deleting_the_failed_pods_starts_the_engines_again(pool):
    pool.apply(replicas=1, restart={**QUICK, "startupBudget": 1}, podTemplate=dying())
    pool.wait_for(conditions.STALLED, "CUDAOutOfMemory")
    assert attempts(pool) == 2
    given_up = {pod["metadata"]["uid"] for pod in pool.pods()}
    pool.kubectl("delete", "pods", "--all", "--wait=false")
    pool.wait(lambda: {p["metadata"]["uid"] for p in pool.pods()} - given_up, "another start")


def test_an_ungated_engine_is_taken_over_from_kubelets_crash_loop(pool):
    config = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    template = dying()
    template["metadata"]["annotations"]["fake.sglang/restarts"] = "100"
    pool.apply(
        replicas=2,
        strategy_args=config,
        restart={**QUICK, "startupBudget": 1},
        podTemplate=template,
    )
    pool.wait_for(conditions.STALLED, "CUDAOutOfMemory", 60)

    def are_over() -> bool:
        """One of them stalls the pool; the other may end a moment later."""
        pods = newest(pool).values()
        return {(p["spec"]["restartPolicy"], p["status"]["phase"]) for p in pods} == {
            ("Never", "Failed")
        }

    pool.wait(are_over, "both engines to be taken over and to end", 60)
    pool.apply(replicas=2, strategy_args=config)
    pool.wait_ready()
    assert {pod["spec"]["restartPolicy"] for pod in newest(pool).values()} == {"Always"}


def fractions(pool: PoolUnderTest) -> dict[str, str]:
    """mem_fraction_static in the newest pod of each engine."""
    return {
        engine: next(
            arg.partition("=")[2]
            for arg in pod["spec"]["containers"][0]["args"]
            if arg.startswith("--mem-fraction-static")
        )
        for engine, pod in newest(pool).items()
    }


def told_tuning(pool: PoolUnderTest, *, changes: int) -> Json:
    found: Json = pool.status.get("tuning", {})
    return found if found.get("changes") == changes else {}


def test_too_small_a_cache_is_tuned_on_one_engine_and_never_silently(pool):
    message = (
        "Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.7. "
        "Raise --mem-fraction-static above 0.8"
    )
    tune = {"mem_fraction_static": {"min": 0.6, "max": 0.9, "step": 0.05, "tries": 2}}
    pool.apply(
        replicas=3,
        restart={**QUICK, "startupBudget": 3, "autoTune": tune},
        podTemplate=dying(message),
    )
    pool.wait_for(conditions.STALLED, "KVCacheTooSmall", 60)
    found = pool.wait(lambda: told_tuning(pool, changes=2), "two changes", 60)
    assert (found["from"], found["memFractionStatic"], found["changes"]) == (0.7, 0.8, 2)
    told = [e["note"] for e in pool.told("MemFractionTuned", 2)]
    assert sorted(note.split(" after ")[0] for note in told) == [
        "mem_fraction_static goes from 0.7 to 0.75",
        "mem_fraction_static goes from 0.75 to 0.8",
    ]
    # One engine at a time tried, within the budget of all; another stands at its first value.
    pool.wait(lambda: attempts(pool) == 3 + 3, "all attempts")
    assert "0.7" in fractions(pool).values()


def test_engines_without_room_are_told_in_numbers(pool, plane):
    other = {"limits": {"nvidia.com/gpu": "7"}}
    for number in range(3):
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"trainer-{number}"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": other}]},
        }
        plane.api.post(f"/api/v1/namespaces/{pool.namespace}/pods", body)
    pool.wait(
        lambda: all(p["spec"].get("nodeName") for p in pool.all_pods()), "the trainer to be placed"
    )
    pool.apply(replicas=1)
    words = (
        "1 engine waiting for a node with 2 free nvidia.com/gpu: an engine wants 2 on one node; "
        "3 of 24 nvidia.com/gpu are free in the cluster; nearest is gpu-node-2 with 1 of 8 free, "
        "held by trainer-"
    )

    def told() -> bool:
        waiting = pool.wait_for(conditions.RECONCILING, conditions.DEVICES_PENDING)
        return str(waiting["message"]).startswith(words)  # the numbers are looked up beside

    pool.wait(told, words)


def test_an_engine_that_kubelet_killed_is_told_by_what_kubelet_says(pool, plane):
    """KWOK has no probes: the Event is written by hand, in kubelet's words."""
    pool.apply(replicas=1)
    pool.wait_ready()
    (pod,) = pool.pods()
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    now = pod["metadata"]["creationTimestamp"]
    path = f"/api/v1/namespaces/{pool.namespace}"
    plane.api.post(
        f"{path}/events",
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "killing", "namespace": pool.namespace},
            "involvedObject": {
                "kind": "Pod",
                "name": name,
                "namespace": pool.namespace,
                "uid": uid,
            },
            "reason": "Killing",
            "message": "Container engine failed liveness probe, will be restarted",
            "type": "Normal",
            "firstTimestamp": now,
            "lastTimestamp": now,
        },
    )
    pool.break_pod(name, 137)
    (failure,) = pool.wait(lambda: pool.status.get("lastFailures"), "the failure")
    assert failure["reason"] == "EngineUnresponsive"
