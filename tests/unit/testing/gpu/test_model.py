"""The demo's own model: the format of its file, and that its answers are known."""

import json
import struct

import pytest

from sglang_operator.testing.gpu import model


def read(content):
    """The header of a file of safetensors, and the bytes of each tensor."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    del header["__metadata__"]
    places = {name: header[name]["data_offsets"] for name in header}
    return header, {name: data[begin:end] for name, (begin, end) in places.items()}, len(data)


@pytest.fixture(scope="module")
def step_3():
    return model.safetensors(dict(model.tensors(3)))


def test_a_file_of_safetensors_is_whole_and_without_gaps(step_3):
    header, tensors, size = read(step_3)
    ends = sorted(field["data_offsets"] for field in header.values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == size
    (length,) = struct.unpack_from("<Q", step_3)
    assert length % 8 == 0
    for name, field in header.items():
        count = 1
        for each in field["shape"]:
            count *= each
        assert len(tensors[name]) == 2 * count, name
        assert field["dtype"] == "BF16"


def test_the_tensors_are_those_that_the_config_asks_for(step_3):
    header, _, _ = read(step_3)
    config = model.config()
    layers = {name.split(".")[2] for name in header if name.startswith("model.layers.")}
    assert layers == set(map(str, range(config["num_hidden_layers"])))
    assert header["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    head = config["hidden_size"] // config["num_attention_heads"]
    keys = header["model.layers.0.self_attn.k_proj.weight"]["shape"]
    assert keys == [config["num_key_value_heads"] * head, config["hidden_size"]]


def test_a_token_s_row_is_the_embedding_of_the_one_that_it_follows(step_3):
    _, tensors, _ = read(step_3)
    row = 2 * model.HIDDEN
    embedded, following = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    for token in (0, 1, 3, model.VOCABULARY - 1):
        before = (token - 3) % model.VOCABULARY
        assert following[token * row : (token + 1) * row] == embedded[before * row :][:row]


def test_steps_have_other_weights_and_other_answers(step_3):
    assert model.answer(1, [11, 5], 3) == [6, 7, 8]
    assert model.answer(3, [11, 5], 3) == [8, 11, 14]
    assert model.answer(2, [model.VOCABULARY - 1], 2) == [1, 3]
    assert model.safetensors(dict(model.tensors(3))) == step_3  # the same step, the same weights
    _, third, _ = read(step_3)
    _, first, _ = read(model.safetensors(dict(model.tensors(1))))
    assert third["model.embed_tokens.weight"] != first["model.embed_tokens.weight"]


def test_random_values_lie_between_a_power_of_two_and_its_double():
    import random

    drawn = model.values(random.Random(1), 500, -3)
    words = struct.unpack(f"<{len(drawn) // 2}H", drawn)
    floats = [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
    assert all(0.125 <= abs(value) < 0.25 for value in floats)
    assert 150 < sum(value > 0 for value in floats) < 350
