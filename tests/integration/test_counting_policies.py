"""Policies that refuse pods: the new revision alone, or those that stand as well; a real server."""

import itertools
import json
from collections.abc import Iterator

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("1x4")

_namespaces = itertools.count()
NO_MORE = "no more pods of this pool"
# What counts is in Kubernetes a webhook's business; one that refuses all says the same of each.
EVERY_POD = "false"
OF_SEED_7 = "!object.spec.containers.exists(c, c.args.exists(a, a == '--random-seed=7'))"


@pytest.fixture
def pool(plane: ControlPlane) -> Iterator[PoolUnderTest]:
    pool = PoolUnderTest(plane, plane.namespace(f"counting-{next(_namespaces)}"))
    pool.apply(device_mapping="[0,1,2,3]", weights={"gate": "Off"})  # so that both engines serve
    pool.wait_ready()
    yield pool
    lift(pool)
    pool.delete("--wait=false")
    pool.kubectl("delete", "pods", "--all", "--wait=false", "--grace-period=0", "--force")


def refuse(pool: PoolUnderTest, expression: str) -> None:
    """Have a policy that takes only pods of which this is true in the pool's namespace."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    policy = {
        "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "matchConstraints": {"resourceRules": [{**rule, "resources": ["pods"]}]},
            "validations": [{"expression": expression, "message": NO_MORE}],
        },
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": pool.namespace}}
    binding = {
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {
            "policyName": pool.namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        },
    }
    for found in (policy, binding):
        known = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "metadata": {"name": pool.namespace},
        }
        pool.plane.kubectl("apply", "-f", "-", input=json.dumps({**known, **found}))
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {"containers": [{"name": "a", "image": "a:1", "args": ["--random-seed=7"]}]},
    }

    def in_force() -> bool:
        done = pool.plane.kubectl(
            *("create", "-f", "-", "--dry-run=server", "--namespace", pool.namespace),
            input=json.dumps(probe),
            check=False,
        )
        return NO_MORE in done.stderr

    pool.wait(in_force, "the policy to be in force")


def lift(pool: PoolUnderTest) -> None:
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        pool.plane.kubectl("delete", kind, pool.namespace, "--ignore-not-found")


def uids(pool: PoolUnderTest) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pool.all_pods()}


def test_a_policy_that_takes_no_pod_at_all_says_nothing_of_the_new_revision(pool):
    """As one that counts does: the first engine makes way, and the others stay."""
    before = uids(pool)
    refuse(pool, EVERY_POD)
    pool.patch({"seed": 7})
    pool.wait(lambda: len(before - uids(pool)) == 1, "one engine to make way")
    stalled = pool.wait_for(conditions.STALLED, conditions.POD_REJECTED)
    assert NO_MORE in stalled["message"]
    assert len(uids(pool) & before) == len(before) - 1
    lift(pool)
    pool.wait(lambda: not uids(pool) & before, "the rolling update", 120)
    pool.wait_ready()


def test_a_policy_that_takes_the_pods_that_stand_holds_the_update_up(pool):
    before = uids(pool)
    refuse(pool, OF_SEED_7)
    pool.patch({"seed": 7})
    stalled = pool.wait_for(conditions.STALLED, conditions.POD_REJECTED)
    assert NO_MORE in stalled["message"]
    assert uids(pool) == before
    assert all(names.LABEL_REVISION in pod["metadata"]["labels"] for pod in pool.all_pods())
    lift(pool)
    pool.wait(lambda: not uids(pool) & before, "the rolling update", 120)
