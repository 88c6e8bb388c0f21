"""Against each version's own code out of its wheel."""

import pytest

from sglang_operator.engine import schema, versions
from sglang_operator.memory import cache, cards, rules, static_share
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.weights import Division
from tests.unit.memory import wheel_code
from tests.unit.memory.shapes import known

VERSIONS = [*map(str, schema.KNOWN)]
CARDS = [card.name for card in cards.CARDS.values()]


def ours(version, card, model="Qwen3-8B", **fields):
    own = {key: fields.pop(key) for key in ("tp", "pp", "attention_dp") if key in fields}
    row = rules.of(versions.parse(version))
    settings = Settings(division=Division(**own), **fields)
    return static_share.chosen(row, cards.CARDS[card], known(model), settings)


def theirs(version, card, **fields):
    return wheel_code.static_share(version, cards.CARDS[card].mib, **fields)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_share_is_that_of_the_version_s_own_code(version, card):
    for tp in (1, 2, 4, 8, 16):
        assert ours(version, card, tp=tp) == pytest.approx(theirs(version, card, tp_size=tp)), tp


@pytest.mark.parametrize("card", ("H100-80GB", "L40S-48GB", "B200-180GB"))
@pytest.mark.parametrize("version", VERSIONS)
def test_so_it_is_with_other_arguments(version, card):
    chunk = {"chunked_prefill_size": 4096}
    assert ours(version, card, **chunk) == pytest.approx(theirs(version, card, **chunk))
    assert ours(version, card, graph_batch=64) == pytest.approx(
        theirs(version, card, graph_batch=64)
    )
    replicas = ours(version, card, tp=8, attention_dp=8, prefill_graphs=False)
    asked = {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True, "prefill_off": True}
    assert replicas == pytest.approx(theirs(version, card, **asked))
    for draft in ("EAGLE", "STANDALONE", "NGRAM"):
        assert ours(version, card, speculative=draft) == pytest.approx(
            theirs(version, card, speculative_algorithm=draft)
        )


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= "0.5.14"])
def test_so_it_is_of_latent_attention(version):
    model = {"model": "DeepSeek-R1", "tp": 8}
    found = theirs(version, "H200-141GB", tp_size=8, latent=True, is_latent=True)
    assert ours(version, "H200-141GB", **model) == pytest.approx(found)


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= "0.5.4"])
def test_so_it_is_of_a_model_that_reads_images(version):
    tower = {"hidden_size": 1152}
    found = theirs(version, "H100-80GB", tower=tower, prefill_off=True)
    assert ours(version, "H100-80GB", "Qwen3-VL-8B-Instruct") == pytest.approx(found)


CELLS: tuple[tuple[str, dict[str, int], int, dict[str, object]], ...] = (
    ("Qwen3-8B", {"kv_heads": 8, "head_dim": 128, "v_head_dim": 128}, 36, {}),
    ("Qwen3-30B-A3B", {"kv_heads": 4, "head_dim": 128, "v_head_dim": 128}, 48, {}),
    ("DeepSeek-R1", {"kv_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 61,
     {"latent": True}),
    ("GLM-5", {"kv_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 78,
     {"latent": True, "index_dim": 128}),
)  # fmt: skip


@pytest.mark.parametrize(("model", "config", "layers", "more"), CELLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_cell_is_that_of_the_version_s_own_code(version, model, config, layers, more):
    row = rules.of(versions.parse(version))
    # Since 0.5.20 a recipe of its own says what fp4 of heads takes, and that needs torch.
    fp4 = row.fp4_cache and (version < "0.5.20" or "latent" in more)
    for dtype in ("auto", "fp8_e4m3", *(("fp4_e2m1",) if fp4 else ())):
        for tp in (1, 2, 8):
            settings = Settings(division=Division(tp=tp))
            found = wheel_code.cell(version, config, tp, layers, dtype, **more)
            ours_ = cache.of(row, known(model), settings, dtype).cell
            assert ours_ == pytest.approx(found), (dtype, tp)
