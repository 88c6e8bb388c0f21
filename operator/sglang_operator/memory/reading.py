"""A model's config.json as a shape.

Only architectures whose weights and cache are understood are read; of any other it is said that it
is not known, and nothing is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sglang_operator.memory import towers
from sglang_operator.memory.shape import (
    Experts,
    Heads,
    Latent,
    Linear,
    Quantization,
    Shape,
    Window,
)

Config = Mapping[str, Any]

_MOST = 2**40  # of any size; a model with more is none
_MOST_LAYERS = (
    4096  # they are looked at one by one, and json_model_override_args may say any number
)
_DTYPES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_CONTEXTS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
)
_SPARSE = ("DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")

# Bits and type of a number in compressed-tensors.
_COMPRESSED = (((8, "float"), "fp8"), ((4, "int"), "int4"), ((4, "float"), "fp4"))


class NotKnownError(Exception):
    """This model cannot be planned; the text says what about it is not known."""


def shape(config: Config) -> Shape:
    """The shape of a config.  Raises :class:`NotKnownError`."""
    architecture = _architecture(config)
    read = _FAMILIES.get(architecture)
    if read is None:
        raise NotKnownError(f"the architecture {architecture[:80]!r}")
    text = _text(config)
    try:
        return read(architecture, config, text)
    except KeyError as error:
        raise NotKnownError(f"{error.args[0]!r}, which its config.json lacks") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise NotKnownError(f"what its config.json means ({error})") from None


def architectures() -> tuple[str, ...]:
    """Those that can be planned."""
    return tuple(_FAMILIES)


def _architecture(config: Config) -> str:
    found = config.get("architectures")
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise NotKnownError("its architecture: config.json has no list architectures")
    return str(found[0])


def _text(config: Config) -> Config:
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _whole(config: Config, name: str, default: int | None = None) -> int:
    """A size: a whole number of at least 0."""
    value = config.get(name)
    if value is None:
        if default is None:
            raise KeyError(name)
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return value


def _given(config: Config, name: str) -> int:
    """A size that may be left out, or be null: 0 then."""
    return _whole(config, name, 0)


def _positive(config: Config, name: str, default: int | None = None) -> int:
    found = _whole(config, name, default)
    if found == 0:
        raise ValueError(f"{name} is 0")
    return found


def _layers(text: Config) -> int:
    found = _positive(text, "num_hidden_layers")
    if found > _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {found}")
    return found


# --- what all families share


def _common(architecture: str, config: Config, text: Config) -> dict[str, Any]:
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    dtype = str(text.get("torch_dtype") or text.get("dtype") or "bfloat16").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise NotKnownError(f"the dtype {dtype[:40]!r}")
    return {
        "architecture": architecture,
        "hidden": _positive(text, "hidden_size"),
        "layers": _layers(text),
        "vocab": _positive(text, "vocab_size"),
        "context": _context(text),
        "tied": tied is True,
        "dtype_bytes": _DTYPES[dtype],
        "quantization": _quantization(config),
        "next_token_layers": _given(text, "num_nextn_predict_layers")
        or _given(text, "mtp_num_hidden_layers"),
    }


def _context(text: Config) -> int:
    """As SGLang derives it (``get_context_length``)."""
    found = next((_positive(text, name) for name in _CONTEXTS if text.get(name) is not None), None)
    if found is None:
        raise KeyError(_CONTEXTS[-1])
    scaling = text.get("rope_scaling")
    if not isinstance(scaling, Mapping) or "original_max_position_embeddings" in scaling:
        return found
    kind = scaling.get("rope_type", scaling.get("type"))
    return found if kind == "llama3" else int(found * (scaling.get("factor") or 1))


def _quantization(config: Config) -> Quantization | None:
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method") or found.get("quant_algo") or "").lower()
    if method == "compressed-tensors":
        method = _compressed(found)
    if method in ("modelopt", "modelopt_fp4", "nvfp4"):
        method = "fp4" if "fp4" in str(found).lower() else "fp8"
    if method in ("awq", "gptq") and found.get("bits", 4) != 4:
        raise NotKnownError(f"{method} with {found.get('bits')} bits")
    if method not in ("fp8", "awq", "gptq", "fp4", "mxfp4", "int4"):
        raise NotKnownError(f"the quantization {method[:40]!r}")
    return Quantization(method=method, experts_only=method == "mxfp4" or _only_experts(found))


def _compressed(found: Config) -> str:
    groups = found.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return "compressed-tensors"
    kept = (weights.get("num_bits"), weights.get("type"))
    return next((name for how, name in _COMPRESSED if how == kept), "compressed-tensors")


def _only_experts(found: Config) -> bool:
    """Whether all but experts is left as it was (Kimi-K2-Thinking)."""
    ignored = found.get("ignore") or found.get("modules_to_not_convert") or ()
    return any("self_attn" in str(name) for name in ignored)


def _heads(text: Config, *, gated: bool = False) -> Heads:
    heads = _positive(text, "num_attention_heads")
    dim = _given(text, "head_dim") or _positive(text, "hidden_size") // heads
    return Heads(
        heads=heads,
        kv_heads=_positive(text, "num_key_value_heads", heads),
        head_dim=dim,
        v_head_dim=_given(text, "v_head_dim") or dim,
        gated=gated,
    )


def _rotary(text: Config, dim: int) -> int:
    rope = text.get("rope_parameters") or {}
    part = text.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1
    if not 0 < part <= 1:
        raise ValueError(f"partial_rotary_factor is {str(part)[:40]}")
    return int(dim * part)


# --- families


def _dense(architecture: str, config: Config, text: Config) -> Shape:
    heads = _heads(text)
    return Shape(
        **_common(architecture, config, text),
        intermediate=_positive(text, "intermediate_size"),
        attention=heads,
        rotary_dim=_rotary(text, heads.head_dim),
        tower=towers.of(architecture, config),
    )


def _moe(architecture: str, config: Config, text: Config) -> Shape:
    heads = _heads(text)
    layers = _layers(text)
    return Shape(
        **_common(architecture, config, text),
        intermediate=_whole(text, "intermediate_size", 0),
        attention=heads,
        rotary_dim=_rotary(text, heads.head_dim),
        experts=_experts(text, _sparse_layers(text, layers)),
        tower=towers.of(architecture, config),
    )


def _sparse_layers(text: Config, layers: int) -> int:
    """Layers with experts: all but the first dense ones, or every so many."""
    if "first_k_dense_replace" in text:
        every = _positive(text, "moe_layer_freq", 1)
        first = _whole(text, "first_k_dense_replace")
        return sum(1 for i in range(first, layers) if i % every == 0)
    step = _positive(text, "decoder_sparse_step", 1)
    dense = set(text.get("mlp_only_layers") or ())
    return sum(1 for i in range(layers) if i not in dense and (i + 1) % step == 0)


def _experts(text: Config, layers: int) -> Experts:
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    number = next((_positive(text, name) for name in names if text.get(name) is not None), 0)
    if not number:
        raise KeyError("num_experts")
    size = _given(text, "moe_intermediate_size") or _positive(text, "intermediate_size")
    shared = _given(text, "shared_expert_intermediate_size")
    has_gate = text.get("shared_expert_intermediate_size") is not None
    if not has_gate:
        shared = _given(text, "n_shared_experts") * size
    return Experts(
        layers=layers,
        number=number,
        active=_positive(text, "num_experts_per_tok"),
        intermediate=size,
        shared=shared,
        shared_gate=has_gate,
    )


def _latent(architecture: str, config: Config, text: Config) -> Shape:
    layers = _layers(text)
    sparse = architecture in _SPARSE and text.get("index_topk") is not None
    rope = _positive(text, "qk_rope_head_dim")
    has_experts = text.get("n_routed_experts") is not None
    return Shape(
        **_common(architecture, config, text),
        intermediate=_positive(text, "intermediate_size"),
        attention=Latent(
            heads=_positive(text, "num_attention_heads"),
            q_rank=_whole(text, "q_lora_rank", 0),
            kv_rank=_positive(text, "kv_lora_rank"),
            nope_dim=_positive(text, "qk_nope_head_dim"),
            rope_dim=rope,
            v_head_dim=_positive(text, "v_head_dim"),
            index_heads=_positive(text, "index_n_heads") if sparse else 0,
            index_dim=_positive(text, "index_head_dim") if sparse else 0,
        ),
        rotary_dim=rope,
        experts=_experts(text, _sparse_layers(text, layers)) if has_experts else None,
    )


def _gated_delta(architecture: str, config: Config, text: Config) -> Shape:
    heads = _heads(text, gated=text.get("attn_output_gate", True) is not False)
    layers = _layers(text)
    linear = _linear_layers(text, layers)
    has_experts = text.get("num_experts") is not None
    return Shape(
        **_common(architecture, config, text),
        intermediate=_whole(text, "intermediate_size", 0),
        attention=heads,
        rotary_dim=_rotary(text, heads.head_dim),
        linear=Linear(
            layers=linear,
            key_heads=_positive(text, "linear_num_key_heads"),
            value_heads=_positive(text, "linear_num_value_heads"),
            key_dim=_positive(text, "linear_key_head_dim"),
            value_dim=_positive(text, "linear_value_head_dim"),
            kernel=_positive(text, "linear_conv_kernel_dim"),
            state_bytes=_DTYPES.get(str(text.get("mamba_ssm_dtype", "float32")), 4),
        ),
        experts=_experts(text, _sparse_layers(text, layers)) if has_experts else None,
        tower=towers.of(architecture, config),
    )


def _linear_layers(text: Config, layers: int) -> int:
    types = text.get("layer_types")
    if types:
        return sum(1 for kind in types[:layers] if kind == "linear_attention")
    return layers - layers // _positive(text, "full_attention_interval", 4)


def _gpt_oss(architecture: str, config: Config, text: Config) -> Shape:
    heads = _heads(text)
    layers = _layers(text)
    sliding = sum(1 for kind in text["layer_types"][:layers] if kind == "sliding_attention")
    return Shape(
        **_common(architecture, config, text),
        intermediate=0,
        attention=heads,
        rotary_dim=heads.head_dim,
        window=Window(
            layers=sliding,
            size=_positive(text, "sliding_window"),
            kv_heads=heads.kv_heads,
            head_dim=heads.head_dim,
            v_head_dim=heads.v_head_dim,
        ),
        experts=Experts(
            layers=layers,
            number=_positive(text, "num_local_experts"),
            active=_positive(text, "num_experts_per_tok"),
            intermediate=_positive(text, "intermediate_size"),
            shared=0,
            bias=True,
        ),
    )


Family = Callable[[str, Config, Config], Shape]
_FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _dense,
    "MistralForCausalLM": _dense,
    "Qwen2ForCausalLM": _dense,
    "Qwen3ForCausalLM": _dense,
    "Glm4ForCausalLM": _dense,
    "MiMoForCausalLM": _dense,
    "Qwen2_5_VLForConditionalGeneration": _dense,
    "Qwen3VLForConditionalGeneration": _dense,
    "MixtralForCausalLM": _moe,
    "Qwen2MoeForCausalLM": _moe,
    "Qwen3MoeForCausalLM": _moe,
    "Glm4MoeForCausalLM": _moe,
    "MiniMaxM2ForCausalLM": _moe,
    "Qwen3VLMoeForConditionalGeneration": _moe,
    "DeepseekV2ForCausalLM": _latent,
    "DeepseekV3ForCausalLM": _latent,
    "DeepseekV32ForCausalLM": _latent,
    "Glm4MoeLiteForCausalLM": _latent,
    "GlmMoeDsaForCausalLM": _latent,
    "Qwen3NextForCausalLM": _gated_delta,
    "Qwen3_5ForConditionalGeneration": _gated_delta,
    "Qwen3_5MoeForConditionalGeneration": _gated_delta,
    "GptOssForCausalLM": _gpt_oss,
}
