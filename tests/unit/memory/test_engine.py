import pytest

from sglang_operator.memory import engine, reading
from tests.unit.memory.shapes import H200, config, known, request

# SGLang 0.5.14 on one H200, bfloat16 dummy weights: what its log and /server_info said.
# hidden, intermediate, layers, heads, kv heads, vocabulary, share -> weights, cache, tokens, left
MEASURED = (
    ((512, 1024, 4, 8, 4), 32000, 0.3, 0.09, 41.58, 10899019, 97.19),
    ((2048, 5632, 16, 16, 16), 32000, 0.7, 1.81, 95.56, 782816, 41.57),
    ((4096, 11008, 16, 32, 8), 151936, 0.8, 7.62, 103.67, 1698455, 27.66),
    ((4096, 12288, 36, 32, 8), 151936, 0.8, 15.28, 96.01, 699117, 27.64),
)


def measured(sizes, vocab, share):
    shape = reading.shape(config(*sizes, vocab_size=vocab))
    return engine.plan(request(shape, H200, mem_fraction_static=share))


@pytest.mark.parametrize(
    ("sizes", "vocab", "share", "weights", "cache", "tokens", "left"), MEASURED
)
def test_what_a_real_engine_reported_was_planned(sizes, vocab, share, weights, cache, tokens, left):
    plan = measured(sizes, vocab, share)
    assert plan.free == pytest.approx(139.13, abs=0.01)
    assert plan.weights_gib == pytest.approx(weights, rel=0.02, abs=0.02)
    assert plan.pools.cache_gib == pytest.approx(cache, abs=0.1)
    assert plan.pools.tokens == pytest.approx(tokens, rel=0.03)
    assert plan.left == pytest.approx(left, abs=0.6)


def test_graphs_take_about_what_they_took():
    plan = measured((4096, 11008, 16, 32, 8), 151936, 0.8)
    assert plan.graphs == pytest.approx(1.06 + 0.38, abs=0.1)


def test_a_deployment_that_others_reported_is_planned():
    """DeepSeek-R1 on 8 H200 at 0.82 was said to hold 509 thousand tokens."""
    plan = engine.plan(request("DeepSeek-R1", H200, tp=8, mem_fraction_static=0.82))
    assert plan.pools.tokens == pytest.approx(509_000, rel=0.03)


def test_the_cache_is_what_is_free_after_loading_less_what_is_kept_outside():
    plan = engine.plan(request("Qwen3-8B", tp=2, mem_fraction_static=0.7))
    assert plan.available == pytest.approx(plan.free_after - plan.free * 0.3)


def test_as_many_sequences_fit_as_the_cache_has_room_for_at_full_length():
    plan = engine.plan(request("Qwen3-8B", sequence=(1024, 3072)))
    assert plan.sequences == plan.pools.tokens // 4096


def test_no_more_run_than_were_asked_for():
    plan = engine.plan(request("Qwen3-8B", sequence=(512, 512), max_running_requests=64))
    assert plan.sequences == 64


def test_requests_are_divided_among_replicas_of_attention():
    asked = {"tp": 8, "attention_dp": 8, "max_running_requests": 64, "sequence": (512, 512)}
    plan = engine.plan(request("DeepSeek-R1", H200, mem_fraction_static=0.9, **asked))
    assert plan.max_running == 8
    assert plan.sequences == 64


def test_states_bound_the_sequences_of_a_hybrid():
    plan = engine.plan(request("Qwen3-Next-80B-A3B-Instruct", tp=4, sequence=(512, 512)))
    assert plan.max_running == plan.pools.state_slots // plan.cache.slots
    assert plan.sequences == plan.max_running


def test_window_layers_bound_the_sequences_by_what_they_see():
    plan = engine.plan(request("gpt-oss-20b", sequence=(1024, 7168)))
    by_window = plan.pools.window_tokens // 128
    assert plan.sequences == min(plan.pools.tokens // 8192, by_window, plan.max_running)


def test_the_table_of_requests_grows_with_the_context():
    short = engine.plan(request("Qwen3-4B-Instruct-2507", context_length=8192))
    long = engine.plan(request("Qwen3-4B-Instruct-2507"))
    assert long.context == 262144
    assert long.table > 4 * short.table


def test_what_others_keep_is_not_there_for_graphs():
    alone = engine.plan(request("Qwen3-8B"))
    shared = engine.plan(request("Qwen3-8B", resident=20.0))
    assert shared.pools == alone.pools
    assert shared.left == pytest.approx(alone.left - 20)


@pytest.mark.parametrize(
    ("model", "fields", "what"),
    (
        ("Qwen3-30B-A3B", {"tp": 6}, "32 attention heads"),
        ("Qwen3-235B-A22B", {"tp": 8, "ep": 3}, "ep 3 does not divide tp 8"),
        ("Kimi-K2-Instruct", {"tp": 7, "ep": 7}, "64 attention heads"),
        ("GLM-4.5", {"tp": 64, "ep": 64}, "96 attention heads"),
        ("Qwen3-30B-A3B", {"tp": 32}, "768 columns"),
        ("Qwen3-8B", {"pp": 40}, "40 pipeline stages for 36 layers"),
    ),
)
def test_sizes_that_do_not_divide_are_told(model, fields, what):
    if what == "768 columns":
        fields = {**fields, "tp": 512, "attention_dp": 16}
    told = engine.plan(request(model, **fields)).impossible
    assert any(what in text for text in told), told


def test_host_memory_is_what_arguments_ask_for():
    plain = engine.plan(request("Qwen3-8B", tp=2))
    backup = engine.plan(request("Qwen3-8B", tp=2, weights_on_host=True))
    tiers = engine.plan(request("Qwen3-8B", tp=2, hicache_ratio=2.0))
    assert plain.host == 0
    assert backup.host == pytest.approx(2 * backup.weights_gib)
    assert tiers.host == pytest.approx(4 * tiers.pools.cache_gib)


def test_the_disk_holds_the_checkpoint_as_it_is_kept():
    assert engine.plan(request("Qwen3-30B-A3B")).disk == pytest.approx(56.9, abs=0.2)
    assert engine.plan(request("Qwen3-30B-A3B-FP8")).disk == pytest.approx(29.0, abs=0.3)


def test_weights_made_smaller_when_loaded_are_so_on_the_gpu_alone():
    plan = engine.plan(request("Qwen3-8B", quantization="fp8"))
    assert plan.weights_gib < 0.62 * engine.plan(request("Qwen3-8B")).weights_gib
    assert plan.disk == engine.plan(request("Qwen3-8B")).disk


def test_a_draft_of_the_model_s_own_layers_takes_weights_and_cache():
    alone = engine.plan(request("MiMo-7B-RL"))
    drafting = engine.plan(request("MiMo-7B-RL", speculative="EAGLE"))
    assert drafting.weights.draft > 0
    assert drafting.cache.cell == int(alone.cache.cell * (1 + 1 / 36))


def test_nothing_of_a_shape_is_lost_to_pipeline_stages():
    whole = engine.plan(request("Qwen3-8B"))
    halves = engine.plan(request("Qwen3-8B", pp=2))
    assert whole.weights.mlp == pytest.approx(2 * halves.weights.mlp)
    assert halves.cache.cell == whole.cache.cell / 2
    assert known("Qwen3-8B").layers == 36


def test_the_dtype_that_is_asked_for_counts():
    half, whole = request("Qwen3-8B"), request("Qwen3-8B", dtype="float32")
    assert engine.plan(whole).weights_gib == pytest.approx(
        2 * engine.plan(half).weights_gib, rel=0.01
    )
    assert engine.plan(whole).cache.cell == 2 * engine.plan(half).cache.cell


def test_weights_that_come_from_a_trainer_alone_need_no_disk():
    assert engine.plan(request("Qwen3-8B", load_format="dummy")).disk == 0


def test_what_is_not_counted_is_told():
    own = request("MiMo-7B-RL", speculative="EAGLE")
    other = request("Qwen3-8B", speculative="EAGLE3", draft_path="mine/draft", lora=True)
    assert engine.plan(own).uncounted == ()
    assert len(engine.plan(other).uncounted) == 2
    assert "mine/draft" in engine.plan(other).uncounted[0]


def test_a_draft_that_is_loaded_later_takes_from_what_is_outside_of_the_share():
    """Before 0.5.14 a draft's weights and cache were nobody's share."""
    old, new = (
        engine.plan(request("MiMo-7B-RL", version=v, speculative="EAGLE", mem_fraction_static=0.8))
        for v in ("0.5.9", "0.5.14")
    )
    alone = engine.plan(request("MiMo-7B-RL", version="0.5.9", mem_fraction_static=0.8))
    assert old.pools.tokens == alone.pools.tokens
    assert new.pools.tokens < old.pools.tokens
    cache = old.pools.cache_gib / 36
    assert old.left == pytest.approx(alone.left - old.weights.draft / 2**30 - cache, abs=0.01)


def test_what_is_offloaded_is_not_on_the_gpu():
    plain, offloaded = request("Qwen3-32B"), request("Qwen3-32B", offload_gb=20)
    difference = engine.plan(plain).weights_gib - engine.plan(offloaded).weights_gib
    assert difference == pytest.approx(20)
    assert engine.plan(offloaded).host == pytest.approx(20)
    everything = engine.plan(request("Qwen3-32B", offload_gb=500))
    assert everything.weights_gib == pytest.approx(everything.weights.embeddings / 2**30)


@pytest.mark.parametrize(("asked", "known"), ((None, True), ("fp8", True), ("gguf", False)))
def test_a_quantization_is_understood_or_not_known(asked, known):
    given = request("Qwen3-8B", quantization=asked)
    assert engine.understands(given.shape, given.settings) is known
