"""A tiny model that shows by its answers which weights it has: of no use, and made in a moment.

It is a Qwen2 with random weights whose layers hardly change what passes through them.  What the
last layer takes for the likeliest token is therefore known: with the weights of step N, N more
than the token before.  So whoever asks an engine can tell whose weights answer.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 2048
HIDDEN = 512
LAYERS = 4
HEADS = 8
KEY_VALUE_HEADS = 4
HEAD = HIDDEN // HEADS
INTERMEDIATE = 1024
POSITIONS = 4096

SAFETENSORS = "model.safetensors"
TYPE = "BF16"
ONE = b"\x80\x3f"  # 1.0 in bfloat16
# Powers of two, between which and twice which the random values lie.
LARGE, SMALL = -3, -16

Shape = tuple[int, ...]


def config() -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def answer(step: int, prompt: Sequence[int], count: int) -> list[int]:
    """The tokens that follow a prompt with the weights of a step, at temperature 0."""
    return [(prompt[-1] + step * each) % VOCABULARY for each in range(1, count + 1)]


def write(folder: Path, step: int) -> None:
    """Write the checkpoint of a step: config.json and one file of safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(), indent=1))
    (folder / SAFETENSORS).write_bytes(safetensors(dict(tensors(step))))


def safetensors(content: dict[str, tuple[Shape, bytes]]) -> bytes:
    """Tensors of bfloat16 as the file format has them: a length, a header in JSON, the bytes."""
    header, offset = {}, 0
    for name, (shape, data) in content.items():
        header[name] = {
            "dtype": TYPE,
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # the bytes begin aligned
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in content.values())


def tensors(step: int) -> Iterator[tuple[str, tuple[Shape, bytes]]]:
    """Every tensor of a step by the name that Transformers gives it: its shape and its bytes."""
    source = random.Random(step)
    rows = [values(source, HIDDEN, LARGE) for _ in range(VOCABULARY)]
    yield "model.embed_tokens.weight", ((VOCABULARY, HIDDEN), b"".join(rows))
    for layer in range(LAYERS):
        for name, shape in _layer_shapes().items():
            yield f"model.layers.{layer}.{name}", (shape, _content(source, name, shape))
    yield "model.norm.weight", ((HIDDEN,), ONE * HIDDEN)
    # The row of a token is the embedding of the one that it follows.
    following = [rows[(token - step) % VOCABULARY] for token in range(VOCABULARY)]
    yield "lm_head.weight", ((VOCABULARY, HIDDEN), b"".join(following))


def values(source: random.Random, count: int, power: int) -> bytes:
    """Random values of bfloat16 with both signs, from 2**power up to twice that."""
    exponent = power + 127
    drawn = source.randbytes(2 * count)
    low = bytes((exponent & 1) << 7 | byte & 0x7F for byte in range(256))
    high = bytes(byte & 0x80 | exponent >> 1 for byte in range(256))
    out = bytearray(2 * count)
    out[0::2] = drawn[0::2].translate(low)
    out[1::2] = drawn[1::2].translate(high)
    return bytes(out)


def _layer_shapes() -> dict[str, Shape]:
    queries, keys = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
    return {
        "input_layernorm.weight": (HIDDEN,),
        "self_attn.q_proj.weight": (queries, HIDDEN),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.weight": (keys, HIDDEN),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, HIDDEN),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.weight": (HIDDEN, queries),
        "post_attention_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
    }


def _content(source: random.Random, name: str, shape: Shape) -> bytes:
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    if "layernorm" in name:
        return ONE * count
    # What leaves a layer is added to what entered it.
    leaves = name.startswith(("self_attn.o_proj", "mlp.down_proj"))
    return values(source, count, SMALL if leaves else LARGE - 3)
