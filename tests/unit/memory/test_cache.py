import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import cache, reading, rules
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.weights import Division
from tests.unit.memory.shapes import config, known

V0_5_14 = rules.of(versions.parse("0.5.14"))


def cell(model, dtype="auto", row=V0_5_14, settings=None, **division):
    chosen = settings or Settings(division=Division(**division))
    shape = known(model) if isinstance(model, str) else model
    return cache.of(row, shape, chosen, dtype).cell


@pytest.mark.parametrize(("tp", "bytes_"), ((1, 98304), (2, 49152), (4, 24576), (8, 24576)))
def test_heads_are_divided_no_further_than_one_for_each_gpu(tp, bytes_):
    assert cell("Qwen3-30B-A3B", tp=tp) == bytes_


@pytest.mark.parametrize("tp", (1, 8))
def test_latent_attention_is_not_divided(tp):
    assert cell("DeepSeek-R1", tp=tp) == 70272
    assert cell("DeepSeek-R1", "fp8_e4m3", tp=tp) == 35136


def test_every_head_of_mha_is_kept():
    shape = reading.shape(config(hidden=4096, layers=32, heads=32, kv_heads=32))
    assert cell(shape) == 524288


def test_fp8_halves_a_cache_and_fp4_takes_scales():
    assert cell("Qwen3-8B", "fp8_e4m3") == cell("Qwen3-8B") / 2
    quarter = 36 * 8 * 128 * 2
    assert cell("Qwen3-8B", "fp4_e2m1") == quarter / 2 + quarter / 16


def test_an_indexer_has_keys_of_its_own():
    assert cell("GLM-5") == 78 * (576 * 2 + 128 + 4)
    assert cell("GLM-5", row=rules.of(versions.parse("0.5.2"))) == 78 * 576 * 2


def test_window_layers_have_a_smaller_pool():
    one = 8 * 128 * 2
    assert cell("gpt-oss-20b") == pytest.approx(12 * one + 0.8 * 12 * one)


def test_layers_with_states_have_no_cache():
    assert cell("Qwen3-Next-80B-A3B-Instruct") == 12 * 2 * 512 * 2


def test_a_state_is_as_large_as_sglang_makes_it():
    """conv: (32 heads of 128 values + 2 x 16 heads of 128 keys) x 3; state: 32 x 128 x 128."""
    shape = known("Qwen3-Next-80B-A3B-Instruct")
    assert cache.state_bytes(shape, 1) == 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    assert cache.state_bytes(shape, 4) == cache.state_bytes(shape, 1) // 4


def test_states_and_cache_share_what_is_left():
    shape = known("Qwen3-Next-80B-A3B-Instruct")
    kept = cache.of(V0_5_14, shape, Settings(), "auto")
    pools = cache.fit(V0_5_14, kept, Settings(), 40 * 2**30, 1)
    assert pools.state_gib + pools.cache_gib == pytest.approx(40, abs=0.1)
    assert pools.state_gib / pools.cache_gib == pytest.approx(0.9, abs=0.01)


def test_pools_are_whole_pages():
    kept = cache.of(V0_5_14, known("Qwen3-8B"), Settings(), "auto")
    assert cache.fit(V0_5_14, kept, Settings(), 10**10, 64).tokens % 64 == 0


def test_a_bound_on_tokens_is_kept():
    settings = Settings(max_total_tokens=1000)
    kept = cache.of(V0_5_14, known("Qwen3-8B"), settings, "auto")
    assert cache.fit(V0_5_14, kept, settings, 10**10, 1).tokens == 1000


def test_of_less_than_nothing_there_are_no_tokens():
    kept = cache.of(V0_5_14, known("Qwen3-8B"), Settings(), "auto")
    assert cache.fit(V0_5_14, kept, Settings(), -(10**10), 1).tokens == 0


def test_sparse_attention_has_pages_and_a_type_of_its_own():
    shape = known("GLM-5")
    assert cache.page(shape, Settings()) == 64
    assert cache.dtype(shape, Settings(), capability=10) == "fp8_e4m3"
    assert cache.dtype(shape, Settings(), capability=9) == "auto"
