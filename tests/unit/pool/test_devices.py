"""Whoever installs the operator decides which devices engines may ask for."""

import msgspec
import pytest

from sglang_operator.controller import judging
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.placement import modes
from sglang_operator.placement.seats import Seen
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, guide_spec

FUSE, GPUS = "smarter-devices/fuse", "example.com/gpu-large"
KVM = "kvm.devices.example.com"
CLASS = f"deviceclass.resource.kubernetes.io/{KVM}"
BESIDE = {"containers": [{"name": "engine", "resources": {"limits": {FUSE: 1}}}]}
SPECS = {
    FUSE: guide_spec(placement={"resourceName": FUSE}),
    GPUS: guide_spec(placement={"resourceName": GPUS}),
    "beside": guide_spec(podTemplate={"spec": BESIDE}),
    CLASS: guide_spec(placement={"resourceName": CLASS}),
    "by claims": guide_spec(placement={"mode": "Slot", "slot": {"deviceClassName": KVM}}),
}
ASKED = {"beside": FUSE, "by claims": CLASS}


def judged(spec, *allowed):
    record = CustomResource(metadata=Meta(name="a"), written=msgspec.Raw(msgspec.json.encode(spec)))
    return judging.judge(OWNER, record, None, allowed=allowed)


@pytest.mark.parametrize("name", SPECS)
def test_devices_that_are_no_gpus_are_refused_in_words_unless_they_are_allowed(name):
    refused = judged(SPECS[name])
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    resource = ASKED.get(name, name)
    assert f"the resource {resource} is not allowed here" in problem.message
    assert f"--allow-resource={resource}" in problem.message
    pool = judged(SPECS[name], resource)
    assert isinstance(pool, Pool)
    assert not any("--allow-resource" in each.message for each in pool.warnings)


@pytest.mark.parametrize("name", SPECS)
def test_who_does_not_know_the_operator_warns_of_them(name):
    pool = resolve_pool(OWNER, SPECS[name])
    assert isinstance(pool, Pool)
    (told,) = [each for each in pool.warnings if "--allow-resource" in each.message]
    assert told.field.startswith(("spec.placement.", "spec.podTemplate"))


@pytest.mark.parametrize("name", ["gpu.nvidia.com", "mig.nvidia.com", "gpu.amd.com"])
def test_a_class_of_gpus_is_the_same_by_either_way_of_asking(name):
    counted = {"resourceName": f"deviceclass.resource.kubernetes.io/{name}"}
    for placement in (counted, {"mode": "Slot", "slot": {"deviceClassName": name}}):
        assert isinstance(judged(guide_spec(placement=placement)), Pool)


def test_a_class_is_allowed_by_its_whole_name_alone():
    assert isinstance(judged(SPECS["by claims"], KVM), Refused)


@pytest.mark.parametrize("mode", modes.MODES)
def test_every_class_that_claims_of_a_pool_ask_for_is_judged(mode):
    """So that a mode which asks in a way of its own is not left out."""
    pool = resolve_pool(OWNER, guide_spec(placement={"mode": mode.value}))
    assert isinstance(pool, Pool)
    seating = pool.seating(Seen())
    asked = {
        each["exactly"]["deviceClassName"]
        for claim in (seating.claims if seating is not None else ())
        for each in claim.spec["devices"]["requests"]
    }
    assert asked == {name for _, name in pool.placement.device_classes(pool.spec)}


def test_gpus_are_judged_as_ever():
    spec = guide_spec(placement={"resourceName": "nvidia.com/mig-1g.10gb"})
    judged_pool, pool = judged(spec), resolve_pool(OWNER, spec)
    assert isinstance(judged_pool, Pool)
    assert isinstance(pool, Pool)
    assert judged_pool.revision == pool.revision
    assert judged_pool.warnings == pool.warnings
