"""Each kind of child is declared once, and what is declared is what is made."""

import msgspec
import pytest

from sglang_operator.children import drift, kinds
from sglang_operator.kube import paths
from sglang_operator.observed import wire
from sglang_operator.observed.model import Observed
from sglang_operator.testing.faults import ledger
from tests.builders import OWNER, a_pool, all_pods, weighed
from tests.faults import requests, watches
from tests.installs.strangers import STRANGERS

POOL = a_pool(network={"headlessService": True}, placement={"mode": "Shared"})
CLAIMING = a_pool(placement={"mode": "Slot"})
WEIGHTS = weighed(POOL, all_pods(POOL))
EACH = pytest.mark.parametrize("kind", kinds.CHILDREN, ids=lambda each: each.kind)


def made_of(kind):
    """All that the pool has of this kind."""
    pool = CLAIMING if kind is kinds.CLAIM else POOL
    found = [*kind.desired(pool, WEIGHTS)]
    return found + ([*kind.history(pool, Observed())] if kind.history else [])


@EACH
def test_what_is_made_is_of_the_declared_kind_and_has_the_declared_names(kind):
    bodies = made_of(kind)
    assert {(body["apiVersion"], body["kind"]) for body in bodies} == {
        (kind.api_version, kind.kind)
    }
    made = [body["metadata"]["name"] for body in bodies]
    assert all(kind.is_name(name, OWNER.name) for name in made), "else it is somebody else's"
    assert {of(OWNER.name) for of in kind.names} <= set(made)


@EACH
def test_what_is_compared_is_made_and_is_kept_in_the_store(kind):
    """A part that the store drops would differ for ever; one that is not made has no value."""
    fields = {field.encode_name for field in msgspec.structs.fields(wire.Child)}
    assert set(kind.compared) <= fields, f"{kind.kind}: observed/wire.py Child keeps {fields} only"
    for body in made_of(kind):
        assert set(kind.compared) <= body.keys()


@EACH
def test_fields_of_the_spec_are_declared_only_where_the_spec_counts(kind):
    assert not kind.defaults or "spec" in kind.compared
    assert not kind.retired or "data" in kind.compared


@EACH
def test_what_chooses_pods_is_compared_exactly(kind):
    """One key more in it chooses other pods, and would go unseen (drift.EXACT)."""
    choosing = {
        f".spec.{name}"
        for body in kind.desired(POOL, WEIGHTS)
        for name in body.get("spec") or ()
        if "elector" in name
    }
    assert choosing <= drift.EXACT


# A Lease is the trainers' to write, and the suite's pools have no claims.
UNWATCHED = (kinds.LEASE, kinds.CLAIM)
WATCHED = pytest.mark.parametrize(
    "kind", [each for each in kinds.CHILDREN if each not in UNWATCHED], ids=lambda each: each.kind
)


@WATCHED
def test_the_suite_under_fire_makes_loses_and_judges_objects_of_each_kind(kind):
    """What it does not name, nothing there would miss."""
    created = {resource for verb, resource, _, _ in requests.KINDS if verb == "create"}
    streams = {match.resource for match in watches.STREAMS.values()}
    named = {
        "foreign writes on them: OF_POOLS in the kit's faults/ledger.py": ledger.OF_POOLS,
        "lost answers to their creates: KINDS in tests/faults/requests.py": created,
        "faults of their stream: STREAMS in tests/faults/watches.py": streams,
    }
    missing = [where for where, there in named.items() if kind.plural not in there]
    assert not missing, "; ".join(missing)


@EACH
def test_a_stranger_of_each_kind_is_met_when_verbs_are_taken_away(kind):
    stranger = STRANGERS.get(kind.plural)
    assert stranger is not None, f"{kind.plural}: STRANGERS in tests/installs/strangers.py"
    assert (stranger.version, stranger.kind) == (kind.api_version, kind.kind)
    assert kind.is_name(f"{OWNER.name}{stranger.suffix}", OWNER.name)


def test_each_kind_is_declared_once():
    declared = [kind.kind for kind in kinds.CHILDREN]
    assert len(set(declared)) == len(declared)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Service", "/api/v1/namespaces/rl/services/x"),
        ("PodDisruptionBudget", "/apis/policy/v1/namespaces/rl/poddisruptionbudgets/x"),
        ("Lease", "/apis/coordination.k8s.io/v1/namespaces/rl/leases/x"),
        ("ConfigMap", "/api/v1/namespaces/rl/configmaps/x"),
        ("ResourceClaim", "/apis/resource.k8s.io/v1/namespaces/rl/resourceclaims/x"),
        ("ControllerRevision", "/apis/apps/v1/namespaces/rl/controllerrevisions/x"),
    ],
)
def test_paths_follow_from_the_declaration(kind, path):
    assert paths.child(kind, "rl", "x") == path


def test_all_kinds_are_told_when_one_is_refused():
    assert kinds.in_words() == (
        "a Service, PodDisruptionBudget, Lease, ConfigMap, ControllerRevision or ResourceClaim"
    )
