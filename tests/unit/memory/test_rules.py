import pytest

from sglang_operator.engine import schema, versions
from sglang_operator.memory import reading, rules


@pytest.mark.parametrize("version", [*map(str, schema.KNOWN)])
def test_every_known_version_has_rules_of_its_own(version):
    assert str(rules.of(versions.parse(version)).version) == version


def test_a_version_between_two_goes_by_the_one_before():
    assert str(rules.of(versions.parse("0.5.12")).version) == "0.5.9"


def test_a_version_older_than_all_goes_by_the_oldest():
    assert rules.of(versions.parse("0.4.0")) is rules.ROWS[0]


def test_a_model_that_a_version_does_not_have_yet_is_told():
    assert rules.lacks(versions.parse("0.5.7"), "Qwen3_5MoeForConditionalGeneration") == "0.5.9"
    assert not rules.lacks(versions.parse("0.5.9"), "Qwen3_5MoeForConditionalGeneration")
    assert not rules.lacks(versions.parse("0.4.6.post5"), "Qwen3ForCausalLM")


def test_only_architectures_that_can_be_read_have_a_beginning():
    assert set(rules.SINCE) <= set(reading.architectures())
