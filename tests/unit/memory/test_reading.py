import pytest

from sglang_operator.memory import reading, weights
from sglang_operator.memory.reading import NotKnownError
from tests.unit.memory.shapes import config, heads, known, known_config


def test_a_dense_model_is_read():
    shape = reading.shape(config())
    assert (shape.hidden, shape.layers, shape.cached_layers) == (4096, 36, 36)
    assert (heads(config()).kv_heads, heads(config()).head_dim) == (8, 128)
    assert not shape.tied


def test_a_head_s_size_is_not_always_what_divides():
    assert heads(config(hidden=2560, head_dim=128)).head_dim == 128


def test_without_heads_of_keys_and_values_there_are_as_many_as_of_queries():
    given = config()
    del given["num_key_value_heads"]
    assert heads(given).kv_heads == 32


def test_text_inside_of_a_model_for_images_is_read():
    shape = known("Qwen3-VL-8B-Instruct")
    assert shape.hidden == 4096
    assert shape.tower is not None
    assert shape.tower.parameters == pytest.approx(0.57e9, rel=0.05)


def test_latent_attention_has_no_heads_of_keys():
    shape = known("DeepSeek-R1")
    assert shape.latent is not None
    assert (shape.latent.kv_rank, shape.latent.rope_dim, shape.latent.index_dim) == (512, 64, 0)
    assert (shape.experts.layers, shape.dense_layers) == (58, 3)


def test_sparse_attention_is_latent_with_an_indexer():
    assert known("GLM-5").latent.index_dim == 128


def test_layers_with_states_are_counted_apart():
    shape = known("Qwen3-Next-80B-A3B-Instruct")
    assert (shape.linear.layers, shape.cached_layers) == (36, 12)


def test_window_layers_are_counted_apart():
    shape = known("gpt-oss-20b")
    assert (shape.window.layers, shape.cached_layers, shape.window.size) == (12, 12, 128)


@pytest.mark.parametrize(
    ("given", "method"),
    (
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ),
)
def test_how_weights_are_kept_is_read(given, method):
    found = reading.shape(config(quantization_config=given)).quantization
    assert found is not None
    assert found.method == method


@pytest.mark.parametrize(
    ("changes", "what"),
    (
        ({"architectures": ["NewForCausalLM"]}, "the architecture 'NewForCausalLM'"),
        ({"architectures": []}, "its architecture"),
        ({"architectures": None}, "its architecture"),
        ({"hidden_size": None}, "'hidden_size', which its config.json lacks"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": -3}, "num_hidden_layers is -3"),
        ({"vocab_size": "many"}, "vocab_size is many"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "the quantization"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq with 8 bits"),
        ({"quantization_config": {}}, "the quantization"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}},
            "the quantization",
        ),
        ({"torch_dtype": "float8"}, "the dtype 'float8'"),
        ({"v_head_dim": "a"}, "v_head_dim is a"),
        ({"hidden_size": 10**30}, "hidden_size is 1000"),
        ({"max_position_embeddings": None}, "'max_position_embeddings'"),
    ),
)
def test_what_is_not_known_is_told_and_never_guessed(changes, what):
    with pytest.raises(NotKnownError, match=what):
        reading.shape(config(**changes))


@pytest.mark.parametrize("architecture", reading.architectures())
def test_a_config_with_nothing_else_in_it_is_not_known(architecture):
    with pytest.raises(NotKnownError):
        reading.shape({"architectures": [architecture]})


def test_numbers_that_no_model_has_do_no_harm():
    with pytest.raises(NotKnownError):
        reading.shape(config(head_dim="x" * 100, hidden=1))


@pytest.mark.parametrize(
    ("scaling", "context"),
    (
        (None, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 32768),
        ({"rope_type": "llama3", "factor": 8.0}, 32768),
        ({"type": "linear", "factor": 2.0}, 65536),
    ),
)
def test_a_context_is_as_long_as_sglang_takes_it(scaling, context):
    assert reading.shape(config(rope_scaling=scaling)).context == context


@pytest.mark.parametrize("model", ("Qwen3-30B-A3B", "DeepSeek-R1", "Qwen3.5-35B-A3B", "gpt-oss-20b",
                                   "Qwen3-VL-8B-Instruct"))  # fmt: skip
@pytest.mark.parametrize("value", (None, "x", -1, 1.5, True, [], {}, 10**40))
def test_no_value_of_a_field_is_more_than_not_known(model, value):
    """Each field of a real config with each of these instead."""
    whole = known_config(model)
    for name in whole:
        try:
            shape = reading.shape({**whole, name: value})
        except NotKnownError:
            continue
        assert weights.parameters(shape) > 0, (name, value)


@pytest.mark.parametrize("name", ("depth", "hidden_size", "intermediate_size", "patch_size"))
@pytest.mark.parametrize("value", ("x", -1, 0, 1.5, True, 10**40))
def test_a_tower_of_no_size_is_not_known(name, value):
    whole = known_config("Qwen3-VL-8B-Instruct")
    vision = {**whole["vision_config"], name: value}
    with pytest.raises(NotKnownError):
        reading.shape({**whole, "vision_config": vision})
