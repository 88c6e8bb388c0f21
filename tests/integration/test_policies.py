"""The optional ValidatingAdmissionPolicies on a real API server, against the operator's words."""

import random
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.policies import lease, manifest, nearest
from sglang_operator.api import errors, names
from sglang_operator.children.weights_lease import weights_lease
from sglang_operator.engine import aliases, habits, ownership, schema, versions
from sglang_operator.pool.resolve import Refused, resolve_pool
from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import OWNER, with_config

pytestmark = [pytest.mark.each_kubernetes, pytest.mark.plane("0", operator=False)]

MANIFESTS = Path(__file__).parents[2] / "manifests"
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
COLLECTION = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}"
WAIT_SECONDS = 30.0

Json = dict[str, Any]


def pool(spec: Json, name: str = "pool") -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


def refusal(plane: ControlPlane, spec: Json) -> str:
    """What the API server says about a pool; empty if it takes it."""
    try:
        plane.api.post(f"{COLLECTION}?dryRun=All", pool(spec))
    except ApiError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def stored(plane: ControlPlane) -> str:
    """The name of a pool that was made before there were policies, with a key that none has."""
    plane.wait(
        lambda: plane.api.post(COLLECTION, pool(with_config(no_such_key=1), "stored")),
        WAIT_SECONDS,
        "the pool",
    )
    return "stored"


@pytest.fixture(scope="module", autouse=True)
def policies(plane: ControlPlane, stored: str) -> Iterator[None]:
    """In force for all tests here: that of each version refuses."""
    plane.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "policies"))
    for version in manifest.VERSIONS:
        spec = {**with_config(host="here"), "engineVersion": version}
        plane.wait(partial(refusal, plane, spec), WAIT_SECONDS, f"the policy of {version}")
    yield
    plane.kubectl("delete", "-k", str(MANIFESTS / "policies"))


def said_by(version: str, message: str) -> str:
    """The end of a refusal by the policy of a version."""
    name = manifest.policy_name(version)
    return f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {message}"


def in_a(version: str, **config: object) -> Json:
    return {**with_config(**config), "image": f"lmsysorg/sglang:v{version}-cu129"}


# --- the operator's words

# Of the rows about names, words that no other row has.
_MARKS = (
    "is not a possible argument name",
    "is the name of a variable of the environment",
    ", but the operator sets it",
    "can be set in Python only",
    "is not an argument of SGLang",
)


def operator_says(spec: Json) -> list[str]:
    """What the operator says about names of arguments, with the suggestions that CEL finds."""
    resolved = resolve_pool(OWNER, spec)
    problems = resolved.errors if isinstance(resolved, Refused) else ()
    by_name = [p for p in problems if any(mark in p.message for mark in _MARKS)]
    detected = versions.detect(spec.get("image") or versions.DEFAULT_IMAGE, None)
    return [in_cel(problem, str(detected.version)) for problem in by_name]


def in_cel(problem: errors.Problem, version: str) -> str:
    """The problem as the policy prints it: only the list of nearest names may differ."""
    word = problem.field.rpartition(".")[2].replace("-", "_")
    start, found, _ = str(problem).partition(f"is not an argument of SGLang {version}; ")
    if not found or word in habits.NAMES:
        return str(problem)
    near = nearest.nearest(word, schema.load(version).keys)
    advice = f"did you mean {aliases.either(near)}?" if near else "correct its name, or remove it"
    return start + found + advice


# --- tests


def test_a_typo_is_refused_with_the_name_that_was_meant_as_by_the_operator(plane):
    said = refusal(plane, with_config(mem_fraction_statc=0.8))
    assert "did you mean mem_fraction_static" in said
    (words,) = operator_says(with_config(mem_fraction_statc=0.8))
    assert said.endswith(said_by("0.5.7", words))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_accepted(plane, sample):
    for document in yaml.safe_load_all(sample.read_text()):
        if document["kind"] == names.KIND:
            assert not refusal(plane, document["spec"])


@pytest.mark.parametrize(
    ("version", "config", "row"),
    [
        ("0.5.7", {"cuda_graph_bs_decode": [1]}, "0.5.14 is the first version known to have it"),
        ("0.5.7", {"attn_dp_size": 1}, "0.5.23 is the first version known to have it"),
        ("0.5.23", {"cuda_graph_bs": [1]}, "0.5.14 is the last version known to have it"),
        ("0.5.23", {"grpc_worker_threads": 4}, "can be set in Python only"),
    ],
)
def test_a_key_of_another_version_is_refused_in_the_words_of_the_operator(
    plane, version, config, row
):
    spec = in_a(version, **config)
    (words,) = operator_says(spec)
    assert row in words
    assert refusal(plane, spec).endswith(said_by(version, words))


@pytest.mark.parametrize(
    ("version", "config"), [("0.5.23", {"attn_dp_size": 2}), ("0.5.7", {"cuda_graph_bs": [1]})]
)
def test_a_key_of_the_own_version_is_accepted(plane, version, config):
    assert not refusal(plane, in_a(version, **config))


@pytest.mark.parametrize(
    "image", ["registry.test/sglang:ours", "sglang@sha256:" + "0" * 64, "sglang:v0.5.8"]
)
def test_an_image_of_an_unknown_version_is_let_through(plane, image):
    assert not refusal(plane, {**with_config(no_such_key=1), "image": image})


def test_engine_version_is_believed_before_the_tag(plane):
    spec = {**in_a("0.5.7", attn_dp_size=2), "engineVersion": "0.5.23"}
    assert not refusal(plane, spec)
    spec = {**in_a("0.5.23", attn_dp_size=2), "engineVersion": "v0.5.7"}
    assert manifest.policy_name("0.5.7") in refusal(plane, spec)


@pytest.mark.parametrize("key", sorted(ownership.OWNED))
@pytest.mark.parametrize("value", ["0.5", "some\nlines", "x" * 100, 3, 0.25, True])
def test_a_key_of_the_operators_own_is_refused_with_its_value_but_no_secret(plane, key, value):
    spec = with_config(**{key: value})
    (words,) = operator_says(spec)
    assert refusal(plane, spec).endswith(said_by("0.5.7", words))


def test_a_list_or_map_in_an_owned_key_is_named_by_its_kind_which_is_all_that_CEL_can_say(plane):
    for value, found in (([1], "a list"), ({"a": 1}, "a map")):
        spec = with_config(config=value)
        words = errors.ARGUMENT_OWNED(
            f"{aliases.FIELD}.config", key="config", found=found, advice=ownership.OWNED["config"]
        )
        assert refusal(plane, spec).endswith(said_by("0.5.7", str(words)))


@pytest.mark.parametrize(
    "key", ["", "  ", "x y", "é", "a\nb", "1st", "_hidden", "A", "x" * 99 + "!", "VLLM_USE_V1"]
)
def test_a_key_that_can_be_no_argument_is_refused(plane, key):
    spec = with_config(**{key: 1})
    (words,) = operator_says(spec)
    assert refusal(plane, spec).endswith(said_by("0.5.7", words))


@pytest.mark.parametrize(
    "strategy",
    [None, {"strategy_name": "sglang"}, {"strategy_name": "sglang"} | {"strategy_config": None}],
)
def test_a_pool_without_a_configuration_is_not_the_policies_business(plane, strategy):
    said = refusal(plane, {**with_config(), "strategy_args": strategy})
    assert "ValidatingAdmissionPolicy" not in said


def test_a_stored_object_that_is_invalid_can_be_labelled_and_deleted_but_not_changed(plane, stored):
    path = f"{COLLECTION}/{stored}"
    labelled = plane.api.merge(path, {"metadata": {"labels": {"team": "rl"}}})
    assert labelled["metadata"]["labels"] == {"team": "rl"}
    with pytest.raises(ApiError, match="no_such_key is not an argument of SGLang"):
        plane.api.merge(path, {"spec": {"replicas": 1}})
    plane.api.merge(f"{path}/status", {"status": {"observedGeneration": 1}})
    plane.api.delete(path)


# --- any configuration

SEED = 7
CASES = 150


def some_key(rng: random.Random) -> str:
    """A name that some version has, as it is or with a mistake, or none."""
    key = rng.choice(ANY_KEY)
    mistake = rng.random()
    if mistake < 0.3:
        cut = rng.randrange(len(key))
        key = key[:cut] + key[cut + 1 :]
    elif mistake < 0.4:
        key = key.replace("_", "-")
    return key


ANY_KEY = sorted(
    {key for known in schema.KNOWN for key in schema.load(str(known)).keys}
    | {*aliases.ALIASES, *habits.NAMES}
)
VALUES = [None, True, 1, 0.5, "word", "true", "${x}", ["a"], ["-a"], [True], {"a": 1}]


def test_for_any_names_the_policy_says_what_the_operator_says_and_nothing_else(plane):
    rng, refused = random.Random(SEED), 0
    for _ in range(CASES):
        version = rng.choice(manifest.VERSIONS)
        config = {some_key(rng): rng.choice(VALUES) for _ in range(rng.randrange(1, 3))}
        spec = in_a(version, **dict(sorted(config.items())))
        said, expected = refusal(plane, spec), operator_says(spec)
        if "ValidatingAdmissionPolicy" not in said and said:
            continue  # the definition's own rules spoke before
        if any(isinstance(value, (list, dict)) for value in config.values()):
            assert bool(said) is bool(expected), (spec, said, expected)
            continue
        refused += bool(said)
        assert bool(said) is bool(expected), (spec, said, expected)
        assert not said or any(said.endswith(said_by(version, words)) for words in expected), (
            spec,
            said,
            expected,
        )
    assert refused > CASES // 5


# --- the weights' Leases

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
GARBAGE_COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"
RUN = "1a2b3c4d"
BUSY = {
    "a sync": Transaction(phase=Phase.SYNCING, id="t", holder="trainer"),
    "a holder at rest": Transaction(phase=Phase.COMMITTED, id="t", holder="operator"),
    "a sleep": Transaction(phase=Phase.SLEEPING, id="t", released=("weights",), asleep=(RUN,)),
    "a wake": Transaction(phase=Phase.AWAKE, id="t"),
    "who may write still": Transaction(phase=Phase.ABORTED, id="t", fence=True),
    "memory that may be back": Transaction(phase=Phase.ABORTED, id="t", unclear=frozenset({RUN})),
}
AT_REST = {
    "nothing": Transaction(),
    "a commit": Transaction(
        phase=Phase.COMMITTED, id="t", version="step-1", instances=frozenset({RUN})
    ),
    "an abort": Transaction(phase=Phase.ABORTED, id="t"),
}


def a_lease(plane: ControlPlane, state: Transaction) -> str:
    """The path of a new Lease that says this; no pool's, so that nobody cleans it up."""
    body: Json = weights_lease(OWNER, state)
    body["metadata"] = {
        "name": f"pool-{uuid.uuid4().hex[:8]}-weights",
        "labels": body["metadata"]["labels"],
        "annotations": body["metadata"].get("annotations", {}),
    }
    plane.api.post(LEASES, body)
    return f"{LEASES}/{body['metadata']['name']}"


def deleted(plane: ControlPlane, path: str) -> str:
    """What the API server says when somebody deletes it; empty if it is gone."""
    try:
        plane.api.delete(path)
    except ApiError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def guarded(plane: ControlPlane) -> ControlPlane:
    """The same plane with the policy of the Leases in force."""
    state = BUSY["a sync"]
    plane.wait(lambda: deleted(plane, a_lease(plane, state)), WAIT_SECONDS, "the Leases' policy")
    return plane


@pytest.mark.parametrize("what", BUSY)
def test_a_lease_by_which_something_is_under_way_is_not_deleted_by_hand(guarded, what):
    path = a_lease(guarded, BUSY[what])
    said = deleted(guarded, path)
    name = path.rpartition("/")[2]
    assert f"the Lease {name} says who writes weights into engines" in said
    assert said.endswith(f"kubectl annotate lease {name} {lease.MAY_GO}=true")
    guarded.kubectl("annotate", "lease", name, f"{lease.MAY_GO}=true")
    assert not deleted(guarded, path)


@pytest.mark.parametrize("what", AT_REST)
def test_a_lease_at_rest_is_deleted_like_anything(guarded, what):
    assert not deleted(guarded, a_lease(guarded, AT_REST[what]))


def test_a_lease_goes_with_its_pool_whatever_it_says(guarded):
    name = a_lease(guarded, BUSY["a sync"]).rpartition("/")[2]
    guarded.kubectl("delete", "lease", name, f"--as={GARBAGE_COLLECTOR}")


def test_leases_of_others_are_not_the_policy_s_business(guarded):
    path = a_lease(guarded, BUSY["a sync"])
    guarded.api.merge(path, {"metadata": {"labels": {names.LABEL_MANAGED_BY: "somebody"}}})
    assert not deleted(guarded, path)
