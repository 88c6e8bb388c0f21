"""A spec of the wrong types: everything that does not fit is told at once."""

import pytest

from sglang_operator.api import errors, spec
from tests.builders import guide_spec, refused


def misfits(**fields):
    with pytest.raises(errors.InvalidError) as caught:
        spec.parse(guide_spec(**fields))
    return {problem.field: problem.message for problem in caught.value.problems}


def test_every_field_of_a_wrong_type_is_told_and_not_only_the_first():
    told = misfits(
        seed="one",
        replicas=[],
        rollout={"maxUnavailable": [2], "paused": 1, "partition": 0},
        generation="Never",
        podTemplate=[],
    )
    assert sorted(told) == [
        "spec.generation",
        "spec.podTemplate",
        "spec.replicas",
        "spec.rollout.maxUnavailable",
        "spec.rollout.paused",
        "spec.seed",
    ]
    assert told["spec.rollout.maxUnavailable"] == (
        "found [2], expected a whole number or text; correct it; kubectl explain "
        "sgi.spec.rollout.maxUnavailable tells its form"
    )


def test_what_a_map_lacks_because_it_was_left_out_is_not_told_besides():
    assert list(misfits(security={"apiKey": {"name": 3, "key": "k"}})) == [
        "spec.security.apiKey.name"
    ]


def test_what_a_map_lacks_is_told():
    told = misfits(security={"apiKey": {"name": "keys"}}, seed="one")
    assert sorted(told) == ["spec.security.apiKey", "spec.seed"]
    assert "required field key" in told["spec.security.apiKey"]


def test_an_item_of_a_list_is_told_by_its_index_and_explained_by_the_list():
    told = misfits(extraArgs=["--a", []])
    assert list(told) == ["spec.extraArgs[1]"]
    assert "kubectl explain sgi.spec.extraArgs tells" in told["spec.extraArgs[1]"]


def test_a_key_that_is_no_text_is_told_at_its_map():
    assert list(misfits(model_args={3: 4})) == ["spec.model_args"]


def test_the_object_that_was_parsed_is_left_as_it_was():
    raw = guide_spec(rollout={"paused": 1, "maxSurge": "x"})
    with pytest.raises(errors.InvalidError):
        spec.parse(raw)
    assert raw == guide_spec(rollout={"paused": 1, "maxSurge": "x"})


def test_a_pool_says_all_of_them():
    assert len(refused(guide_spec(seed="one", suspend="yes")).errors) == 2
