"""The operator on a definition that is older than itself: a rollback, or an upgrade half-way.

The plane is of its own, for its definition is not put back.
"""

import time
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.builders import guide_spec

CRD = Path(__file__).parents[2] / "manifests" / "crd" / "sglanginferences.yaml"
COLLECTION = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}"
DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
WAIT_SECONDS = 30.0
Json = dict[str, Any]


def older(plane: ControlPlane) -> Json:
    """Without fields that came later, and with one of another type."""
    definition: Json = yaml.safe_load(CRD.read_text())
    for version in definition["spec"]["versions"]:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        del status["resolved"], status["placement"], status["engines"]["properties"]["inService"]
        status["readySummary"] = {"type": "integer"}
        version["additionalPrinterColumns"] = []
    current = plane.api.get(DEFINITION)["metadata"]["resourceVersion"]
    definition["metadata"]["resourceVersion"] = current
    return definition


def a_pool(plane: ControlPlane, name: str) -> None:
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": guide_spec(device_mapping="[0, 1]"),
    }
    plane.api.post(COLLECTION, body)


def status(plane: ControlPlane, name: str) -> Json:
    """The status once it says that the pool is ready; else nothing."""
    told: Json = plane.api.get(f"{COLLECTION}/{name}").get("status", {})
    ready = conditions.find(told.get("conditions", []), conditions.READY)
    return told if ready and ready["status"] == "True" else {}


def test_an_older_definition_costs_the_fields_that_it_lacks_and_not_the_status():
    with ControlPlane("1x8") as plane, InstalledOperator(plane) as operator:
        a_pool(plane, "before")
        plane.wait(
            lambda: status(plane, "before").get("placement"), WAIT_SECONDS, "a status of all fields"
        )
        plane.api.call("PUT", DEFINITION, older(plane))
        plane.wait(
            lambda: "placement" not in plane.api.get(f"{COLLECTION}/before")["status"],
            WAIT_SECONDS,
            "the API server to have taken up the older definition",
        )
        a_pool(plane, "after")
        told = plane.wait(lambda: status(plane, "after"), WAIT_SECONDS, "a status on the older one")
        assert not {"resolved", "placement", "readySummary"} & told.keys()
        assert told["engines"]["up"] == 1
        assert "inService" not in told["engines"]
        version = plane.api.get(f"{COLLECTION}/after")["metadata"]["resourceVersion"]
        time.sleep(5)
        assert plane.api.get(f"{COLLECTION}/after")["metadata"]["resourceVersion"] == version
        assert "takes no status.placement" in operator.log.read_text()
