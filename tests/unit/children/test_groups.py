"""Engines of several pods: how each pod is made, and what the pool's objects say of them."""

from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.api.spec import Weights
from sglang_operator.children import disruption_budget, engine_pod, services, trainer_registry
from sglang_operator.engine import arguments
from sglang_operator.gates import decide
from sglang_operator.observed.model import Gate, Observed, ObservedPod
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Transaction
from tests.builders import NOW, a_lease, a_pod, a_pool, all_pods, guide_spec, planned

SPEC = guide_spec(num_gpus_per_worker=16, device_mapping="list(range(0,48))")
POOL = a_pool(SPEC)
FIRST = POOL.engines[0]


def made(node_rank: int, pool: Pool = POOL, **changes: Any) -> dict[str, Any]:
    template = engine_pod.template(pool)
    return engine_pod.pod(pool, template, pool.engines[0], 3, node_rank=node_rank, **changes)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def flags(pod: dict[str, Any], *wanted: str) -> list[str]:
    return [item for item in container(pod)["args"] if item.startswith(wanted)]


def test_pods_of_one_engine_meet_at_the_leader():
    where = ("--dist-init-addr", "--nnodes", "--node-rank")
    assert flags(made(0), *where) == [
        "--dist-init-addr=$(SGLANG_OPERATOR_POD_IP):20000",
        "--nnodes=2",
        "--node-rank=0",
    ]
    assert flags(made(1), *where) == [
        "--dist-init-addr=actor-infer-g0-15-3n0.actor-infer-engines.rl.svc:20000",
        "--nnodes=2",
        "--node-rank=1",
    ]
    assert "SGLANG_OPERATOR_POD_IP" in [each["name"] for each in container(made(0))["env"]]


def test_an_ipv6_address_stands_in_brackets():
    argv = arguments.meeting(POOL.arguments.argv, arguments.ANY_IPV6_ADDRESS)
    assert "--dist-init-addr=[$(SGLANG_OPERATOR_POD_IP)]:20000" in argv
    follower = arguments.following(argv, 1, "leader.engines.rl.svc")
    assert "--dist-init-addr=leader.engines.rl.svc:20000" in follower


@pytest.mark.parametrize("port", [20000, 20006, 20013, 30000])
def test_the_server_s_port_is_none_of_those_at_which_pods_meet(port):
    """With attention data parallelism SGLang takes the six after the first, and the thirteenth."""
    pool = a_pool({**SPEC, "network": {"port": port}})
    (found,) = flags(made(0, pool), "--dist-init-addr")
    first = int(found.rpartition(":")[2])
    assert port not in range(first, first + 14)


def test_the_leader_can_be_found_by_its_name():
    for node_rank in (0, 1):
        spec = made(node_rank)["spec"]
        assert spec["subdomain"] == names.engines_service_name("actor-infer")
        assert spec["hostname"] == f"actor-infer-g0-15-3n{node_rank}"
    (_, engines) = services.services(POOL)
    assert engines["spec"]["publishNotReadyAddresses"]


def test_each_pod_asks_for_its_share_of_the_gpus():
    for node_rank, devices in ((0, "0,1,2,3,4,5,6,7"), (1, "8,9,10,11,12,13,14,15")):
        pod = made(node_rank)
        assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert pod["metadata"]["annotations"][names.ANNOTATION_DEVICES] == devices
        assert pod["metadata"]["annotations"][names.ANNOTATION_NODES] == "2"
    (shm,) = [v for v in made(0)["spec"]["volumes"] if v["name"] == "dshm"]
    assert shm["emptyDir"]["sizeLimit"] == "24Gi", "for 8 GPUs"


def test_no_service_chooses_a_follower():
    follower = made(1)["metadata"]["labels"]
    for service in services.services(POOL):
        chosen = service["spec"]["selector"]
        assert not chosen.items() <= follower.items()
        assert chosen.items() <= made(0)["metadata"]["labels"].items()
    assert names.is_watched(made(1)["metadata"]["name"], follower, "actor-infer")


def test_the_gate_is_on_the_leader_alone():
    assert made(0)["spec"]["readinessGates"]
    assert not made(1)["spec"]["readinessGates"]


def test_a_pod_that_meets_nobody_is_not_started_again():
    ungated = a_pool({**SPEC, "weights": {"gate": "Off"}})
    assert {made(rank, ungated)["spec"]["restartPolicy"] for rank in (0, 1)} == {"Never"}


@pytest.mark.parametrize("version", ["0.4.10.post2", "0.5.2", "0.5.7", "0.5.23"])
def test_a_follower_is_asked_what_it_answers(version):
    """Its HTTP server has nothing else, with an API key or without."""
    key = {"apiKey": {"name": "secret", "key": "token"}}
    pool = a_pool({**SPEC, "image": f"lmsysorg/sglang:v{version}", "security": key})
    found = container(made(1, pool))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert found[probe]["httpGet"] == {"path": "/health", "port": 30000}
        assert "tcpSocket" not in found[probe]


def test_a_failure_at_the_start_is_told_by_each_pod():
    for node_rank in (0, 1):
        annotations = made(node_rank, failures=2)["metadata"]["annotations"]
        assert annotations[names.ANNOTATION_FAILURES] == "2"


# --- the budget


def budget(pool: Pool, reachable: int = 1) -> dict[str, Any]:
    spec = disruption_budget.disruption_budget(pool, reachable)["spec"]
    assert isinstance(spec, dict)
    return spec


def test_as_many_pods_may_be_evicted_at_once_as_engines_may_go():
    """The first takes its engine with it, so that the second has to wait."""
    assert budget(POOL)["minAvailable"] == 3 * 2 - 1
    two = a_pool({**SPEC, "rollout": {"maxUnavailable": 2}})
    assert budget(two)["minAvailable"] == 3 * 2 - 2


def test_the_budget_counts_followers():
    chosen = budget(POOL)["selector"]
    (members,) = chosen["matchExpressions"]
    for node_rank in (0, 1):
        labels = made(node_rank)["metadata"]["labels"]
        assert chosen["matchLabels"].items() <= labels.items()
        assert labels[members["key"]] in members["values"]


def test_followers_behind_closed_gates_may_be_evicted():
    """They are Ready, and serve nobody: a drain would wait for the next sync."""
    assert budget(POOL, reachable=0)["minAvailable"] == 0
    assert budget(a_pool(), reachable=0)["minAvailable"] == 11, "pods by themselves are not Ready"


# --- the registry


def told(pods: list[ObservedPod]) -> dict[str, Any]:
    plan = planned(POOL, pods)
    gates = decide.GatePlan(engines=plan.engines, transaction=Transaction())
    return trainer_registry.document(POOL, gates)


def test_the_registry_has_the_leaders_and_all_gpus():
    pods = [
        a_pod(POOL, engine, node_rank=rank, container_id=f"{engine.name}{rank}")
        for engine in POOL.engines
        for rank in (0, 1)
    ]
    content = told(pods)
    assert content["worldSize"] == 1 + 48
    assert [each["rankOffset"] for each in content["engines"]] == [1, 17, 33]
    first = content["engines"][0]
    assert (first["gpus"], first["devices"]) == (16, list(range(16)))
    assert (first["pod"], first["url"]) == ("actor-infer-g0-15-0n0", "http://10.0.0.1:30000")
    assert first["instance"]
    assert {each["state"] for each in content["engines"]} == {"Up"}


def test_an_engine_without_its_leader_has_no_address():
    (first, *_) = told([a_pod(POOL, FIRST, node_rank=1)])["engines"]
    assert (first["pod"], first["url"], first["instance"]) == (None, None, None)
    assert first["state"] == "Creating"


# --- the gate


def gates_of(pods: list[ObservedPod], **lease: str) -> list[tuple[str, bool]]:
    observed = Observed(pods=tuple(pods), children=a_lease(POOL, seen=NOW, **lease))
    engines = planned(POOL, pods).engines
    policy = Weights(gate=POOL.gate)
    plan = decide.decide(POOL.owner, policy, engines, observed, NOW)
    return [(change.pod.name, change.is_open) for change in plan.gates]


def test_a_commit_opens_the_leader_s_gate_of_the_very_run_that_it_covered():
    pods = all_pods(POOL, container_id="containerd://1")
    run = planned(POOL, pods).engines[0].instance or ""
    commit: dict[str, Any] = {"phase": "Committed", "version": "step-1", "instances": run}
    assert gates_of(pods, **commit) == [("actor-infer-g0-15-0n0", True)]
    again = [a_pod(POOL, FIRST, node_rank=1, container_id="containerd://2"), pods[0], *pods[2:]]
    assert gates_of(again, **commit) == [], "another follower is another run"


def test_an_abort_closes_the_leader_s_gate():
    pods = all_pods(POOL, container_id="containerd://1", gate=Gate(is_open=True, version="step-1"))
    closed = gates_of(pods, phase="Aborted", transaction="t", message="gone")
    assert closed == [(f"actor-infer-{e.name}-0n0", False) for e in POOL.engines]
