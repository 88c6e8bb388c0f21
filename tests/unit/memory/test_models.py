import pytest

from sglang_operator.memory import models, weights
from tests.unit.memory.shapes import known

# In billions, as the models are named or their cards say.
PARAMETERS = {
    "Qwen2.5-7B": 7.62,
    "Qwen2.5-72B-Instruct": 72.7,
    "Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen3-0.6B": 0.60,
    "Qwen3-8B": 8.19,
    "Qwen3-32B": 32.8,
    "Qwen3-30B-A3B-Base": 30.5,
    "Qwen3-235B-A22B": 235,
    "Qwen3-Next-80B-A3B-Instruct": 80,
    "Qwen3.5-35B-A3B": 35,
    "Qwen3.5-122B-A10B": 122,
    "DeepSeek-R1": 671,
    "Kimi-K2-Instruct": 1030,
    "Moonlight-16B-A3B": 16,
    "GLM-4.5-Air": 106,
    "GLM-4.7-Flash": 30,
    "GLM-5": 744,
    "MiniMax-M2": 229,
    "gpt-oss-20b": 20.9,
    "Llama-3.1-8B": 8.03,
}
ACTIVE = {"Qwen3-30B-A3B": 3.0, "Qwen3-235B-A22B": 22, "DeepSeek-R1": 37, "GLM-5": 40}


@pytest.mark.parametrize(("model", "billions"), PARAMETERS.items())
def test_a_model_has_the_parameters_that_it_is_said_to_have(model, billions):
    assert weights.parameters(known(model)) / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(("model", "billions"), ACTIVE.items())
def test_so_many_of_them_work_for_each_token(model, billions):
    assert weights.active(known(model)) / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize("name", models.names())
def test_every_model_that_is_shipped_can_be_read(name):
    assert weights.parameters(known(name)) > 1e8


def test_a_model_is_known_by_the_last_part_of_its_name_or_path():
    assert models.config("Qwen/Qwen3-8B") == models.config("/data/models/qwen3-8b/")


@pytest.mark.parametrize("name", ("", "Qwen3-8B-of-mine", "Qwen/Qwen3.5-397B-A17B", "/"))
def test_a_model_that_only_looks_like_one_is_not_known(name):
    assert models.config(name) is None
