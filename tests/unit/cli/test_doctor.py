"""The examination of a cluster, over answers of the test's own."""

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from generators.checkout import DEFINITION
from sglang_operator.api import names
from sglang_operator.cli import doctor
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError, Why
from tests.builders import NOW, guide_spec
from tests.unit.view.drawn_cluster import DrawnCluster, guide

RENEWED = "2027-01-15T07:59:50.000000Z"


def _node(gpus: str = "8", ready: str = "True", name: str = "n", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {
            "allocatable": {"nvidia.com/gpu": gpus, "cpu": "8"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


@functools.cache
def _definition() -> str:
    return json.dumps(yaml.safe_load(DEFINITION.read_text()))


def _facts() -> dict[str, Any]:
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    return {
        "version": {"major": "1", "minor": "37+", "gitVersion": "v1.37.2"},
        "definition": json.loads(_definition()),
        "nodes": {"items": [_node()]},
        "kubernetes service": {"spec": {"ipFamilies": ["IPv4"]}},
        "leases": {
            "items": [
                {
                    "metadata": {"namespace": "sglang-operator"},
                    "spec": {"holderIdentity": "op-0", "renewTime": RENEWED},
                }
            ]
        },
        "deployments": {"items": []},
        "operator pods": {"items": []},
        "pools": {"items": []},
        "engines": {"items": []},
        "namespace": {"metadata": {"name": "rl"}},
        "quotas": {"items": []},
        "limits": {"items": []},
        "groups": {"groups": []},
        "rules": {"status": {"resourceRules": [rule]}},
    }


def _answers(changes: dict[str, Any]) -> dict[str, bytes | ClusterError]:
    facts = {**_facts(), **changes}
    return {
        name: fact if isinstance(fact, ClusterError) else json.dumps(fact).encode()
        for name, fact in facts.items()
    }


def _examine(**changes: Any) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine("rl", _answers(changes), NOW)}


def test_a_cluster_that_can_run_pools_is_good_in_everything():
    checks = _examine()
    assert {check.grade for check in checks.values()} == {Grade.GOOD}


@pytest.mark.parametrize(
    ("minor", "grade"), [("29", Grade.BAD), ("31", Grade.WARNING), ("34", Grade.GOOD)]
)
def test_old_clusters_are_told(minor, grade):
    version = {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"}
    assert _examine(version=version)["Kubernetes"].grade is grade


def test_a_missing_definition_says_how_to_install():
    check = _examine(definition=ClusterError("kubectl", "not found", Why.NOT_FOUND))
    assert check["resource definition"].grade is Grade.BAD
    assert "helm install" in check["resource definition"].do


def test_a_definition_that_lacks_a_field_is_old():
    definition = _facts()["definition"]
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["rollout"]
    check = _examine(definition=definition)["resource definition"]
    assert check.grade is Grade.BAD
    assert check.what.endswith("it lacks spec.rollout")


def test_a_definition_with_more_fields_is_newer_than_the_program():
    definition = _facts()["definition"]
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["later"] = {"type": "string"}
    assert _examine(definition=definition)["resource definition"].grade is Grade.WARNING


# --- who acts


def _lease(namespace: str, holder: str, silent: float = 0, **spec: Any) -> dict[str, Any]:
    renewed = datetime.fromtimestamp(NOW - silent, UTC).isoformat()
    return {
        "metadata": {"namespace": namespace},
        "spec": {"holderIdentity": holder, "renewTime": renewed, **spec},
    }


def _copy(namespace: str, name: str, *flags: str, elected: bool = True) -> dict[str, Any]:
    container = {"args": [*flags], "env": [{"name": "POD_NAMESPACE"}] if elected else []}
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": [container]},
        "status": {"phase": "Running"},
    }


def _led(
    leases: list[Any], copies: Sequence[Any] = (), again: list[Any] | None = None
) -> list[Check]:
    facts: dict[str, Any] = {
        "leases": {"items": leases},
        "operator pods": {"items": [*copies]},
        **({} if again is None else {"leases again": {"items": again}}),
    }
    return [
        check
        for check in doctor.examine("rl", _answers(facts), NOW)
        if check.name in ("operator", "operators")
    ]


def test_an_operator_that_stopped_is_not_taken_for_none():
    (check,) = _led([_lease("ops", "op-0_1", 16)])
    assert check.grade is Grade.BAD
    assert check.what == (
        "nobody acts: op-0_1 in ops, which held the Lease sglang-operator, stopped 16s ago"
    )
    assert _led([_lease("ops", "op-0_1", 14)])[0].grade is Grade.GOOD
    assert _led([_lease("ops", "op-0_1", 25, leaseDurationSeconds=30)])[0].grade is Grade.GOOD
    assert _led([_lease("ops", "")])[0].what.startswith("no operator runs here")


def test_a_standby_that_waits_is_told():
    copies = [_copy("ops", "op-0"), _copy("ops", "op-1"), _copy("other", "op-2")]
    (check,) = _led([_lease("ops", "op-0_1", 16)], copies)
    assert check.what.endswith("stopped 16s ago; op-1 waits to take its place")
    assert "logs" in check.do


def test_a_clock_that_goes_wrong_makes_no_operator_dead():
    leases, again = [_lease("ops", "op-0_1", 60)], [_lease("ops", "op-0_1", 58)]
    (check,) = _led(leases, again=again)
    assert check.grade is Grade.GOOD
    (check,) = _led(leases, again=leases)
    assert check.grade is Grade.BAD
    ahead = [_lease("ops", "op-0_1", -600)]
    assert _led(ahead, again=[_lease("ops", "op-0_1", -602)])[0].grade is Grade.GOOD
    assert _led(ahead, again=ahead)[0].grade is Grade.BAD


@pytest.mark.parametrize(
    ("flags", "grade"),
    [
        (([], []), Grade.BAD),
        ((["--namespace=a"], []), Grade.BAD),
        ((["--namespace=a", "--namespace=b"], ["-n", "b"]), Grade.BAD),
        ((["--namespace=$(POD_NAMESPACE)"], ["--namespace", "one"]), Grade.BAD),
        ((["--namespace=$(POD_NAMESPACE)"], ["--namespace=$(POD_NAMESPACE)"]), None),
        ((["--namespace=a"], ["--namespace=b"]), None),
    ],
)
def test_two_operators_that_may_write_to_one_pool_are_told(flags, grade):
    leases = [_lease("one", "op-0_1"), _lease("two", "op-1_2")]
    copies = [_copy("one", "op-0", *flags[0]), _copy("two", "op-1", *flags[1])]
    first, *others = _led(leases, copies)
    assert first.what.startswith("op-0_1 in one, op-1_2 in two acts")
    assert [check.grade for check in others] == ([grade] if grade else [])
    for check in others:
        assert "2 operators act for the same pools" in check.what
        assert "helm uninstall" in check.do


def test_operators_whose_pods_are_not_seen_may_meet():
    leases = [_lease("one", "op-0_1"), _lease("two", "laptop_2"), _lease("old", "op-9_1", 99)]
    (check,) = _led(leases)[1:]
    assert check.grade is Grade.WARNING
    assert "laptop_2 in two, op-0_1 in one" in check.what
    assert "op-9" not in check.what


def test_an_operator_without_a_lease_acts_too():
    alone = _copy("two", "op-1", elected=False)
    (check,) = _led([_lease("one", "op-0_1")], [_copy("one", "op-0"), alone])[1:]
    assert check.grade is Grade.BAD
    assert "op-1 in two, without a Lease" in check.what
    (check,) = _led([], [alone])
    assert check.grade is Grade.GOOD


def _of(lease: str, serves: str | None, namespace: str, holder: str, silent: float = 0) -> Any:
    """A Lease of any name, and what it says of its holder."""
    found = _lease(namespace, holder, silent)
    found["metadata"]["name"] = lease
    if serves is not None:
        found["metadata"]["annotations"] = {names.ANNOTATION_SERVES: serves}
    return found


def test_an_operator_is_known_by_what_its_lease_says_and_not_by_its_name():
    (check,) = _led([_of("blue", "team-a", "ops", "op-0_1"), _of("other", None, "ops", "else")])
    assert check.what == "op-0_1 in ops acts"
    (check,) = _led([_of("blue", "*", "ops", "op-0_1", 16), _of("other", None, "ops", "else")])
    assert "op-0_1 in ops, which held the Lease blue, stopped 16s ago" in check.what


def test_what_a_lease_says_is_believed_where_no_pod_is_seen():
    leases = [_of("blue", "team-a", "ops", "op-0_1"), _of("green", "team-b", "ops", "op-1_1")]
    assert len(_led(leases)) == 1
    leases[1] = _of("green", "team-a,team-b", "others", "op-1_1")
    assert _led(leases)[1].grade is Grade.BAD


def test_releases_of_one_namespace_renew_each_its_own_lease():
    leases = [_of("blue", "a", "ops", "a-0_1", 60), _of("green", "b", "ops", "b-0_1", 60)]
    again = [_of("blue", "a", "ops", "a-0_1", 60), _of("green", "b", "ops", "b-0_1", 58)]
    (check,) = _led(leases, again=again)
    assert check.what == "b-0_1 in ops acts"
    copies = [
        _copy("ops", "a-0", "--lease-name=blue", "--namespace=a"),
        _copy("ops", "b-0", "--lease-name", "green", "--namespace=b"),
    ]
    fresh = [_of("blue", "a", "ops", "a-0_1"), _of("green", "b", "ops", "b-0_1")]
    assert len(_led(fresh, copies)) == 1


def test_a_release_that_waits_for_one_that_serves_less_is_told():
    copies = [
        _copy("ops", "a-0", "--lease-name=blue", "--namespace=a"),
        _copy("ops", "b-0", "--lease-name=green", "--namespace=a", "--namespace=b"),
        _copy("ops", "c-0", "--lease-name=teal", "--namespace=a"),
    ]
    (check,) = _led([_of("blue", "a", "ops", "a-0_1")], copies)[1:]
    assert check.grade is Grade.BAD
    assert "copies wait until a-0_1 in ops acts no more" in check.what
    assert check.what.endswith(": b-0 serves a, b")


def test_releases_that_share_a_lease_serve_the_namespaces_of_one_only():
    copies = [_copy("ops", "a-0", "--namespace=a"), _copy("ops", "b-0", "--namespace=b")]
    (check,) = _led([_lease("ops", "a-0_1")], copies)[1:]
    assert check.grade is Grade.BAD
    assert check.what.endswith("a-0 serves a, b-0 serves b")
    alike = [_copy("ops", "a-0", "--namespace=a"), _copy("ops", "a-1", "--namespace=a")]
    assert len(_led([_lease("ops", "a-0_1")], alike)) == 1


@pytest.mark.parametrize(
    ("nodes", "grade", "words"),
    [
        ([], Grade.BAD, "no node has GPUs to give"),
        ([_node("0")], Grade.BAD, "no node has GPUs to give"),
        (
            [_node(), _node(ready="False", name="m")],
            Grade.WARNING,
            "16 nvidia.com/gpu on 2 nodes, 1 of them",
        ),
        ([_node(unschedulable=True)], Grade.WARNING, "8 nvidia.com/gpu on 1 nodes, 1 of them"),
    ],
)
def test_gpus_are_counted_with_those_that_cannot_be_used(nodes, grade, words):
    check = _examine(nodes={"items": nodes})["GPUs"]
    assert check.grade is grade
    assert check.what.startswith(words)


def test_what_may_not_be_read_is_unknown_and_not_bad():
    forbidden = ClusterError("kubectl", "nodes is forbidden", Why.FORBIDDEN)
    assert _examine(nodes=forbidden)["GPUs"].grade is Grade.UNKNOWN


def test_missing_rights_are_named():
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    check = _examine(rules={"status": {"resourceRules": [rule]}})["your rights"]
    assert check.grade is Grade.WARNING
    assert "create sglanginferences" in check.what
    assert "list pods" not in check.what


def test_a_full_quota_is_a_warning():
    quota = {
        "metadata": {"name": "gpus"},
        "status": {
            "hard": {"requests.nvidia.com/gpu": "8"},
            "used": {"requests.nvidia.com/gpu": "8"},
        },
    }
    check = _examine(quotas={"items": [quota]})["quota"]
    assert check.grade is Grade.WARNING
    assert check.what == "gpus in rl: 8 of 8 nvidia.com/gpu in use"


def _operator_pod(address: str, *variables: str) -> dict[str, Any]:
    env = [{"name": name} for name in variables]
    return {"spec": {"containers": [{"env": env}]}, "status": {"podIP": address}}


def _families(pods: list[dict[str, Any]], *services: str, **nodes: Any) -> dict[str, Check]:
    return _examine(
        **{
            "operator pods": {"items": pods},
            "kubernetes service": {"spec": {"ipFamilies": list(services)}},
            **nodes,
        }
    )


def test_a_cluster_of_IPv6_addresses_is_well_where_the_operator_is_told_of_them():
    check = _families([_operator_pod("fd00::7", "POD_IP")], "IPv6")["addresses"]
    assert (check.grade, check.what) == (
        Grade.GOOD,
        "pods have IPv6 addresses first, Services IPv6",
    )


def test_an_operator_that_is_not_told_of_IPv6_is_named():
    check = _families([_operator_pod("fd00::7")], "IPv6")["addresses"]
    assert check.grade is Grade.BAD
    assert "engines listen on IPv4 alone" in check.what
    assert "--pod-address" in check.do


def test_pods_and_services_of_different_families_are_named():
    check = _families([_operator_pod("fd00::7", "POD_IP")], "IPv4", "IPv6")["addresses"]
    assert check.grade is Grade.BAD
    assert "a Service does not reach them there" in check.what
    nodes = {"nodes": {"items": [_node(podCIDR="fd00::/64")]}}
    assert _families([], "IPv4", **nodes)["addresses"].grade is Grade.BAD


def test_nothing_is_told_of_addresses_where_all_are_IPv4():
    assert "addresses" not in _families([_operator_pod("10.0.0.7")], "IPv4", "IPv6")


def _limits(**limit: Any) -> dict[str, Any]:
    container = {"type": "Container", **limit}
    return {"items": [{"metadata": {"name": "defaults"}, "spec": {"limits": [container]}}]}


def _pool(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "actor-infer", "namespace": "rl", "uid": "u", "generation": 1},
        "spec": guide_spec(**changes),
        "status": {},
    }


def _limited(memory: str) -> dict[str, Any]:
    container = {"name": "engine", "resources": {"limits": {"memory": memory}}}
    return {"spec": {"containers": [container]}}


def test_a_default_that_no_engine_lives_in_is_named_with_what_to_set():
    limits = _limits(default={"cpu": "8", "memory": "1Gi"}, defaultRequest={"memory": "512Mi"})
    check = _examine(limits=limits)["limits"]
    assert check.grade is Grade.WARNING
    assert check.what == (
        "LimitRange defaults in rl gives 1Gi of memory to each container that names no limit; the "
        "/dev/shm of an engine alone may hold 10 GiB"
    )
    assert "set resources.limits.memory for the container engine" in check.do


def test_a_pool_that_names_its_limit_is_not_under_the_default():
    limits = _limits(default={"memory": "1Gi"})
    named = {"items": [_pool(podTemplate=_limited("64Gi"))]}
    assert "limits" not in _examine(limits=limits, pools=named)
    check = _examine(limits=limits, pools={"items": [_pool()]})["limits"]
    assert check.what.endswith("may hold 12 GiB; for now that is actor-infer")
    spans = _pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    check = _examine(limits=limits, pools={"items": [spans]})["limits"]
    assert check.what.endswith("may hold 24 GiB; for now that is actor-infer"), "each of its pods"


@pytest.mark.parametrize("kind", ["Container", "Pod"])
def test_a_most_below_every_engine_is_bad_whatever_pools_say(kind):
    limits = _limits(type=kind, max={"memory": "4Gi"})
    check = _examine(limits=limits, pools={"items": [_pool(podTemplate=_limited("64Gi"))]})[
        "limits"
    ]
    assert check.grade is Grade.BAD
    assert check.what.startswith("LimitRange defaults in rl allows no more than 4Gi of memory")


def test_few_cpus_by_default_are_told_too():
    check = _examine(limits=_limits(default={"cpu": "500m"}))["limits"]
    assert "500m of cpu" in check.what


@pytest.mark.parametrize(
    "limit",
    [
        {"default": {"memory": "64Gi", "cpu": 8}},
        {"defaultRequest": {"memory": "1Gi", "cpu": 1}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
        {"type": "Pod", "min": {"memory": "1Gi"}},
    ],
)
def test_a_range_that_engines_fit_into_is_not_told_of(limit):
    assert "limits" not in _examine(limits=_limits(**limit))


def _deployment(ready: int) -> dict[str, Any]:
    containers = [{"image": "registry/sglang-operator:1"}]
    return {
        "spec": {"replicas": 2, "template": {"spec": {"containers": containers}}},
        "status": {"readyReplicas": ready},
    }


def _pulling() -> dict[str, Any]:
    waiting = {"reason": "ErrImagePull", "message": "no such host"}
    return {"status": {"containerStatuses": [{"state": {"waiting": waiting}}]}}


def test_an_operator_whose_pods_are_not_ready_is_a_warning_with_the_reason():
    deployments, pods = {"items": [_deployment(0)]}, {"items": [_pulling(), _pulling()]}
    check = _examine(deployments=deployments, **{"operator pods": pods})["operator"]
    assert check.grade is Grade.WARNING
    assert check.what.endswith("sglang-operator:1 0/2 ready; ErrImagePull: no such host")
    alone = _examine(deployments=deployments, leases={"items": []}, **{"operator pods": pods})[
        "operator"
    ]
    assert alone.grade is Grade.BAD
    assert "ErrImagePull: no such host" in alone.what
    assert "image.repository" in check.do
    assert alone.do == check.do
    crashing = {
        "items": [{"status": {"containerStatuses": [{"state": {"waiting": {"reason": "Crash"}}}]}}]
    }
    check = _examine(deployments=deployments, **{"operator pods": crashing})["operator"]
    assert "logs" in check.do
    assert _examine(deployments={"items": [_deployment(2)]})["operator"].grade is Grade.GOOD


def _with(world: DrawnCluster) -> dict[str, Check]:
    nodes, pools, pods = world.nodes, world.pools, world.pods
    return _examine(nodes={"items": nodes}, pools={"items": pools}, engines={"items": pods})


def test_gpus_are_told_with_those_that_pools_have_and_want():
    checks = _with(guide())
    assert checks["GPUs"].grade is Grade.GOOD
    assert checks["GPUs"].what == (
        "24 nvidia.com/gpu on 3 nodes · nvidia.com/gpu: 0 that no pool has, pools ask for 24"
    )
    world = DrawnCluster(nodes=2)
    world.pool()
    check = _with(world)["GPUs"]
    assert check.grade is Grade.WARNING
    assert check.what.endswith("0 that no pool has, pools ask for 24, 8 of them find no node")
    assert "lower device_mapping or replicas" in check.do


def test_pools_that_are_not_ready_are_counted_with_their_reasons():
    assert _with(guide())["pools"].what == "1 of 1 are Ready"
    world = guide()
    world.pool("judge", ready=False, reason="RegistryUnreachable")
    check = _with(world)["pools"]
    assert check.grade is Grade.WARNING
    assert check.what == "1 of 2 are Ready: rl/judge RegistryUnreachable"
    assert check.do == "kubectl sglang status -A"


def test_pools_that_may_not_be_seen_leave_the_gpus_as_they_are():
    checks = _examine(pools=ClusterError("kubectl", "forbidden", Why.FORBIDDEN))
    assert checks["pools"].grade is Grade.UNKNOWN
    assert checks["GPUs"].what == "8 nvidia.com/gpu on 1 nodes"
    gone = _examine(pools=ClusterError("kubectl", "not found", Why.NOT_FOUND))
    assert "pools" not in gone


# --- engines on a trainer's GPUs

SHARED: dict[str, Any] = {"mode": "Shared", "shared": {"runtimeClassName": "nvidia"}}
THERE: dict[str, Any] = {
    "runtime classes": {"items": [{"metadata": {"name": "nvidia"}}]},
    "trainers": {"items": [{"metadata": {"name": "trainer-0"}}]},
    "cluster policies": ClusterError("kubectl", "not found", Why.NOT_FOUND),
}


def _shared(changes: dict[str, Any], **spec: Any) -> list[Check]:
    pool = _pool(placement=SHARED) | {"metadata": _pool()["metadata"]}
    pool["spec"] |= spec
    answers = _answers({**THERE, "pools": {"items": [pool]}, **changes})
    return [each for each in doctor.examine("rl", answers, NOW) if each.name == "shared GPUs"]


def test_nothing_is_said_of_shared_gpus_where_nobody_shares_any():
    assert "shared GPUs" not in _examine(**THERE, pools={"items": [_pool()]})


def test_where_nothing_keeps_engines_from_their_trainer_it_is_said():
    (check,) = _shared({})
    assert check.grade is Grade.GOOD
    assert check.what.startswith("nothing keeps")


def _policy(value: str) -> dict[str, Any]:
    name = "ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED"
    toolkit = {"env": [{"name": name, "value": value}]}
    return {"items": [{"metadata": {"name": "cluster"}, "spec": {"toolkit": toolkit}}]}


def _level(level: str) -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": level}
    return {"metadata": {"name": "rl", "labels": labels}}


@pytest.mark.parametrize(
    ("changes", "grade", "words"),
    [
        ({"runtime classes": {"items": []}}, Grade.BAD, "the RuntimeClass nvidia, which is not"),
        ({"cluster policies": _policy("false")}, Grade.BAD, "policy cluster sets"),
        ({"namespace": _level("baseline")}, Grade.BAD, "forbids the hostPath"),
        ({"trainers": {"items": []}}, Grade.WARNING, "sglang-operator.dev/trainer"),
    ],
)
def test_what_keeps_them_from_it_is_told_with_what_to_do(changes, grade, words):
    (check,) = _shared(changes)
    assert check.grade is grade
    assert words in check.what
    assert check.do


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster policies": _policy("true")},
        {"namespace": _level("privileged")},
        {"runtime classes": ClusterError("kubectl", "forbidden", Why.FORBIDDEN)},
    ],
)
def test_what_is_well_or_cannot_be_seen_is_no_fault(changes):
    assert [check.grade for check in _shared(changes)] == [Grade.GOOD]


def test_a_folder_that_kubelet_makes_is_roots():
    (check,) = _shared({}, security={"runAsUser": 1000})
    assert check.grade is Grade.WARNING
    assert "mode 1777" in check.do
    claim = {**SHARED, "shared": {"sharedMemory": {"claimName": "memory"}}}
    (check,) = _shared({}, security={"runAsUser": 1000}, placement=claim)
    assert check.grade is Grade.GOOD


def test_who_joins_a_trainer_wants_no_gpus_of_the_cluster():
    pool = _pool(placement=SHARED)
    assert _examine(**THERE, pools={"items": [pool]})["GPUs"].what.endswith("pools ask for 0")
