"""The shipped roles against the code: every verb that is used, and none that must not be."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.children import kinds

RBAC = Path(__file__).parents[3] / "manifests" / "rbac"
GOLDEN = Path(__file__).parents[2] / "data" / "rbac.txt"
ROLES = sorted(RBAC.rglob("*role.yaml"))


def _rules(path: Path) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(path.read_text())["rules"]
    return rules


ROLE = _rules(RBAC / "namespaced" / "role.yaml")


def test_the_cluster_role_is_the_role_in_every_namespace_and_what_is_in_none():
    seen = [
        {"apiGroups": [group], "resources": [resource], "verbs": ["list", "watch"]}
        for group, resource in (("", "nodes"), ("resource.k8s.io", "resourceslices"))
    ]
    assert _rules(RBAC / "cluster" / "cluster_role.yaml") == [*ROLE, *seen]


@pytest.mark.parametrize("kind", kinds.CHILDREN, ids=lambda each: each.kind)
def test_every_kind_of_child_may_be_watched_made_and_changed_and_pruned_ones_removed(kind):
    granted_verbs = {
        verb
        for rule in ROLE
        if kind.group in rule["apiGroups"] and kind.plural in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted_verbs == kind.verbs, (
        f"children/kinds.py declares {kind.kind}: manifests/rbac/namespaced/role.yaml and "
        f"cluster/cluster_role.yaml must grant {', '.join(sorted(kind.verbs))} on {kind.plural} "
        f"in the API group {kind.group!r}, and no more; then run `make chart`"
    )


@pytest.mark.parametrize("kind", kinds.GANGS, ids=lambda each: each.of_gang)
def test_each_gang_has_a_role_of_its_own_for_its_objects_alone(kind):
    """Who has no such scheduler grants nothing for it, and has nothing watched."""
    path = RBAC / "gangs" / f"{kind.of_gang.lower()}.yaml"
    (rule,) = _rules(path)
    assert (rule["apiGroups"], rule["resources"]) == ([kind.group], [kind.plural])
    assert set(rule["verbs"]) == kind.verbs
    assert f"--gang={kind.of_gang}:" in path.read_text()


def test_no_other_role_is_for_a_gang():
    assert {path.stem for path in (RBAC / "gangs").iterdir()} == {
        kind.of_gang.lower() for kind in kinds.GANGS
    }


def granted(path: Path) -> list[str]:
    """One line for each verb that a role grants."""
    role = yaml.safe_load(path.read_text())
    return sorted(
        " ".join([role["kind"], role["metadata"]["name"], group or "core", resource, verb])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def test_what_the_roles_grant_is_what_was_agreed_upon():
    """A verb more or less is a decision: it is made in tests/data/rbac.txt, not in passing."""
    lines = [line for path in ROLES for line in granted(path)]
    assert lines == GOLDEN.read_text().splitlines()


def test_the_pools_themselves_are_never_written_but_for_their_status():
    granted = {
        resource: set(rule["verbs"])
        for rule in ROLE
        if names.GROUP in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted[names.PLURAL] == {"get", "list", "watch"}
    assert granted[f"{names.PLURAL}/status"] == {"patch"}


@pytest.mark.parametrize("path", ROLES, ids=lambda path: path.parent.name)
def test_no_role_reaches_for_what_an_operator_must_not_have(path):
    for rule in _rules(path):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "pods/exec", "roles", "clusterroles"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
