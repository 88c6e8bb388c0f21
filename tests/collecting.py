"""Kubernetes' garbage collector, which learns of new kinds every 30 s and at its start."""

from sglang_operator.testing import ControlPlane
from sglang_operator.testing.faults.lives import KIND
from tests.builders import guide_spec

CONTROLLER_MANAGER = "kube-controller-manager"
VERSION = "sglang-operator.dev/v1alpha1"
_POOLS = f"/apis/{VERSION}/namespaces/default/sglanginferences"
_CHILDREN = "/api/v1/namespaces/default/configmaps"


def teach(plane: ControlPlane) -> None:
    """Start it again, for until it knows of pools it collects nothing of theirs.

    It looks for kinds again 30 s later.  What a definition takes along as it goes it collects only
    if it has seen that before: then it knows of no pools any more.
    """
    plane.stop_component(CONTROLLER_MANAGER)
    plane.start_component(CONTROLLER_MANAGER)
    made = {"apiVersion": VERSION, "kind": KIND, "metadata": {"name": "probe"}}
    owner = plane.api.post(_POOLS, {**made, "spec": guide_spec()})["metadata"]
    reference = {"apiVersion": VERSION, "kind": KIND, "name": "probe", "uid": owner["uid"]}
    child = {"metadata": {"name": "probe", "ownerReferences": [reference]}}
    plane.api.post(_CHILDREN, child)
    plane.api.delete(f"{_POOLS}/probe")
    there = f"{_CHILDREN}/probe"
    plane.wait(lambda: not plane.api.exists(there), 60, "the garbage collector to know pools")
