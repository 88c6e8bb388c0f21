"""Each verb of the shipped roles is needed: take it away, and something that worked does not.

For every resource and verb that is granted there is a thing that the operator does with it.  The
verb is taken out of the role, the thing is asked for, the API server is seen to refuse exactly that
verb, and the thing does not come about; the verb is put back, and it does.
"""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import ACCOUNT, NAMESPACE, InstalledOperator, manifests
from sglang_operator.weights.times import micro_time
from tests.installs.strangers import STRANGERS, Stranger
from tests.installs.test_rbac import OWNER_PLUGIN
from tests.integration import slices
from tests.integration.pools import PoolUnderTest
from tests.integration.test_weights import annotate, commit, is_known

RBAC = manifests() / "rbac"
ABSENT_SECONDS = 3.0  # what comes about does so within a second
HEALED_SECONDS = 90.0  # a refused call is tried again after pauses that grow
# A stream whose watch is refused lists anew before each try: by then these are seconds apart.
WATCH_DENIALS = 8

Verb = tuple[str, str]  # resource and verb


class Pool(PoolUnderTest):
    """Remembers its pods at a time when all was well."""

    before: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the operator needs a verb for."""

    act: Callable[[Pool], Any]  # ask for it
    done: Callable[[Pool], Any]  # whether it has come about
    prepare: Callable[[Pool], Any] | None = None  # while every verb is granted
    restart: bool = False  # the verb is asked for when the operator starts
    once: bool = False  # what was missed stays missed: with the verb, it is asked for anew
    remembered: bool = False  # that it is refused, until the operator is started anew
    denied: Verb | None = None  # what is refused, where that is not the verb itself


# --- what is asked for


def apply(pool: Pool) -> None:
    pool.apply(device_mapping="list(range(0,4))")


def up(pool: Pool) -> None:
    apply(pool)
    pool.before = pool.wait_ready(HEALED_SECONDS)


def up_and_known(pool: Pool) -> None:
    up(pool)
    pool.wait(lambda: is_known(pool), "instances in the registry")


def headless(pool: Pool) -> None:
    pool.apply(device_mapping="list(range(0,4))", network={"headlessService": True})
    pool.wait_ready(HEALED_SECONDS)


def fewer(pool: Pool) -> None:
    pool.patch({"replicas": 1})


def delete_pod(pool: Pool) -> None:
    pool.kubectl("delete", "pod", first(pool)["name"], "--wait=false")


def edit_service(pool: Pool) -> None:
    _merge(pool, "service", pool.name, {"spec": {"ports": [{"name": "http", "port": 1}]}})


def edit_budget(pool: Pool) -> None:
    _merge(pool, "pdb", f"{pool.name}-engines", {"spec": {"minAvailable": 0}})


def delete_registry(pool: Pool) -> None:
    pool.kubectl("delete", "configmap", f"{pool.name}-engines")


def claim(pool: Pool) -> None:
    pool.apply(device_mapping="list(range(0,4))", placement={"mode": "Slot"})


def claimed(pool: Pool) -> None:
    """A pool whose engines wait for devices, which nobody publishes here."""
    claim(pool)
    pool.wait(lambda: claim_of(pool), "its claim")


def publish(pool: Pool) -> None:
    """GPUs that a device plugin counts as well."""
    slices.publish(pool.plane, 1)
    claim(pool)


def unpublish(pool: Pool) -> None:
    pool.kubectl("delete", "resourceslices", "--all")


def delete_claim(pool: Pool) -> None:
    pool.kubectl("delete", "resourceclaim", f"{pool.name}-node-0")


def edit_claim(pool: Pool) -> None:
    labels = {"metadata": {"labels": {names.LABEL_INSTANCE: "another"}}}
    _merge(pool, "resourceclaim", f"{pool.name}-node-0", labels)


def another_class(pool: Pool) -> None:
    pool.patch({"placement": {"slot": {"deviceClassName": "gpu.example.com"}}})


def delete_revision(pool: Pool) -> None:
    pool.kubectl("delete", "controllerrevision", revision_name(pool))


def changed(pool: Pool) -> None:
    """A pool that has had another revision, and wants it no more."""
    up(pool)
    pool.patch({"seed": 7})
    pool.wait(lambda: len(stored_revisions(pool)) == 2, "another revision")


def change_back(pool: Pool) -> None:
    pool.patch({"seed": None})


def store_none(pool: Pool) -> None:
    pool.patch({"rollout": {"revisionHistoryLimit": 0}})


def trainer_commits(pool: Pool) -> None:
    commit(pool, "step-1")


def trainer_dies(pool: Pool) -> None:
    annotate(pool, "trainer", phase="Syncing", transaction="t2", begun=micro_time(time.time()))


def made(stranger: Stranger) -> Callable[[Pool], None]:
    """Somebody else has an object under the name of one of the pool's own."""

    def make(pool: Pool) -> None:
        pool.kubectl("create", "-f", "-", input=json.dumps(stranger.manifest(pool.name)))

    return make


def kubelet_kills(pool: Pool) -> None:
    """A container ends without a word, and only an Event says whose doing it was."""
    pod = first(pool)
    about = {"kind": "Pod", "name": pod["name"], "namespace": pool.namespace, "uid": pod["uid"]}
    event = {
        "metadata": {"name": f"{pod['name']}.killing"},
        "involvedObject": about,
        "reason": "Killing",
        "message": "Container engine failed liveness probe, will be restarted",
        "type": "Normal",
    }
    pool.plane.api.post(f"/api/v1/namespaces/{pool.namespace}/events", event)
    pool.break_pod(pod["name"])
    pool.wait(lambda: replaced(pool), "another pod")
    pool.before = pool.wait_ready(HEALED_SECONDS)


def first(pool: Pool) -> Any:
    """The metadata of the first engine's present pod."""
    uid = pool.uids()["g0-1"]
    return next(p["metadata"] for p in pool.pods() if p["metadata"]["uid"] == uid)


def rest(pool: Pool) -> None:
    pool.patch({"suspend": True})
    pool.wait_for(conditions.SUSPENDED, conditions.SUSPENDED_REASON)
    pool.patch({"suspend": False})
    pool.wait_ready(HEALED_SECONDS)


def rest_twice(pool: Pool) -> None:
    """The same thing happens again: it is told once, with a count."""
    rest(pool)
    rest(pool)


def lose_node(pool: Pool) -> None:
    """The node of the first engine is taken away, with all that was on it."""
    plane = pool.plane
    if not plane.api.exists(f"/api/v1/nodes/{node_of_first(pool)}"):  # taken already
        pool.kubectl("delete", "pod", first(pool)["name"], "--grace-period=0", "--force")
        pool.wait(lambda: replaced(pool), "another pod")
        pool.before = pool.wait_ready(HEALED_SECONDS)
    plane.add_node()
    plane.delete_node(node_of_first(pool))


def node_of_first(pool: Pool) -> str:
    name = first(pool)["name"]
    return next(str(p["spec"]["nodeName"]) for p in pool.pods() if p["metadata"]["name"] == name)


# --- what comes about


def ready(pool: Pool) -> bool:
    return pool.is_ready()


def told_of_conflict(pool: Pool) -> bool:
    return "NameConflict" in json.dumps(pool.status)


def has(kind: str, suffix: str) -> Callable[[Pool], bool]:
    return lambda pool: bool(_get(pool, kind, f"{pool.name}{suffix}"))


def replaced(pool: Pool) -> bool:
    """Whether the first engine has another pod."""
    return pool.uids().get("g0-1") not in (None, pool.before["g0-1"])


def one_left(pool: Pool) -> bool:
    return len(pool.uids()) == 1


def service_is_mended(pool: Pool) -> bool:
    return bool(_get(pool, "service", pool.name)["spec"]["ports"][0]["port"] != 1)


def budget_is_mended(pool: Pool) -> bool:
    return bool(_get(pool, "pdb", f"{pool.name}-engines")["spec"].get("minAvailable") != 0)


def claim_of(pool: Pool) -> Any:
    return _get(pool, "resourceclaim", f"{pool.name}-node-0")


def claim_is_mended(pool: Pool) -> bool:
    return bool(claim_of(pool)["metadata"]["labels"][names.LABEL_INSTANCE] == pool.name)


def class_is_another(pool: Pool) -> bool:
    return "gpu.example.com" in json.dumps(claim_of(pool))


def counted_twice(pool: Pool) -> bool:
    return conditions.COUNTED_TWICE in json.dumps(pool.status)


def in_service(pool: Pool) -> bool:
    return {engine["state"] for engine in pool.registry()["engines"]} == {"InService"}


def sync_is_ended(pool: Pool) -> bool:
    annotations = _get(pool, "lease", f"{pool.name}-weights")["metadata"]["annotations"]
    return bool(annotations[names.ANNOTATION_PHASE] == "Aborted")


def registry_is_shorter(pool: Pool) -> bool:
    return len(pool.registry()["engines"]) == 1


def cause_is_known(pool: Pool) -> bool:
    return "EngineUnresponsive" in json.dumps(pool.status.get("lastFailures", []))


def rest_is_told(pool: Pool) -> bool:
    return any(event["reason"] == conditions.SUSPENDED_REASON for event in pool.events())


def counted(pool: Pool) -> bool:
    return any(event.get("series", {}).get("count", 0) > 1 for event in pool.events())


def stored_revisions(pool: Pool) -> list[int]:
    """The numbers of the revisions that are stored."""
    listed = pool.kubectl("get", "controllerrevisions", "-o", "json")
    return [item["revision"] for item in json.loads(listed)["items"]]


def revision_name(pool: Pool) -> str:
    return names.revision_name(pool.name, pool.status["revision"])


def revision_is_stored(pool: Pool) -> bool:
    return bool(
        pool.status.get("revision") and _get(pool, "controllerrevision", revision_name(pool))
    )


def revision_is_the_last(pool: Pool) -> bool:
    return max(stored_revisions(pool)) == 3


def none_is_stored(pool: Pool) -> bool:
    return not stored_revisions(pool)


def _get(pool: Pool, kind: str, name: str) -> Any:
    found = pool.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
    return json.loads(found) if found else {}


def _merge(pool: Pool, kind: str, name: str, body: Any) -> None:
    pool.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(body))


# --- which verb is for what

POOLS = names.PLURAL


def reading(resource: str, **case: Any) -> dict[Verb, Case]:
    """Both halves of seeing a kind of object."""
    return {(resource, verb): Case(restart=True, **case) for verb in ("list", "watch")}


CASES: dict[Verb, Case] = {
    **reading(POOLS, act=apply, done=ready),
    **reading("pods", prepare=up, act=delete_pod, done=replaced),
    **reading("services", prepare=up, act=edit_service, done=service_is_mended),
    **reading("poddisruptionbudgets", prepare=up, act=edit_budget, done=budget_is_mended),
    **reading("configmaps", prepare=up, act=delete_registry, done=has("configmap", "-engines")),
    **reading("controllerrevisions", prepare=up, act=delete_revision, done=revision_is_stored),
    **reading("resourceclaims", prepare=claimed, act=delete_claim, done=claim_of),
    **reading("resourceslices", prepare=unpublish, act=publish, done=counted_twice),
    **reading("leases", prepare=up_and_known, act=trainer_commits, done=in_service),
    **reading("nodes", prepare=up, act=lose_node, done=replaced, once=True),
    **{
        (resource, "get"): Case(prepare=made(stranger), act=apply, done=told_of_conflict)
        for resource, stranger in STRANGERS.items()
    },
    ("resourceclaims", "get"): Case(
        prepare=made(STRANGERS["resourceclaims"]), act=claim, done=told_of_conflict
    ),
    ("resourceclaims", "create"): Case(act=claim, done=claim_of),
    ("resourceclaims", "patch"): Case(prepare=claimed, act=edit_claim, done=claim_is_mended),
    ("resourceclaims", "delete"): Case(prepare=claimed, act=another_class, done=class_is_another),
    # By which a pool is confirmed before anything of it is taken away.
    (POOLS, "get"): Case(prepare=up, act=fewer, done=one_left),
    (f"{POOLS}/status", "patch"): Case(act=apply, done=ready),
    # The admission plugin asks for it in the operator's name; what is refused is the pod.
    (f"{POOLS}/finalizers", "update"): Case(act=apply, done=ready, denied=("pods", "create")),
    ("pods", "create"): Case(act=apply, done=ready),
    ("pods", "delete"): Case(prepare=up, act=fewer, done=one_left),
    ("pods/status", "patch"): Case(prepare=up_and_known, act=trainer_commits, done=in_service),
    ("leases", "create"): Case(act=apply, done=has("lease", "-weights")),
    ("leases", "patch"): Case(prepare=up_and_known, act=trainer_dies, done=sync_is_ended),
    ("services", "create"): Case(act=apply, done=has("service", "")),
    ("services", "patch"): Case(prepare=up, act=edit_service, done=service_is_mended),
    ("services", "delete"): Case(
        prepare=headless,
        act=lambda pool: pool.patch({"network": None}),
        done=lambda pool: not _get(pool, "service", names.engines_service_name(pool.name)),
    ),
    ("configmaps", "create"): Case(act=apply, done=has("configmap", "-engines")),
    ("configmaps", "patch"): Case(prepare=up, act=fewer, done=registry_is_shorter),
    ("poddisruptionbudgets", "create"): Case(act=apply, done=has("pdb", "-engines")),
    ("poddisruptionbudgets", "patch"): Case(prepare=up, act=edit_budget, done=budget_is_mended),
    ("controllerrevisions", "create"): Case(act=apply, done=revision_is_stored),
    ("controllerrevisions", "patch"): Case(
        prepare=changed, act=change_back, done=revision_is_the_last
    ),
    ("controllerrevisions", "delete"): Case(prepare=up, act=store_none, done=none_is_stored),
    ("events.k8s.io/events", "create"): Case(prepare=up, act=rest, done=rest_is_told, once=True),
    ("events.k8s.io/events", "patch"): Case(prepare=up, act=rest_twice, done=counted, once=True),
    ("events", "list"): Case(
        prepare=up, act=kubelet_kills, done=cause_is_known, once=True, remembered=True
    ),
}


# --- the roles, and taking a verb out of one


def key(group: str, resource: str) -> str:
    """A resource as it is called here; the two kinds of Events go by one name."""
    return f"{group}/{resource}" if (group, resource) == ("events.k8s.io", "events") else resource


def verbs(role: Any) -> list[Verb]:
    return [
        (key(rule["apiGroups"][0], resource), verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def without(rules: list[Any], taken: Verb) -> list[Any]:
    resource, verb = taken
    left = []
    for rule in rules:
        assert len(rule["resources"]) == len(rule["apiGroups"]) == 1
        about = key(rule["apiGroups"][0], rule["resources"][0]) == resource
        left.append({**rule, "verbs": [v for v in rule["verbs"] if not (about and v == verb)]})
    return [rule for rule in left if rule["verbs"]]


CLUSTER = yaml.safe_load((RBAC / "cluster" / "cluster_role.yaml").read_text())
LEASE = yaml.safe_load((RBAC / "lease" / "role.yaml").read_text())
RBAC_API = "/apis/rbac.authorization.k8s.io/v1"
CLUSTER_PATH = f"{RBAC_API}/clusterroles/{CLUSTER['metadata']['name']}"
LEASE_PATH = f"{RBAC_API}/namespaces/{NAMESPACE}/roles/{LEASE['metadata']['name']}"


@dataclass(frozen=True)
class Roles:
    """The role at this path, and what its subject may do at this moment."""

    plane: ControlPlane
    path: str
    shipped: Any
    namespace: str  # in which it is asked what is allowed

    def take(self, verb: Verb) -> None:
        self._put(without(self.shipped["rules"], verb), verb, allowed=False)

    def give_back(self, verb: Verb) -> None:
        self._put(self.shipped["rules"], verb, allowed=True)

    def _put(self, rules: list[Any], verb: Verb, *, allowed: bool) -> None:
        self.plane.api.merge(self.path, {"rules": rules})
        check = lambda: self._may(verb) is allowed  # noqa: E731
        self.plane.wait(check, 10, f"{verb} to be {'allowed' if allowed else 'refused'}")

    def _may(self, verb: Verb) -> bool:
        resource, _, sub = verb[0].removeprefix("events.k8s.io/").partition("/")
        rule = next(
            rule
            for rule in self.shipped["rules"]
            if key(rule["apiGroups"][0], rule["resources"][0]) == verb[0]
        )
        attributes = {
            "group": rule["apiGroups"][0],
            "resource": resource,
            "subresource": sub,
            "verb": verb[1],
            "namespace": "" if resource in ("nodes", "resourceslices") else self.namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
                "resourceAttributes": attributes,
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.plane.api.post(path, review)["status"]["allowed"])


# --- the plane


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    # As OpenShift has it: who sets blockOwnerDeletion must be allowed to set finalizers.
    with ControlPlane("3x8", flags={"kube-apiserver": [OWNER_PLUGIN]}) as plane:
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[InstalledOperator]:
    operator = InstalledOperator(plane)
    operator.install()
    yield operator
    operator.stop()


def slug(verb: Verb) -> str:
    return "-".join(verb).replace("/", "-").replace(".", "-")


@pytest.fixture
def pool(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool = Pool(plane, plane.namespace(slug(request.param)))
    yield pool
    plane.kubectl("delete", "sgi", "--all", "-n", pool.namespace, "--wait=false")
    gone = ("delete", "pods", "--all", "-n", pool.namespace, "--grace-period=0", "--force")
    plane.kubectl(*gone, "--wait=false")


class Denials:
    """How often the API server refused the operator a verb since this was made."""

    def __init__(self, plane: ControlPlane, user: str, verb: Verb) -> None:
        self._plane, self._user, self._verb = plane, user, verb
        self._since = datetime.datetime.now(datetime.UTC)

    def __call__(self) -> int:
        resource, verb = self._verb
        return sum(
            event.code == 403
            and event.verb == verb
            and event.stage == "ResponseComplete"
            and "kopf" not in event.user_agent  # which watches beside
            and "/".join(filter(None, (event.resource, event.subresource)))
            == resource.removeprefix("events.k8s.io/")
            for event in self._plane.audit(user=self._user, since=self._since)
        )

    def wait(self, least: int = 1) -> None:
        what = f"{least} times that {self._verb} is refused"
        self._plane.wait(lambda: self() >= least, 60, what)


def never(check: Callable[[], Any], seconds: float) -> None:
    """Fail if the check comes true within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert not check()
        time.sleep(0.2)


def test_there_is_a_case_for_every_verb_of_the_roles():
    assert sorted(verbs(CLUSTER)) == sorted(CASES)
    assert sorted(verbs(LEASE)) == sorted(LEASE_CASES)


@pytest.mark.parametrize(
    ("pool", "verb"), [(verb, verb) for verb in CASES], ids=map(slug, CASES), indirect=["pool"]
)
def test_without_it_something_fails(plane, operator, pool, verb):
    case, roles = CASES[verb], Roles(plane, CLUSTER_PATH, CLUSTER, pool.namespace)
    if operator.pid is None:
        operator.start()
    if case.prepare is not None:
        case.prepare(pool)
    if case.restart:
        operator.stop()
    roles.take(verb)
    try:
        denials = Denials(plane, operator.user, case.denied or verb)
        if case.restart:
            operator.start(wait=False)
            denials.wait(WATCH_DENIALS if verb[1] == "watch" else 1)
        case.act(pool)
        denials.wait()
        never(lambda: case.done(pool), ABSENT_SECONDS)
        if case.restart or case.remembered:
            operator.stop()
    finally:
        roles.give_back(verb)
    if operator.pid is None:
        operator.start()
    if case.once:
        case.act(pool)
    pool.wait(lambda: case.done(pool), "what the verb is for", HEALED_SECONDS)


# --- the Lease of the operator itself


def released(plane: ControlPlane) -> None:
    """Nobody holds it."""
    _hold(plane, None)


def held_by_another(plane: ControlPlane) -> None:
    _hold(plane, "another")


def absent(plane: ControlPlane) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    plane.api.delete(f"{path}/{names.LEASE_NAME}", missing_ok=True)


def _hold(plane: ControlPlane, holder: str | None) -> None:
    absent(plane)
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": 15,
        "renewTime": micro_time(time.time()),
    }
    body = {"metadata": {"name": names.LEASE_NAME}, "spec": {k: v for k, v in spec.items() if v}}
    plane.api.post(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases", body)


# In which state of the Lease the verb is needed to become the one who writes.
LEASE_CASES: dict[Verb, Callable[[ControlPlane], None]] = {
    ("leases", "get"): absent,
    ("leases", "create"): absent,
    ("leases", "update"): released,
    ("leases", "list"): released,
    ("leases", "watch"): held_by_another,
}


@pytest.mark.parametrize(
    ("pool", "verb"),
    [(("of-its-own", *verb), verb) for verb in LEASE_CASES],
    ids=map(slug, LEASE_CASES),
    indirect=["pool"],
)
def test_without_it_nobody_writes(plane, pool, verb):
    """In namespaced mode, where no other role has Leases in the operator's namespace."""
    operator = InstalledOperator(plane, namespaces=[pool.namespace], arguments=["--no-nodes"])
    operator.stop()  # what the tests above have left
    operator.install()
    plane.kubectl("delete", "-k", str(RBAC / "cluster"), "--ignore-not-found")
    roles = Roles(plane, LEASE_PATH, LEASE, NAMESPACE)
    LEASE_CASES[verb](plane)
    pool.apply(replicas=1)
    roles.take(verb)
    try:
        denials = Denials(plane, operator.user, verb)
        operator.start(wait=False)
        denials.wait(WATCH_DENIALS if verb[1] == "watch" else 1)
        if verb[1] == "watch":  # the other one goes, and says so
            path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{names.LEASE_NAME}"
            plane.api.merge(path, {"spec": {"holderIdentity": None}})
        never(pool.pods, ABSENT_SECONDS)
        operator.stop()
    finally:
        roles.give_back(verb)
    operator.start()
    pool.wait_ready(HEALED_SECONDS)
    operator.stop()
