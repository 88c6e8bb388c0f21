"""The whole table of errors, one bad object for each row: at apply and in the operator the same
words as offline (tests/unit/api/test_errors.py).

First the objects meet the API server with everything that may refuse them, the definition and the
policies; then the operator, with a definition that lets everything through.  Where the structure
of the definition is what refuses, the words are the API server's own: these rows are
``bad_objects.STRUCTURE``.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.policies import manifest
from sglang_operator.api import conditions, errors, names
from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.bad_objects import BAD, STRUCTURE, Bad, First
from tests.builders import with_config

MANIFESTS = Path(__file__).parents[2] / "manifests"
COLLECTION = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}"
DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
WAIT_SECONDS = 30.0
STRUCTURAL_WORDS = {
    "FIELD_TYPE": 'spec.seed in body must be of type integer: "string"',
    "FIELD_RANGE": "spec.num_gpus_per_worker in body should be greater than or equal to 1",
    "MAPPING_NOT_A_STRING": 'spec.device_mapping in body must be of type string: "array"',
    "MAPPING_TOO_LONG": "spec.device_mapping: Too long: may not be more than 4096 bytes",
}
Json = dict[str, Any]

for_every_row = pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())


def test_the_words_of_the_server_s_own_are_known_where_the_structure_refuses():
    assert STRUCTURAL_WORDS.keys() == STRUCTURE.keys()


# --- at apply


def pool(bad: Bad) -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": bad.name},
        "spec": bad.spec,
    }


def refusal(plane: ControlPlane, body: Json) -> str:
    """What the API server says about an object; empty if it takes it."""
    try:
        plane.api.post(f"{COLLECTION}?dryRun=All", body)
    except ApiError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A plane of its own: its definition is replaced by one that takes anything."""
    with ControlPlane("0") as plane:
        plane.kubectl("apply", "-k", str(MANIFESTS / "crd"))
        plane.wait(lambda: plane.api.get(COLLECTION), WAIT_SECONDS, "the resource")
        yield plane


@pytest.fixture(scope="module")
def at_apply(plane: ControlPlane) -> dict[str, str]:
    """What the API server says about each object, with the definition and the policies."""
    plane.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "policies"))
    for version in manifest.VERSIONS:
        probe = Bad(
            row=errors.ARGUMENT_OWNED,
            spec={**with_config(host="here"), "engineVersion": version},
            first=First.POLICY,
            name="probe",
        )
        plane.wait(partial(refusal, plane, pool(probe)), WAIT_SECONDS, f"the policy of {version}")
    said = {name: refusal(plane, pool(bad)) for name, bad in BAD.items()}
    plane.kubectl("delete", "-k", str(MANIFESTS / "policies"))
    return said


@pytest.mark.parametrize("row", BAD)
def test_at_apply_the_same_words_are_said_by_whoever_comes_first(at_apply, row):
    bad, said = BAD[row], at_apply[row]
    (problem,) = bad.problems
    match bad.first:
        case First.STRUCTURE:
            assert STRUCTURAL_WORDS[row] in said
        case First.RULE:
            assert said.endswith(problem.message), said
            # A rule about several fields stands at the map that holds them.
            assert problem.field in said or problem.field.rpartition(".")[0] in said
        case First.POLICY:
            assert said.endswith(f"denied request: {problem}"), said
        case First.OPERATOR:
            assert not said


# --- in the operator


def opened() -> Json:
    """The definition without a structure of the spec, and so without rules."""
    file = MANIFESTS / "crd" / "sglanginferences.yaml"
    definition: Json = yaml.safe_load(file.read_text())
    for version in definition["spec"]["versions"]:
        root = version["schema"]["openAPIV3Schema"]
        root.pop("x-kubernetes-validations")
        root["properties"]["spec"] = {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        }
    return definition


def is_taken(plane: ControlPlane, bad: Bad) -> bool:
    return not refusal(plane, pool(bad))


@pytest.fixture(scope="module")
def told(plane: ControlPlane, at_apply: dict[str, str]) -> Iterator[dict[str, Json]]:
    """The condition Stalled of every bad object, which the operator finds on an open definition."""
    with InstalledOperator(plane) as operator:
        current = plane.api.get(DEFINITION)["metadata"]["resourceVersion"]
        definition = opened()
        definition["metadata"]["resourceVersion"] = current
        plane.api.call("PUT", DEFINITION, definition)
        for bad in BAD.values():
            plane.wait(partial(is_taken, plane, bad), WAIT_SECONDS, f"{bad.name} to be taken")
        for bad in BAD.values():
            plane.api.post(COLLECTION, pool(bad))
        found = {
            row: plane.wait(partial(stalled, plane, bad), WAIT_SECONDS, row)
            for row, bad in BAD.items()
        }
        yield found
        assert operator.pid


def stalled(plane: ControlPlane, bad: Bad) -> Json:
    status = plane.api.get(f"{COLLECTION}/{bad.name}").get("status", {})
    return dict(conditions.find(status.get("conditions", []), conditions.STALLED) or {})


@pytest.mark.parametrize("row", BAD)
def test_the_operator_says_the_same_words_in_the_condition(told, row):
    (problem,) = BAD[row].problems
    assert told[row]["reason"] == BAD[row].row.reason
    assert told[row]["message"] == str(problem)


def test_no_bad_object_gets_a_pod(plane, told):
    time.sleep(1)  # time enough for the operator to make one
    assert not plane.api.get("/api/v1/namespaces/default/pods")["items"]
