"""A pool on its trainer's GPUs on a real control plane: scheduler, StatefulSet, narrow roles."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_operator.api import conditions, names
from sglang_operator.client import ClusterError, slots
from sglang_operator.testing import errors
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Transaction
from sglang_operator.weights.turn import TRAINER
from tests.integration.pools import Json, PoolUnderTest
from tests.unit.cli.runner import GUIDE, converted
from tests.unit.placement.trainers import gpu

pytestmark = pytest.mark.plane("4x8", quiet=True)

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples" / "colocated"
SHARED: Json = {"placement": {"mode": "Shared"}}
ACCOUNT = "colocated-trainer"


def run_trainer(pool: PoolUnderTest, replicas: int) -> None:
    """The sample's trainer, with so many pods of 8 GPUs, and without what KWOK has not."""
    objects = list(yaml.safe_load_all((SAMPLES / "trainer.yaml").read_text()))
    spec = objects[-1]["spec"]
    spec["replicas"] = replicas
    del spec["template"]["spec"]["runtimeClassName"]
    pool.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))


def run_job(pool: PoolUnderTest, pods: int) -> None:
    """The same trainer as a plain Job with an index for each of its pods."""
    *account, stateful = yaml.safe_load_all((SAMPLES / "trainer.yaml").read_text())
    template = stateful["spec"]["template"]
    del template["spec"]["runtimeClassName"]
    template["spec"]["restartPolicy"] = "Never"
    spec: Json = {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
    body: Json = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "trainer"}}
    body["spec"] = {**spec, "backoffLimit": 10, "template": template}
    pool.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*account, body]))


def pod_of_job(pool: PoolUnderTest, index: int, besides: str = "") -> Json:
    """The Job's pod of this index, once it runs and is another one than ``besides``."""
    labels = f"batch.kubernetes.io/job-completion-index={index},{names.LABEL_TRAINER}"

    def runs() -> Json | None:
        found: list[Json] = pool.plane.api.get(
            f"/api/v1/namespaces/{pool.namespace}/pods?labelSelector={labels.replace('=', '%3D')}"
        )["items"]
        there = (pod for pod in found if pod["metadata"]["name"] != besides)
        return next((pod for pod in there if pod["status"].get("phase") == "Running"), None)

    pod: Json = pool.wait(runs, f"the Job's pod {index} runs", 60)
    return pod


def trainer(pool: PoolUnderTest, rank: int) -> Json:
    """The trainer's pod of this rank, once it runs."""

    def runs() -> Json | None:
        path = f"/api/v1/namespaces/{pool.namespace}/pods/trainer-{rank}"
        pod: Json = pool.plane.api.get(path)
        lives = not pod["metadata"].get("deletionTimestamp")
        return pod if lives and pod["status"].get("phase") == "Running" else None

    found: Json = pool.wait(runs, f"trainer-{rank} runs", 60)
    return found


def publish(pool: PoolUnderTest, rank: int, **changes: Any) -> Json:
    """What the trainer's pod does first, with the rights that it has; the pod."""
    return publish_of(pool, trainer(pool, rank), rank, **changes)


def publish_of(pool: PoolUnderTest, pod: Json, rank: int, **changes: Any) -> Json:
    """The same of a trainer's pod, whoever made it."""
    environ = {
        "NODE_NAME": pod["spec"]["nodeName"],
        "POD_NAME": pod["metadata"]["name"],
        "POD_UID": pod["metadata"]["uid"],
    }
    config = pool.plane.service_account_kubeconfig(pool.namespace, ACCOUNT)
    given = {"gpus": [gpu(rank, index) for index in range(8)], "environ": environ} | changes
    slots.publish(pool.name, rank, kubeconfig=config, wait_seconds=30, **given)
    return pod


def engines_on(pool: PoolUnderTest) -> dict[str, str]:
    """The node of each engine that stays."""
    return {
        pod["metadata"]["labels"][names.LABEL_ENGINE]: pod["spec"].get("nodeName", "")
        for pod in pool.pods()
        if not pod["metadata"].get("deletionTimestamp")
    }


def is_on(pool: PoolUnderTest, wanted: dict[str, str]) -> bool:
    return engines_on(pool) == wanted and pool.is_ready()


def test_engines_join_their_trainer_and_follow_when_it_moves(pool):
    pool.apply(device_mapping="list(range(0,16))", num_gpus_per_worker=4, **SHARED)
    pool.wait_for(conditions.READY, conditions.SEATS_AWAITED)
    assert not pool.pods()
    run_trainer(pool, 2)
    first, second = (publish(pool, rank)["spec"]["nodeName"] for rank in range(2))
    assert first != second
    wanted = {"g0-3": first, "g4-7": first, "g8-11": second, "g12-15": second}
    pool.wait(lambda: is_on(pool, wanted), f"engines are on {wanted}", 60)

    for pod in pool.pods():
        (container,) = pod["spec"]["containers"]
        assert "nvidia.com/gpu" not in str(container["resources"]), "the trainer has them all"
    assert gpus_of(pool)["g12-15"] == ",".join(gpu(1, index) for index in range(4, 8))
    assigned = pool.condition(conditions.DEVICES_ASSIGNED)
    assert assigned["reason"] == conditions.SHARED
    assert "16 GPUs of the trainer on 2 nodes" in assigned["message"]

    # Its node is taken out of service: the StatefulSet makes the pod anew, elsewhere.
    kept = pool.uids()
    pool.plane.kubectl("cordon", first)
    pool.kubectl("delete", "pod", "trainer-0", "--wait=false", "--grace-period=0", "--force")
    pool.wait(lambda: set(engines_on(pool)) == {"g8-11", "g12-15"}, "its engines are gone", 60)
    pool.wait_for(conditions.READY, conditions.SEATS_AWAITED)
    moved = publish(pool, 0)["spec"]["nodeName"]
    assert moved not in (first, second)
    pool.wait(lambda: is_on(pool, {**wanted, "g0-3": moved, "g4-7": moved}), "all is well", 60)
    now = pool.uids()
    assert {name: now[name] for name in ("g8-11", "g12-15")} == {
        name: kept[name] for name in ("g8-11", "g12-15")
    }, "who has not moved runs on"
    pool.plane.kubectl("uncordon", first)
    pool.kubectl("delete", "statefulset", "trainer", "--cascade=background")


def test_engines_join_a_trainer_that_is_a_plain_job_and_follow_its_next_pod(pool):
    pool.apply(device_mapping="list(range(0,16))", num_gpus_per_worker=4, **SHARED)
    run_job(pool, 2)
    pods = [publish_of(pool, pod_of_job(pool, index), index) for index in range(2)]
    first, second = (pod["spec"]["nodeName"] for pod in pods)
    wanted = {"g0-3": first, "g4-7": first, "g8-11": second, "g12-15": second}
    pool.wait(lambda: is_on(pool, wanted), f"engines are on {wanted}", 60)

    pool.plane.kubectl("cordon", first)
    name = pods[0]["metadata"]["name"]
    pool.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0", "--force")
    pool.wait(lambda: set(engines_on(pool)) == {"g8-11", "g12-15"}, "its engines are gone", 60)
    again = publish_of(pool, pod_of_job(pool, 0, besides=name), 0)["spec"]["nodeName"]
    pool.plane.kubectl("uncordon", first)
    assert again not in (first, second)
    pool.wait(lambda: is_on(pool, {**wanted, "g0-3": again, "g4-7": again}), "all is well", 60)

    pool.kubectl("delete", "job", "trainer", "--cascade=background")
    pool.wait(lambda: not engines_on(pool), "the Job is gone, and its engines with it", 60)


def test_the_guides_file_joins_a_trainer_of_32_gpus_as_roll_would_place_it(pool):
    """actor_train on 0 to 31, actor_infer on 0 to 23: 12 engines on three of four nodes."""
    (body,) = converted(GUIDE, "--shared")
    pool.apply(**body["spec"])
    run_trainer(pool, 4)
    on = [publish(pool, rank)["spec"]["nodeName"] for rank in range(4)]
    assert len(set(on)) == 4
    places = {f"g{first}-{first + 1}": divmod(first, 8) for first in range(0, 24, 2)}
    pool.wait(
        lambda: is_on(pool, {name: on[rank] for name, (rank, _) in places.items()}),
        "each engine is on the node of its GPUs",
        120,
    )
    assert gpus_of(pool) == {
        name: ",".join(gpu(rank, index + each) for each in range(2))
        for name, (rank, index) in places.items()
    }
    registry = pool.registry()
    assert registry["placement"] == {"numGpusPerNode": 8, "awaitsSlots": True}
    assert registry["memorySaver"] is True
    by_rank = [(each["rank"], each["devices"]) for each in registry["engines"]]
    assert by_rank == [(rank, [2 * rank, 2 * rank + 1]) for rank in range(12)]
    pool.kubectl("delete", "statefulset", "trainer", "--cascade=background")


def gpus_of(pool: PoolUnderTest) -> dict[str, str]:
    """What each engine sees of its node's GPUs."""
    return {
        pod["metadata"]["labels"][names.LABEL_ENGINE]: variable["value"]
        for pod in pool.pods()
        for variable in pod["spec"]["containers"][0]["env"]
        if variable["name"] == "NVIDIA_VISIBLE_DEVICES"
    }


def test_slots_that_disagree_are_told_and_touch_nobody(pool):
    pool.apply(device_mapping="list(range(0,8))", num_gpus_per_worker=4, **SHARED)
    run_trainer(pool, 1)
    node = publish(pool, 0)["spec"]["nodeName"]
    pool.wait(lambda: is_on(pool, {"g0-3": node, "g4-7": node}), "two engines", 60)
    before = pool.uids()
    publish(pool, 0, gpus=[gpu(0, index) for index in range(4)])
    stands = pool.wait_for(conditions.STALLED, "SlotsDisagree")
    assert "found 4 GPUs for node rank 0; expected at least 8" in stands["message"]
    assert pool.uids() == before
    publish(pool, 0)
    pool.wait_ready()
    assert pool.uids() == before
    pool.kubectl("delete", "statefulset", "trainer", "--cascade=background")


def test_a_trainer_may_say_what_it_has_and_no_more(pool):
    pool.apply(device_mapping="list(range(0,8))", **SHARED)
    run_trainer(pool, 1)
    pod = trainer(pool, 0)
    config = pool.plane.service_account_kubeconfig(pool.namespace, ACCOUNT)
    environ = {"NODE_NAME": "n", "POD_NAME": "trainer-0", "POD_UID": pod["metadata"]["uid"]}
    with pytest.raises(ClusterError, match="bind the trainer's Role"):
        slots.publish("another", 0, gpus=[gpu(0, 0)], environ=environ, kubeconfig=config)
    as_trainer = ("--as", f"system:serviceaccount:{pool.namespace}:{ACCOUNT}")
    allowed = pool.kubectl("auth", "can-i", "--list", *as_trainer)
    assert "pods" not in allowed
    pool.kubectl("delete", "statefulset", "trainer", "--cascade=background")


def test_a_policy_keeps_the_mode_to_named_namespaces(pool):
    pool.plane.kubectl("apply", "-f", str(SAMPLES / "policy.yaml"))
    sample = (SAMPLES / "pool.yaml").read_text().replace("name: actor-infer", "name: another")

    def refused() -> str:
        try:
            pool.kubectl("create", "--dry-run=server", "-f", "-", input=sample)
        except errors.CommandError as error:
            return str(error)
        return ""

    try:
        pool.wait(lambda: "shared-gpus=true" in refused(), "the policy is in force")
        pool.apply(device_mapping="list(range(0,8))", suspend=True)
        label = f"{names.GROUP}/shared-gpus=true"
        pool.plane.kubectl("label", "namespace", pool.namespace, label)
        pool.wait(lambda: not refused(), "it is allowed here")
    finally:
        pool.plane.kubectl("delete", "-f", str(SAMPLES / "policy.yaml"))
    # The API server forgets it a moment later, and others want to make pools.
    pool.plane.kubectl("label", "namespace", pool.namespace, f"{names.GROUP}/shared-gpus-")
    pool.wait(lambda: not refused(), "the policy is in force no more")


def test_an_engine_that_ends_in_its_trainers_turn_waits_until_that_is_over(pool):
    pool.apply(device_mapping="list(range(0,8))", num_gpus_per_worker=4, **SHARED)
    run_trainer(pool, 1)
    node = publish(pool, 0)["spec"]["nodeName"]
    pool.wait(lambda: is_on(pool, {"g0-3": node, "g4-7": node}), "two engines", 60)
    name = names.weights_lease_name(pool.name)
    trainer_ = steps.Trainer(holder="trainer", transaction="t1")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pool.namespace}/leases/{name}"

    def say(step: Callable[[Transaction], Transaction]) -> None:
        body = lease_state.patch(lease := pool.plane.api.get(path), step(lease_state.read(lease)))
        pool.kubectl("patch", "lease", name, "--type=merge", "-p", json.dumps(body))

    at: Json = {"now": time.time(), "seen": time.time()}
    runs = [engine["instance"] for engine in pool.registry()["engines"]]
    say(lambda s: steps.sleep(s, trainer_, tags=["weights"], takes=TRAINER, **at))
    say(lambda s: steps.slept(s, trainer_, instances=runs, now=at["now"]))
    pool.kubectl("delete", "pod", "-l", f"{names.LABEL_ENGINE}=g0-3", "--grace-period=0", "--force")
    told = pool.wait_for(conditions.READY, conditions.TURN_AWAITED)
    assert "1 engine waiting: the trainer has these GPUs" in told["message"]
    assert set(engines_on(pool)) == {"g4-7"}
    section = pool.registry()["weights"]
    assert (section["turn"], section["waits"]) == ("all", [[0, 0]])

    say(lambda s: steps.wake(s, trainer_, now=at["now"]))
    pool.wait(lambda: is_on(pool, {"g0-3": node, "g4-7": node}), "it is back", 60)
    pool.kubectl("delete", "statefulset", "trainer", "--cascade=background")
