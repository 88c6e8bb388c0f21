"""Engines of several pods: how each pod is made, and what the pool's objects say of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.api.spec import Weights
from sglang_operator.children import (
    disruption_budget,
    engine_pod,
    kept,
    kinds,
    services,
    trainer_registry,
)
from sglang_operator.children.last_known import LastKnown
from sglang_operator.client import registry
from sglang_operator.client.registry import Registry
from sglang_operator.engine import arguments
from sglang_operator.gates import decide
from sglang_operator.observed import groups
from sglang_operator.observed.model import Gate, Observed, ObservedChild, ObservedNode, ObservedPod
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import (
    NOW,
    a_lease,
    a_lease_saying,
    a_pod,
    a_pool,
    all_pods,
    guide_spec,
    planned,
    weighed,
)

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


def test_the_leader_can_be_found_by_its_name_for_as_long_as_there_are_such_engines():
    """A follower that starts looks for it, whatever the spec asks for by now."""
    paused = {**SPEC, "rollout": {"paused": True}}
    old, new = a_pool(paused), a_pool({**paused, "num_gpus_per_node": 16})
    names_ = [names.service_name("actor-infer"), names.engines_service_name("actor-infer")]
    for pods, found in ((serving(old), names_), (serving(new), names_[:1]), ([], names_[:1])):
        made = kinds.SERVICE.desired(new, weighed(new, pods))
        assert [body["metadata"]["name"] for body in made] == found


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


def serving(pool: Pool, *, closed: int = 0) -> list[ObservedPod]:
    """Its pods, all up: behind a closed gate those of the first engines, and their followers Ready
    as they always are."""
    opened = Gate(is_open=True, version="v1")
    return [
        a_pod(
            pool,
            engine,
            node_rank=rank,
            answered=True,
            started=True,
            container_id=f"containerd://{engine.name}-{rank}",
            gate=None if rank else Gate(is_open=False) if engine.rank < closed else opened,
            ready=bool(rank) or engine.rank >= closed,
        )
        for engine in pool.running
        for rank in range(engine.pods)
    ]


def budget(pool: Pool, pods: list[ObservedPod] | None = None) -> dict[str, Any]:
    """Of the pool whose pods are these; all serve if they are not told."""
    weights = weighed(pool, serving(pool) if pods is None else pods)
    spec = disruption_budget.disruption_budget(pool, weights)["spec"]
    assert isinstance(spec, dict)
    return spec


def chosen(spec: dict[str, Any], pod: ObservedPod) -> bool:
    """Whether the budget counts this pod, as Kubernetes reads its selector."""
    labels = {
        names.LABEL_POOL: "actor-infer",
        names.LABEL_ENGINE: pod.engine,
        names.LABEL_COMPONENT: names.FOLLOWER if pod.node_rank else names.ENGINE,
    }
    selector = spec["selector"]
    expressions = selector.get("matchExpressions", ())
    assert {each["operator"] for each in expressions} <= {"In", "NotIn"}
    return selector["matchLabels"].items() <= labels.items() and all(
        (labels[each["key"]] in each["values"]) is (each["operator"] == "In")
        for each in expressions
    )


def evictable(pool: Pool, pods: list[ObservedPod]) -> tuple[int, set[names.EngineName]]:
    """How many pods that count may be evicted at once, and the engines that may lose all pods."""
    spec = budget(pool, pods)
    counted = [pod for pod in pods if chosen(spec, pod)]
    allowed = max(0, sum(pod.ready for pod in counted) - spec["minAvailable"])
    free = {pod.uid for pod in pods if not pod.ready or pod not in counted}
    return allowed, {p.engine for p in pods} - {p.engine for p in pods if p.uid not in free}


def test_as_many_pods_may_be_evicted_at_once_as_engines_may_go():
    """The first takes its engine with it, so that the second has to wait."""
    assert budget(POOL)["minAvailable"] == 3 * 2 - 1
    two = a_pool({**SPEC, "rollout": {"maxUnavailable": 2}})
    assert budget(two)["minAvailable"] == 3 * 2 - 2


def test_the_budget_counts_followers():
    selector = budget(POOL)["selector"]
    (members,) = selector["matchExpressions"]
    for node_rank in (0, 1):
        labels = made(node_rank)["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        assert labels[members["key"]] in members["values"]


def test_followers_behind_closed_gates_may_be_evicted():
    """They are Ready, and serve nobody: a drain would wait for the next sync."""
    assert budget(POOL, serving(POOL, closed=3))["minAvailable"] == 0
    single = a_pool()
    pods = serving(single, closed=12)
    assert budget(single, pods)["minAvailable"] == 11, "pods by themselves are not Ready"


@pytest.mark.parametrize(
    ("most", "closed", "allowed"),
    [(1, 0, 1), (1, 1, 0), (1, 2, 0), (2, 1, 1), (2, 2, 0), (3, 2, 1)],
)
def test_an_engine_behind_a_closed_gate_may_be_evicted_whole(most, closed, allowed):
    """And counts as one that is out of service, as it does for a rollout."""
    for raw in (SPEC, {**SPEC, "num_gpus_per_node": 16}):
        pool = a_pool({**raw, "rollout": {"maxUnavailable": most}})
        pods = serving(pool, closed=closed)
        free = {engine.name for engine in pool.running[:closed]}
        assert evictable(pool, pods) == (allowed, free)


def test_followers_of_an_engine_that_comes_up_beside_another_stand_in_for_none():
    """They are Ready before it serves, and a drain would take an engine more for each."""
    pool = a_pool({**SPEC, "weights": {"gate": "Off"}, "rollout": {"maxSurge": 1}})
    olds = [
        replace(pod, gate=None, gated=False, ready=True, revision="0" * 10) for pod in serving(pool)
    ]
    starts = {"answered": False, "started": False, "engine_runs": True}
    leader = a_pod(pool, pool.engines[2], 1, containers_ready=False, ready=False, **starts)
    follower = a_pod(pool, pool.engines[2], 1, node_rank=1, ready=True, **starts)
    assert evictable(pool, [*olds, leader, follower]) == (1, set())
    both = [replace(pod, ready=True, containers_ready=True) for pod in (leader, follower)]
    assert evictable(pool, [*olds, *both]) == (2, set()), "it serves, so that one more may go"


def test_an_engine_whose_gate_is_about_to_open_is_protected():
    pods = serving(POOL, closed=1)
    state = Transaction(
        phase=Phase.COMMITTED,
        id="t1",
        version="v1",
        instances=frozenset(filter(None, (group.instance for group in groups.of(pods)))),
    )
    weights = weighed(POOL, pods, children=a_lease_saying(POOL, state))
    assert [change.is_open for change in weights.gates] == [True]
    spec = disruption_budget.disruption_budget(POOL, weights)["spec"]
    assert spec == budget(POOL)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"num_gpus_per_node": 16}, {"num_gpus_per_node": 8}, id="1-to-2-pods"),
        pytest.param({"num_gpus_per_node": 8}, {"num_gpus_per_node": 16}, id="2-to-1-pods"),
        pytest.param({"num_gpus_per_worker": 8}, {"num_gpus_per_worker": 16}, id="fewer-engines"),
        pytest.param({"num_gpus_per_worker": 16}, {"num_gpus_per_worker": 8}, id="more-engines"),
        pytest.param({"num_gpus_per_worker": 2}, {"num_gpus_per_worker": 16}, id="24-to-3-engines"),
    ],
)
def test_a_drain_takes_one_engine_of_a_pool_whose_new_grouping_is_not_rolled_out(before, after):
    old, new = (a_pool({**SPEC, "rollout": {"paused": True}, **edit}) for edit in (before, after))
    pods = serving(old)
    spec = budget(new, pods)
    assert all(chosen(spec, pod) for pod in pods)
    assert evictable(new, pods) == (1, set())


def test_of_a_pool_with_engines_of_one_pod_and_of_two_a_drain_takes_no_more_than_one():
    halted = {**SPEC, "rollout": {"paused": True}}
    old, new = (a_pool({**halted, "num_gpus_per_node": per}) for per in (16, 8))
    first = new.running[0].name
    pods = [pod for pod in serving(new) if pod.engine == first]
    pods += [pod for pod in serving(old) if pod.engine != first]
    assert evictable(new, pods) == (1, set())
    assert evictable(new, [pod for pod in pods if pod.engine != first]) == (0, set())


def test_so_it_may_while_the_spec_of_the_pool_is_refused():
    pods = serving(POOL, closed=1)
    name = names.disruption_budget_name("actor-infer")
    body = {"metadata": {"name": name}, "spec": {"minAvailable": 4}}
    child = ObservedChild(uid=names.Uid("uid-budget"), owner=POOL.owner.uid, body=body)
    known = LastKnown(
        owner=POOL.owner,
        weights=weighed(POOL, pods),
        observed=Observed(pods=tuple(pods), children={("PodDisruptionBudget", name): child}),
        now=NOW,
    )
    (kept_budget,) = kept.kept_budget(known)
    assert kept_budget["spec"] == budget(POOL, pods)


def test_engines_that_are_only_to_go_are_not_kept_from_a_drain():
    few = a_pool({**SPEC, "replicas": 2})
    assert budget(few, serving(POOL)) == budget(few)


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


# --- an engine of which a node is lost


def nodes(lost: int | None) -> dict[str, ObservedNode]:
    """The nodes of the members by rank, of which one is silent for long, and others."""
    found = {n: ObservedNode(name=n) for n in ("gpu-node-0", "gpu-node-1", "a", "b", "c")}
    if lost is not None:
        name, since = f"gpu-node-{lost}", NOW - 600
        silent = ObservedNode(name=name, ready=False, unready=since, ready_changed=since)
        found[name] = silent
    return found


def lost_in_part(
    lost: int | None, on_node_lost: str = "Wait", **changes: Any
) -> tuple[dict[str, Any], Registry]:
    """What is told of a pool of one engine of two pods, and what a client reads of that."""
    pool = a_pool(
        {**SPEC, "device_mapping": "list(range(0,16))", "restart": {"onNodeLost": on_node_lost}}
    )
    pods = [replace(pod, **changes) for pod in serving(pool)]
    weights = weighed(pool, pods, nodes=nodes(lost))
    return (
        trainer_registry.document(pool, weights),
        registry.parse(trainer_registry.registry(pool, weights)),
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_of_an_engine_that_is_lost_with_one_node_it_is_told_that_it_runs_on_another(rank):
    """A trainer that takes its memory there would run out of it."""
    told, read = lost_in_part(rank)
    (entry,), (engine,) = told["engines"], read.engines
    assert (entry["state"], entry["runsInPart"]) == ("Lost", True)
    assert engine.holds
    assert not (engine.runs or engine.up)


def test_of_one_that_is_lost_with_all_of_its_nodes_or_runs_nowhere_it_is_not():
    whole, read = lost_in_part(0, node="gpu-node-0")
    assert whole["engines"][0]["state"] == "Lost"
    assert not read.engines[0].holds
    ended, _ = lost_in_part(0, engine_runs=False)
    well, _ = lost_in_part(None)
    for told in (whole, ended, well):
        assert "runsInPart" not in told["engines"][0]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_left_of_a_lost_engine_that_is_replaced_is_waited_for(rank):
    told, read = lost_in_part(rank, "Replace")
    assert told["engines"][0]["instance"] is None
    assert [(each.engine, each.state) for each in read.unlisted] == [("g0-15", "Waiting")]
    going = {"deleting": True, "deletion_asked": NOW - 10, "deletion_due": NOW + 20}
    _, read = lost_in_part(rank, "Replace", **going)
    (left,) = read.unlisted
    assert left.leaving is not None
    assert left.leaving.grace == 30
    _, read = lost_in_part(0, "Replace", node="gpu-node-0", **going)
    assert not read.unlisted, "nobody knows when it will be gone"


def test_a_refused_spec_tells_no_longer_that_it_runs_in_part_once_its_node_is_back():
    told, _ = lost_in_part(1)
    body = trainer_registry.config_map(POOL.owner, told)
    child = ObservedChild(uid=names.Uid("uid-registry"), owner=POOL.owner.uid, body=body)
    name = names.registry_name("actor-infer")
    pool = a_pool({**SPEC, "device_mapping": "list(range(0,16))"})
    for lost, state in ((1, "Lost"), (None, "InService")):
        pods = serving(pool)
        known = LastKnown(
            owner=POOL.owner,
            weights=weighed(pool, pods),
            observed=Observed(
                pods=tuple(pods), nodes=nodes(lost), children={("ConfigMap", name): child}
            ),
            now=NOW,
        )
        (kept_registry,) = kept.kept_registry_if_told(known)
        (entry,) = json.loads(kept_registry["data"][trainer_registry.ENGINES_KEY])["engines"]
        assert entry["state"] == state
        assert entry.get("runsInPart", False) is (state == "Lost")
