"""The roles against what the operator asks for: all of it is used, and none is missing."""

import datetime
import json
import time

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator, manifests
from sglang_operator.weights.times import micro_time
from tests.installs.strangers import STRANGERS
from tests.integration.pools import PoolUnderTest
from tests.integration.test_weights import annotate, commit, is_known

RBAC = manifests() / "rbac"
# Granted for what does not come up on its own, and why each is there.
SELDOM = {
    ("events", "patch"): "an Event that is told again within minutes counts up",
    ("events", "list"): "what kubelet says of a pod whose end nothing else explains",
}
OWNER_PLUGIN = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement"


@pytest.fixture(scope="module")
def plane():
    # As OpenShift has it: who sets blockOwnerDeletion must be allowed to set finalizers.
    with ControlPlane("2x8", flags={"kube-apiserver": [OWNER_PLUGIN]}) as plane:
        yield plane


def grants(*roles):
    found = set()
    for path in roles:
        for rule in yaml.safe_load(path.read_text())["rules"]:
            found |= {(r, verb) for r in rule["resources"] for verb in rule["verbs"]}
    return found


def asked(plane, operator, since):
    """Resource, subresource and verb of each request by the operator, with its code."""
    for event in plane.audit(user=operator.user, since=since):
        if event.resource:
            resource = "/".join(filter(None, (event.resource, event.subresource)))
            yield (resource, event.verb), event.code


def live_through_everything(plane, pool):
    """A pool's life with all that needs a verb of its own."""
    found = [stranger.manifest(pool.name) for stranger in STRANGERS.values()]
    for stranger in found:
        pool.kubectl("create", "-f", "-", input=json.dumps(stranger))
    pool.apply(device_mapping="list(range(0,4))")
    pool.wait(lambda: "NameConflict" in json.dumps(pool.status), "the conflict")
    for stranger in found:
        pool.kubectl("delete", stranger["kind"], stranger["metadata"]["name"], "--wait=false")
    pool.wait_ready(90)  # a name that was taken is tried again after a pause that grows
    for kind, name, spec in (
        ("service", pool.name, {"ports": [{"name": "http", "port": 1}]}),
        ("pdb", f"{pool.name}-engines", {"minAvailable": 0}),
    ):
        pool.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))
        pool.wait(lambda kind=kind, name=name, spec=spec: not _holds(pool, kind, name, spec), kind)
    pool.patch({"network": {"headlessService": True}})
    pool.wait_ready()
    pool.patch({"network": None, "replicas": 1})
    pool.wait_ready()
    pool.patch({"replicas": None})
    pool.wait_ready()
    pool.wait(lambda: is_known(pool), "instances in the registry")
    commit(pool, "step-1")
    pool.wait(lambda: pool.status.get("syncedSummary") == "2/2", "open gates")
    annotate(pool, "trainer", phase="Syncing", transaction="t2", begun=micro_time(time.time()))
    pool.wait(lambda: pool.status.get("syncedSummary") == "0/2", "the holder's end")
    pool.break_pod(min(pod["metadata"]["name"] for pod in pool.pods()))
    pool.wait_ready()
    stored = lambda: pool.kubectl("get", "controllerrevisions", "-o", "name")  # noqa: E731
    assert stored()
    pool.patch({"rollout": {"revisionHistoryLimit": 0}})
    pool.wait(lambda: not stored(), "no stored revision left")
    live_through_claims(pool)


def live_through_claims(pool):
    """What is needed where GPUs are had by claims; nobody publishes devices here."""
    name, stranger = names.claim_name(pool.name, 0), STRANGERS["resourceclaims"]
    pool.kubectl("create", "-f", "-", input=json.dumps(stranger.manifest(pool.name)))
    pool.patch({"placement": {"mode": "Slot"}})
    pool.wait(lambda: "NameConflict" in json.dumps(pool.status), "the conflict")
    pool.kubectl("delete", "resourceclaim", name)
    claim = lambda: json.loads(  # noqa: E731
        pool.kubectl("get", "resourceclaim", name, "-o", "json", "--ignore-not-found") or "{}"
    )
    pool.wait(lambda: claim().get("metadata", {}).get("ownerReferences"), "its own claim", 90)
    pool.kubectl("label", "--overwrite", "resourceclaim", name, f"{names.LABEL_INSTANCE}=another")
    pool.wait(lambda: "another" not in json.dumps(claim()), "its labels")
    pool.patch({"placement": {"slot": {"deviceClassName": "gpu.example.com"}}})
    pool.wait(lambda: "gpu.example.com" in json.dumps(claim()), "a claim of the other class")


def _holds(pool, kind, name, spec):
    """Whether a spec is still as it was changed by hand."""
    found = json.loads(pool.kubectl("get", kind, name, "-o", "json"))["spec"]
    if "ports" in spec:
        return found["ports"][0]["port"] == spec["ports"][0]["port"]
    return spec.items() <= found.items()


def test_every_verb_is_used_and_none_is_missing(plane):
    since = datetime.datetime.now(datetime.UTC)
    with InstalledOperator(plane) as operator:
        pool = PoolUnderTest(plane, plane.namespace("life"))
        live_through_everything(plane, pool)
        seen = list(asked(plane, operator, since))
    refused = {what for what, code in seen if code == 403}
    assert refused == set()
    used = {what for what, _ in seen}
    granted = grants(RBAC / "cluster" / "cluster_role.yaml", RBAC / "lease" / "role.yaml")
    assert used <= granted
    # Asked by the admission plugin in the operator's name, so it is in no request of its own.
    owner = (f"{names.PLURAL}/finalizers", "update")
    assert granted - used - SELDOM.keys() == {owner}
