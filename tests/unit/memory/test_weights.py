import pytest

from sglang_operator.memory import weights
from sglang_operator.memory.shape import Quantization
from sglang_operator.memory.weights import Division
from tests.unit.memory.shapes import known


def total(model, quantization=None, **division):
    return weights.per_gpu(known(model), Division(**division), quantization).total


def test_tied_embeddings_are_there_once():
    shape = known("Qwen3-4B")
    found = weights.per_gpu(shape, Division(), None)
    assert found.embeddings == shape.vocab * shape.hidden * 2


def test_two_gpus_have_about_half_each():
    assert total("Qwen3-32B", tp=2) == pytest.approx(total("Qwen3-32B") / 2, rel=0.01)


def test_heads_of_keys_are_copied_beyond_one_for_each_gpu():
    """Two heads of Qwen2.5-3B on 8 GPUs: four copies."""
    shape = known("Qwen2.5-3B")
    found = weights.per_gpu(shape, Division(tp=8), None).attention / shape.layers / 2
    per_head = shape.hidden * 128
    assert found == pytest.approx(2 * per_head + 2 * per_head + 2 * per_head)


def test_experts_are_divided_the_same_by_ep_and_by_tp():
    by_ep = weights.per_gpu(known("Qwen3-30B-A3B"), Division(tp=4, ep=4), None)
    by_tp = weights.per_gpu(known("Qwen3-30B-A3B"), Division(tp=4), None)
    assert by_ep.experts == pytest.approx(by_tp.experts)


def test_attention_data_parallelism_keeps_attention_whole():
    shape = known("DeepSeek-R1")
    divided = weights.per_gpu(shape, Division(tp=8), shape.quantization)
    whole = weights.per_gpu(shape, Division(tp=8, attention_dp=8), shape.quantization)
    assert whole.attention > 4 * divided.attention
    assert whole.experts == divided.experts
    assert whole.embeddings > 4 * divided.embeddings


def test_fp8_halves_what_it_is_made_of_and_leaves_embeddings():
    plain = weights.per_gpu(known("Qwen3-8B"), Division(), None)
    small = weights.per_gpu(known("Qwen3-8B"), Division(), Quantization(method="fp8"))
    assert small.mlp == pytest.approx(plain.mlp / 2, rel=0.001)
    assert small.embeddings == plain.embeddings


@pytest.mark.parametrize(
    ("method", "bits"), (("awq", 4.2), ("gptq", 4.2), ("fp4", 4.5), ("mxfp4", 4.25), ("fp8", 8.0))
)
def test_scales_are_counted(method, bits):
    assert weights.BYTES[method] * 8 == pytest.approx(bits, abs=0.05)


def test_experts_alone_may_be_small():
    shape = known("gpt-oss-20b")
    found = weights.per_gpu(shape, Division(), shape.quantization)
    assert found.attention == weights.per_gpu(shape, Division(), None).attention
    assert weights.on_disk(shape, shape.quantization) / 2**30 == pytest.approx(12.8, abs=0.3)


def test_latent_attention_has_its_absorbed_matrix_twice():
    shape = known("Moonlight-16B-A3B")
    copies = 27 * 512 * 16 * (128 + 128) * 2
    whole = weights.per_gpu(shape, Division(), None).total
    overhead = shape.context * 64 * 4 + weights.ALLOCATOR_BYTES
    assert whole - weights.on_disk(shape, None) == pytest.approx(copies + overhead)


def test_a_tower_is_divided_too():
    assert weights.per_gpu(known("Qwen3-VL-8B-Instruct"), Division(tp=2), None).tower > 0
