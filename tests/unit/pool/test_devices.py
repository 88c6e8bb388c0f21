"""Whoever installs the operator decides which devices engines may ask for."""

import msgspec
import pytest

from sglang_operator.controller import judging
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, guide_spec

FUSE, GPUS = "smarter-devices/fuse", "example.com/gpu-large"
BESIDE = {"containers": [{"name": "engine", "resources": {"limits": {FUSE: 1}}}]}
SPECS = {
    FUSE: guide_spec(placement={"resourceName": FUSE}),
    GPUS: guide_spec(placement={"resourceName": GPUS}),
    "beside": guide_spec(podTemplate={"spec": BESIDE}),
}


def judged(spec, *allowed):
    record = CustomResource(metadata=Meta(name="a"), written=msgspec.Raw(msgspec.json.encode(spec)))
    return judging.judge(OWNER, record, None, allowed=allowed)


@pytest.mark.parametrize("name", SPECS)
def test_devices_that_are_no_gpus_are_refused_in_words_unless_they_are_allowed(name):
    refused = judged(SPECS[name])
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    resource = FUSE if name == "beside" else name
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
    assert told.field.startswith(("spec.placement.resourceName", "spec.podTemplate"))


def test_gpus_are_judged_as_ever():
    spec = guide_spec(placement={"resourceName": "nvidia.com/mig-1g.10gb"})
    judged_pool, pool = judged(spec), resolve_pool(OWNER, spec)
    assert isinstance(judged_pool, Pool)
    assert isinstance(pool, Pool)
    assert judged_pool.revision == pool.revision
    assert judged_pool.warnings == pool.warnings
