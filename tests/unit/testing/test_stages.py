"""The KWOK stages: that their texts are whole and agree with each other."""

import re

import pytest
import yaml

from sglang_operator.testing import components, nodes

KNOB = re.compile(r"fake\.sglang/[a-z-]+")
FILES = sorted(components.STAGES.glob("*.yaml"))


def stages(path):
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_holds_stages_with_different_names(path):
    found = stages(path)
    assert {stage["kind"] for stage in found} == {"Stage"}
    names = [stage["metadata"]["name"] for stage in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_knobs_in_the_heading_are_those_the_stages_read(path):
    heading, _, body = path.read_text().partition("apiVersion:")
    assert set(KNOB.findall(heading)) == set(KNOB.findall(body))


def test_the_kit_and_the_stages_agree_on_the_node_annotation():
    assert nodes.READY_ANNOTATION in (components.STAGES / "node.yaml").read_text()


def test_no_stage_opens_a_readiness_gate_by_itself():
    for stage in stages(components.STAGES / "pod.yaml"):
        for step in stage["spec"]["steps"]:
            template = step.get("patch", {}).get("template", "")
            assert "conditionType" not in template


def test_a_pod_that_is_being_deleted_does_nothing_but_go():
    for stage in stages(components.STAGES / "pod.yaml"):
        text = str(stage["spec"]["selector"]["matchExpressions"][0])
        assert "deletionTimestamp" in text
        assert ("'Exists'" in text) == (stage["metadata"]["name"] == "pod-delete")
