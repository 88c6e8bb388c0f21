"""How long an engine may take to start, by what the model's name tells."""

import pytest

from sglang_operator.engine import model_size


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen3-30B-A3B-Base", 30),
        ("/models/Qwen3-235B-A22B-Instruct-2507/", 235),
        ("Qwen/Qwen2.5-0.5B", 0.5),
        ("mistralai/Mixtral-8x7B-v0.1", 56),
        ("/data/llama-70b/checkpoint-100", 70),
        ("deepseek-ai/DeepSeek-V3", None),
        ("model-32bit", None),
        ("", None),
    ],
)
def test_the_name_tells_the_parameters(model, billions):
    found = model_size.parameters(model)
    assert found == (None if billions is None else pytest.approx(billions * 1e9))


@pytest.mark.parametrize(
    ("model", "load_format", "seconds"),
    [
        pytest.param("Qwen/Qwen3-8B", "auto", 1800, id="small"),
        pytest.param("Qwen/Qwen3-235B-A22B", "auto", 600 + 4700, id="large"),
        pytest.param("Qwen/Qwen3-235B-A22B", "dummy", 1800, id="nothing is read"),
        pytest.param("/models/mine", "auto", 1800, id="not known"),
    ],
)
def test_a_large_model_that_is_read_has_more_time(model, load_format, seconds):
    assert model_size.startup_seconds(model, load_format) == seconds
