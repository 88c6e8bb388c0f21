"""The examination of a cluster, over answers of the test's own."""

import json
from typing import Any

import pytest
import yaml

from sglang_operator.cli import doctor
from sglang_operator.cli.doctor import Check, Grade
from sglang_operator.cli.generate import DEFINITION
from sglang_operator.cli.kubectl import ClusterError, Why
from tests.builders import NOW

RENEWED = "2027-01-15T07:59:50.000000Z"


def _node(gpus: str = "8", ready: str = "True", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n"},
        "spec": spec,
        "status": {
            "allocatable": {"nvidia.com/gpu": gpus, "cpu": "8"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def _facts() -> dict[str, Any]:
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    return {
        "version": {"major": "1", "minor": "37+", "gitVersion": "v1.37.2"},
        "definition": yaml.safe_load(DEFINITION.read_text()),
        "nodes": {"items": [_node()]},
        "leases": {
            "items": [
                {
                    "metadata": {"namespace": "sglang-operator"},
                    "spec": {"holderIdentity": "op-0", "renewTime": RENEWED},
                }
            ]
        },
        "deployments": {"items": []},
        "namespace": {"metadata": {"name": "rl"}},
        "quotas": {"items": []},
        "groups": {"groups": []},
        "rules": {"status": {"resourceRules": [rule]}},
    }


def _examine(**changes: Any) -> dict[str, Check]:
    facts = {**_facts(), **changes}
    answers = {
        name: fact if isinstance(fact, ClusterError) else json.dumps(fact).encode()
        for name, fact in facts.items()
    }
    return {check.name: check for check in doctor.examine("rl", answers, NOW)}


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


def test_a_lease_that_nobody_renews_is_no_operator():
    lease = _facts()["leases"]
    lease["items"][0]["spec"]["renewTime"] = "2027-01-15T07:00:00.000000Z"
    check = _examine(leases=lease)["operator"]
    assert check.grade is Grade.BAD
    assert check.what.startswith("no operator runs here")


@pytest.mark.parametrize(
    ("nodes", "grade", "words"),
    [
        ([], Grade.BAD, "no node has GPUs to give"),
        ([_node("0")], Grade.BAD, "no node has GPUs to give"),
        ([_node(), _node(ready="False")], Grade.WARNING, "16 nvidia.com/gpu on 2 nodes, 1 of them"),
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
