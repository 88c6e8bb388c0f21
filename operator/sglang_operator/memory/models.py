"""Models as data: what their config.json says that memory depends on.  No weights.

They are those that the examples of ROLL and slime name.  Where the facts are from:

- GLM, Kimi, DeepSeek, Moonlight, MiMo, MiniMax, Llama, Qwen2.5 0.5B to 32B, Qwen3, Qwen3-Next and
  Qwen3.5 9B to 35B: the sizes in ``scripts/models`` of THUDM/slime; the gpt-oss: those of
  radixark/miles.  Context lengths and tied embeddings: copies of config.json on Hugging Face.
- Qwen2.5 14B and 72B, Qwen2.5-VL, Qwen3-VL 8B and 32B, Qwen3.5-122B: copies of config.json in
  public repositories.  The text part of Qwen3-VL-30B-A3B is that of Qwen3-30B-A3B, its tower the
  default of SGLang's config class (``configs/qwen3_vl.py``), which is that of the 8B and the 32B.
- GLM-5's indexer is 128 wide, which SGLang's kernels for sparse attention take alone; its heads
  are those of DeepSeek-V3.2's halved, 0.1 % of the weights.
- The heads of linear attention of Qwen3.5 9B are the defaults of SGLang's class.

Named by those examples and not here, because no config.json of theirs was found:
Qwen3.5 0.8B, 2B, 4B and 397B-A17B, Qwen2.5-VL-32B, Qwen3-VL-4B, Qwen3-Omni-30B-A3B.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def _dense(
    architecture: str,
    sizes: tuple[int, int, int, int, int],
    vocab: int,
    context: int,
    *,
    tied: bool = False,
    **more: object,
) -> Config:
    """hidden, intermediate, layers, heads, heads of keys and values."""
    hidden, intermediate, layers, heads, kv_heads = sizes
    return {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **more,
    }


def _qwen2(*sizes: int, vocab: int = 152064, context: int = 32768, tied: bool = False) -> Config:
    return _dense("Qwen2ForCausalLM", _five(sizes), vocab, context, tied=tied)


def _qwen3(*sizes: int, context: int = 40960, tied: bool = False) -> Config:
    return _dense("Qwen3ForCausalLM", _five(sizes), 151936, context, tied=tied, head_dim=128)


def _five(sizes: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    hidden, intermediate, layers, heads, kv_heads = sizes
    return hidden, intermediate, layers, heads, kv_heads


def _qwen3_moe(*sizes: int, experts: int, size: int, context: int = 40960) -> Config:
    return _dense(
        "Qwen3MoeForCausalLM",
        _five(sizes),
        151936,
        context,
        head_dim=128,
        num_experts=experts,
        num_experts_per_tok=8,
        moe_intermediate_size=size,
    )


def _latent(
    architecture: str, sizes: tuple[int, ...], vocab: int, context: int, **more: int
) -> Config:
    """hidden, intermediate, layers, heads; q rank, nope and v dimension beside them."""
    hidden, intermediate, layers, heads = sizes
    return {
        **_dense(architecture, (hidden, intermediate, layers, heads, heads), vocab, context),
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        **more,
    }


def _delta(architecture: str, sizes: tuple[int, ...], value_heads: int, **more: object) -> Config:
    hidden, intermediate, layers, heads, kv_heads = sizes
    return {
        **_dense(architecture, (hidden, intermediate, layers, heads, kv_heads), 248320, 262144),
        "head_dim": 256,
        "partial_rotary_factor": 0.25,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "mtp_num_hidden_layers": 1,
        **more,
    }


def _delta_moe(
    architecture: str, sizes: tuple[int, ...], value_heads: int, *experts: int
) -> Config:
    number, active, size = experts
    return _delta(
        architecture,
        sizes,
        value_heads,
        num_experts=number,
        num_experts_per_tok=active,
        moe_intermediate_size=size,
        shared_expert_intermediate_size=size,
    )


def _glm_moe(*sizes: int, experts: int, size: int, dense: int) -> Config:
    return _dense(
        "Glm4MoeForCausalLM",
        _five(sizes),
        151552,
        131072,
        head_dim=128,
        partial_rotary_factor=0.5,
        n_routed_experts=experts,
        n_shared_experts=1,
        num_experts_per_tok=8,
        moe_intermediate_size=size,
        first_k_dense_replace=dense,
        num_nextn_predict_layers=1,
    )


_MLA = {"q_lora_rank": 1536, "qk_nope_head_dim": 128, "v_head_dim": 128}
_DEEPSEEK = _latent(
    "DeepseekV3ForCausalLM",
    (7168, 18432, 61, 128),
    129280,
    163840,
    **_MLA,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    moe_intermediate_size=2048,
    first_k_dense_replace=3,
    num_nextn_predict_layers=1,
)
_KIMI = _latent(
    "DeepseekV3ForCausalLM",
    (7168, 18432, 61, 64),
    163840,
    131072,
    **_MLA,
    n_routed_experts=384,
    n_shared_experts=1,
    num_experts_per_tok=8,
    moe_intermediate_size=2048,
    first_k_dense_replace=1,
)
_MOONLIGHT = _latent(
    "DeepseekV3ForCausalLM",
    (2048, 11264, 27, 16),
    163840,
    8192,
    q_lora_rank=0,
    qk_nope_head_dim=128,
    v_head_dim=128,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
)
_GLM_FLASH = _latent(
    "Glm4MoeLiteForCausalLM",
    (2048, 10240, 47, 20),
    154880,
    202752,
    q_lora_rank=768,
    qk_nope_head_dim=192,
    v_head_dim=256,
    n_routed_experts=64,
    n_shared_experts=1,
    num_experts_per_tok=4,
    moe_intermediate_size=1536,
    first_k_dense_replace=1,
    num_nextn_predict_layers=1,
)
_GLM5 = _latent(
    "GlmMoeDsaForCausalLM",
    (6144, 12288, 78, 64),
    154880,
    202752,
    q_lora_rank=2048,
    qk_nope_head_dim=192,
    v_head_dim=256,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    moe_intermediate_size=2048,
    first_k_dense_replace=3,
    index_topk=2048,
    index_n_heads=32,
    index_head_dim=128,
    num_nextn_predict_layers=1,
)
_MINIMAX = _dense(
    "MiniMaxM2ForCausalLM",
    (3072, 1536, 62, 48, 8),
    200064,
    196608,
    head_dim=128,
    num_local_experts=256,
    num_experts_per_tok=8,
)
_GPT_OSS = _dense(
    "GptOssForCausalLM",
    (2880, 2880, 24, 64, 8),
    201088,
    131072,
    head_dim=64,
    num_local_experts=32,
    num_experts_per_tok=4,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 12,
    quantization_config={"quant_method": "mxfp4"},
)
_QWEN_VL_TOWER = {"hidden_size": 1280}
_VISION = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}


def _qwen25_vl(text: Config) -> Config:
    architecture = ["Qwen2_5_VLForConditionalGeneration"]
    return {
        **text,
        "architectures": architecture,
        "max_position_embeddings": 128000,
        "vision_config": _QWEN_VL_TOWER,
    }


def _qwen3_vl(architecture: str, text: Config) -> Config:
    inner = {**text, "max_position_embeddings": 262144}
    return {
        "architectures": [architecture],
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": inner,
        "vision_config": _VISION,
    }


def _fp8(config: Config) -> Config:
    return {**config, "quantization_config": {"quant_method": "fp8"}}


def _int4(config: Config) -> Config:
    """Experts in 4 bits in groups of 32, as Kimi-K2-Thinking has them."""
    weights = {"num_bits": 4, "type": "int", "group_size": 32}
    return {
        **config,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": weights}},
            "ignore": ["re:.*self_attn.*", "lm_head"],
        },
    }


_QWEN25_3B = _qwen2(2048, 11008, 36, 16, 2, vocab=151936, tied=True)
_QWEN25_7B = _qwen2(3584, 18944, 28, 28, 4)
_QWEN3_8B = _qwen3(4096, 12288, 36, 32, 8)
_QWEN3_32B = _qwen3(5120, 25600, 64, 64, 8)
_QWEN3_4B = _qwen3(2560, 9728, 36, 32, 8, tied=True)
_QWEN3_4B_LONG = _qwen3(2560, 9728, 36, 32, 8, tied=True, context=262144)
_QWEN3_30B = _qwen3_moe(2048, 6144, 48, 32, 4, experts=128, size=768)
_QWEN3_30B_LONG = _qwen3_moe(2048, 6144, 48, 32, 4, experts=128, size=768, context=262144)
_QWEN3_235B = _qwen3_moe(4096, 12288, 94, 64, 4, experts=128, size=1536)
_NEXT = {
    **_delta_moe("Qwen3NextForCausalLM", (2048, 5120, 48, 16, 2), 32, 512, 10, 512),
    "vocab_size": 151936,
}
_DENSE_35, _MOE_35 = "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"

# The last part of a model's name -> its config, in lower case.  Names of one shape stand together.
_NAMES: Mapping[str, Config] = {
    name.lower(): config
    for names, config in (
        (
            "Qwen2.5-0.5B Qwen2.5-0.5B-Instruct",
            _qwen2(896, 4864, 24, 14, 2, vocab=151936, tied=True),
        ),
        (
            "Qwen2.5-1.5B Qwen2.5-1.5B-Instruct",
            _qwen2(1536, 8960, 28, 12, 2, vocab=151936, tied=True),
        ),
        ("Qwen2.5-3B Qwen2.5-3B-Instruct", _QWEN25_3B),
        ("Qwen2.5-7B Qwen2.5-7B-Instruct Qwen2.5-7B-Instruct-RLVR", _QWEN25_7B),
        ("Qwen2.5-14B Qwen2.5-14B-Instruct", _qwen2(5120, 13824, 48, 40, 8)),
        ("Qwen2.5-32B Qwen2.5-32B-Instruct", _qwen2(5120, 27648, 64, 40, 8)),
        ("Qwen2.5-72B Qwen2.5-72B-Instruct", _qwen2(8192, 29568, 80, 64, 8)),
        ("Qwen2.5-VL-3B-Instruct", _qwen25_vl(_QWEN25_3B)),
        ("Qwen2.5-VL-7B-Instruct", _qwen25_vl(_QWEN25_7B)),
        ("Qwen3-0.6B Qwen3-0.6B-Base", _qwen3(1024, 3072, 28, 16, 8, tied=True)),
        ("Qwen3-1.7B Qwen3-1.7B-Base", _qwen3(2048, 6144, 28, 16, 8, tied=True)),
        ("Qwen3-4B Qwen3-4B-Base", _QWEN3_4B),
        ("Qwen3-4B-FP8", _fp8(_QWEN3_4B)),
        ("Qwen3-4B-Instruct-2507", _QWEN3_4B_LONG),
        ("Qwen3-8B Qwen3-8B-Base", _QWEN3_8B),
        ("Qwen3-14B Qwen3-14B-Base", _qwen3(5120, 17408, 40, 40, 8)),
        ("Qwen3-32B", _QWEN3_32B),
        ("Qwen3-30B-A3B Qwen3-30B-A3B-Base", _QWEN3_30B),
        ("Qwen3-30B-A3B-FP8", _fp8(_QWEN3_30B)),
        (
            "Qwen3-30B-A3B-Instruct-2507 Qwen3-30B-A3B-Thinking-2507 Qwen3-Coder-30B-A3B-Instruct",
            _QWEN3_30B_LONG,
        ),
        ("Qwen3-235B-A22B", _QWEN3_235B),
        ("Qwen3-235B-A22B-FP8", _fp8(_QWEN3_235B)),
        (
            "Qwen3-VL-30B-A3B-Instruct Qwen3-VL-30B-A3B-Thinking",
            _qwen3_vl("Qwen3VLMoeForConditionalGeneration", _QWEN3_30B),
        ),
        (
            "Qwen3-VL-8B-Instruct Qwen3-VL-8B-Thinking",
            _qwen3_vl("Qwen3VLForConditionalGeneration", _QWEN3_8B),
        ),
        (
            "Qwen3-VL-32B-Instruct Qwen3-VL-32B-Thinking",
            _qwen3_vl("Qwen3VLForConditionalGeneration", _QWEN3_32B),
        ),
        ("Qwen3-Next-80B-A3B-Instruct Qwen3-Next-80B-A3B-Thinking", _NEXT),
        ("Qwen3.5-9B", _delta(_DENSE_35, (4096, 12288, 32, 16, 4), 32)),
        ("Qwen3.5-27B", _delta(_DENSE_35, (5120, 17408, 64, 24, 4), 48)),
        (
            "Qwen3.5-35B-A3B",
            _delta_moe(_MOE_35, (2048, 512, 40, 16, 2), 32, 256, 8, 512),
        ),
        (
            "Qwen3.5-122B-A10B",
            _delta_moe(_MOE_35, (3072, 1024, 48, 32, 2), 64, 256, 8, 1024),
        ),
        (
            "Meta-Llama-3.1-8B-Instruct Llama-3.1-8B-Instruct Llama-3.1-8B",
            _dense("LlamaForCausalLM", (4096, 14336, 32, 32, 8), 128256, 131072),
        ),
        (
            "Llama-3.2-3B-Instruct Llama-3.2-3B",
            _dense("LlamaForCausalLM", (3072, 8192, 28, 24, 8), 128256, 131072, tied=True),
        ),
        (
            "GLM-Z1-9B-0414 GLM-4-9B-0414",
            _dense("Glm4ForCausalLM", (4096, 13696, 40, 32, 2), 151552, 32768, head_dim=128),
        ),
        (
            "GLM-Z1-32B-0414 GLM-4-32B-0414",
            _dense("Glm4ForCausalLM", (6144, 23040, 64, 48, 8), 151552, 32768, head_dim=128),
        ),
        ("GLM-4.5-Air", _glm_moe(4096, 10944, 46, 96, 8, experts=128, size=1408, dense=1)),
        (
            "GLM-4.5 GLM-4.6 GLM-4.7 GLM-4.7-355B-A32B",
            _glm_moe(5120, 12288, 92, 96, 8, experts=160, size=1536, dense=3),
        ),
        ("GLM-4.7-Flash", _GLM_FLASH),
        ("GLM-5 GLM-5.2", _GLM5),
        ("GLM-5-FP8 GLM-5.2-FP8", _fp8(_GLM5)),
        ("DeepSeek-V3 DeepSeek-R1", _fp8(_DEEPSEEK)),
        ("DeepSeek-R1-bf16 DeepSeek-V3-bf16", _DEEPSEEK),
        ("Kimi-K2-Instruct Kimi-K2 Kimi-K2-Base", _fp8(_KIMI)),
        ("Kimi-K2-Thinking", _int4(_KIMI)),
        ("Moonlight-16B-A3B Moonlight-16B-A3B-Instruct", _MOONLIGHT),
        (
            "MiMo-7B-RL",
            _dense(
                "MiMoForCausalLM",
                (4096, 11008, 36, 32, 8),
                151680,
                32768,
                num_nextn_predict_layers=1,
            ),
        ),
        ("MiniMax-M2 MiniMax-M2.5", _fp8(_MINIMAX)),
        ("gpt-oss-20b", _GPT_OSS),
    )
    for name in names.split()
}


def config(model: str) -> Config | None:
    """The config of a model, by the last part of its name or path; None: it is not known."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return _NAMES.get(last)


def names() -> tuple[str, ...]:
    """All that are known."""
    return tuple(_NAMES)
