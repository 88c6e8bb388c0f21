"""What is known of a model, and what is said where nothing is."""

import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import known
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.settings import of_values
from sglang_operator.memory.shape import Shape

VERSION = versions.parse("0.5.14")


def shape(model="Qwen/Qwen3-8B", version=VERSION, **given):
    return known.shape(model, version, of_values(given))


def test_a_model_that_is_shipped_as_data_is_known_by_the_end_of_its_path():
    found = shape("/models/Qwen3-8B/")
    assert isinstance(found, Shape)
    assert found.layers == 36


def test_what_the_arguments_change_in_the_config_is_planned():
    found = shape(json_model_override_args='{"num_hidden_layers": 2}')
    assert isinstance(found, Shape)
    assert found.layers == 2
    assert shape(json_model_override_args="{}") == shape()
    assert shape(json_model_override_args={"num_hidden_layers": 2}) == found


@pytest.mark.parametrize(
    ("found", "why"),
    (
        (shape("somebody/their-own"), "the sizes of somebody/their-own"),
        (shape(quantization="bitsandbytes"), "the quantization bitsandbytes"),
        (shape("gpt-oss-20b", versions.parse("0.4.6.post5")), "has no GptOssForCausalLM"),
        (shape(json_model_override_args='{"architectures": ["Own"]}'), "the architecture 'Own'"),
        (shape(json_model_override_args="[1]"), "json_model_override_args changes"),
        (shape(json_model_override_args="{"), "json_model_override_args changes"),
    ),
)
def test_what_is_not_known_is_said(found, why):
    assert isinstance(found, NotKnown)
    assert why in found.why
