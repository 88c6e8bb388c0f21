"""Where an engine's GPUs come from: a mode is a strategy, and what is not one is refused."""

from typing import Any

import pytest

from sglang_operator.api import spec
from sglang_operator.api.spec import PlacementMode
from sglang_operator.children import engine_pod, origin
from sglang_operator.placement import modes
from sglang_operator.placement.base import PodParts
from sglang_operator.placement.count import Count
from sglang_operator.placement.devices import Pin
from sglang_operator.placement.seats import Seen
from tests.builders import OWNER, a_pool, field_paths, guide_spec, refused
from tests.unit.placement.trainers import THREE, by_hand, gpu

EACH = pytest.mark.parametrize("mode", modes.MODES, ids=lambda mode: mode.value)


def test_every_mode_is_a_strategy():
    assert modes.MODES.keys() == set(PlacementMode)


# A claim of which it is known which devices it had.
PINS = {0: Pin("gpu-0", "gpu.nvidia.com", {0: gpu(0, 0)})}
# Each field of placement but its mode, with another value than its default.
OTHERS: dict[str, object] = {
    "resourceName": "amd.com/gpu",
    "shared.slots": by_hand(*THREE)["shared"]["slots"],
    "shared.runtimeClassName": "nvidia",
    "shared.sharedMemory.hostPath": f"/dev/shm/sglang-operator.{OWNER.namespace}.two",
    "shared.sharedMemory.claimName": "memory",
    "slot.deviceClassName": "gpu.example.com",
    "slot.pinned": False,
    "slot.claims": [{"nodeRank": 0, "claimName": "gpus"}],
    "slot.sharedMemory.hostPath": f"/dev/shm/sglang-operator.{OWNER.namespace}.two",
    "slot.sharedMemory.claimName": "memory",
}


def test_every_field_of_placement_is_looked_at_below():
    assert {"mode", *OTHERS} == set(field_paths(spec.Placement))


@EACH
@pytest.mark.parametrize("path", OTHERS)
def test_a_mode_reads_each_field_of_placement_or_says_that_it_does_not(mode, path):
    """One that is ignored without a word changes the revision, and nothing else."""
    value: object = OTHERS[path]
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    plain = spec.parse(guide_spec(placement={"mode": mode.value}))
    written = spec.parse(guide_spec(placement={"mode": mode.value, **value}))
    engines = {each.name: each.shares for each in a_pool().engines}
    problems = modes.MODES[mode].problems(written, OWNER.namespace, engines)
    told = {problem.field for problem in problems}
    refused_there = any(f"spec.placement.{path}.".startswith(f"{field}.") for field in told)
    assert refused_there or decided(written) != decided(plain)


def decided(parsed: spec.PoolSpec) -> tuple[Any, ...]:
    """All that the mode of a pool decides from its spec."""
    mode, engines = modes.of(parsed), {each.name: each.shares for each in a_pool().engines}
    return (
        mode.resource(parsed),
        mode.requests(parsed, 2),
        mode.parts(parsed, OWNER.namespace),
        mode.seating(parsed, OWNER.name, engines, Seen(pins=PINS)),
    )


@EACH
def test_a_mode_says_which_fields_decide_what_pods_have_for_its_sake(mode):
    sections = {"shared": {"runtimeClassName": "nvidia"}} if mode is PlacementMode.SHARED else {}
    parts = modes.MODES[mode].parts(
        spec.parse(guide_spec(placement={"mode": mode.value, **sections})), OWNER.namespace
    )
    there = {*parts.spec, *["tolerations"] * bool(parts.tolerations), *["shm"] * bool(parts.shm)}
    assert there <= parts.decided.keys()


class Chosen(Count):
    """A mode that chooses nodes, and what engines have in common, by fields of its own."""

    def parts(self, parsed: spec.PoolSpec, namespace: str) -> PodParts:
        return PodParts(
            spec={"affinity": {"nodeAffinity": {}}, "schedulerName": "its-own"},
            tolerations=({"key": "chosen", "operator": "Exists"},),
            shm={"emptyDir": {"medium": "Memory"}},
            decided={
                "affinity": "spec.placement.own.nodes",
                "tolerations": "spec.placement.own.taints",
                "shm": "spec.placement.own.memory",
            },
        )


@pytest.fixture
def chosen(monkeypatch) -> dict[str, Any]:
    monkeypatch.setattr(modes, "MODES", {PlacementMode.SLOT: Chosen()})
    return {"placement": {"mode": "Slot"}}


@pytest.mark.parametrize(
    ("rendered", "written"),
    [
        ("spec.affinity", "spec.placement.own.nodes"),
        ("spec.affinity.nodeAffinity.required", "spec.placement.own.nodes"),
        ("spec.tolerations[2].key", "spec.placement.own.taints"),
        ("spec.volumes[0].emptyDir", "spec.placement.own.memory"),
        # Nobody said of it what decides it, but the mode did.
        ("spec.schedulerName", "spec.placement"),
    ],
)
def test_what_the_api_server_refuses_of_another_mode_is_told_of_the_field_that_decides_it(
    chosen, rendered, written
):
    pool = a_pool(**chosen)
    assert engine_pod.template(pool)["spec"]["schedulerName"] == "its-own"
    assert origin.field(pool, rendered) == written


@pytest.mark.parametrize(
    ("pod", "field"),
    [
        ({"affinity": {"nodeAffinity": {}}}, "placement.own.nodes"),
        (
            {
                "containers": [
                    {"name": "engine", "volumeMounts": [{"name": "own", "mountPath": "/dev/shm"}]}
                ],
                "volumes": [{"name": "own", "emptyDir": {"medium": "Memory"}}],
            },
            "placement.own.memory",
        ),
    ],
    ids=["affinity", "shm"],
)
def test_a_template_that_has_it_too_is_refused_with_the_field_of_that_mode(chosen, pod, field):
    (problem,) = refused(**chosen, podTemplate={"spec": pod}).errors
    assert problem.field.startswith("spec.podTemplate.spec.")
    assert field in problem.message
    assert "shared" not in problem.message
