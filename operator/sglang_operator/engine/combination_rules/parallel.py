"""Rules about how an engine is spread over its GPUs."""

from sglang_operator.engine.combination_rules.base import (
    Settings,
    alone,
    is_on,
    number,
    rule,
    size,
    spreads_attention,
    together,
)

_NO_TRANSPORT = ("none", None)  # of moe_a2a_backend; the others set ep_size themselves


def _indivisible(s: Settings, whole: str, part: str) -> bool:
    """Whether the one is no multiple of the other, both being known."""
    return bool(size(s, whole) and size(s, part)) and size(s, whole) % size(s, part) != 0


def _experts(s: Settings) -> int:
    """ep_size, where nothing else decides it; 0: not to be told."""
    return size(s, "ep_size") if s["moe_a2a_backend"] in _NO_TRANSPORT else 0


def _multiples(one: int, other: int) -> bool:
    return max(one, other) % min(one, other) == 0


RULES = {
    "dp-attention-tp": rule(
        "dp_size tp_size enable_dp_attention",
        lambda s: spreads_attention(s) and _indivisible(s, "tp_size", "dp_size"),
        "a divisor of tp_size with enable_dp_attention, whose copies share its GPUs",
        "lower it, or raise tp_size",
    ),
    "dp-lm-head": rule(
        "enable_dp_lm_head enable_dp_attention dp_size attn_dp_size dwdp_size",
        lambda s: (
            is_on(s, "enable_dp_lm_head")
            and not is_on(s, "enable_dp_attention")
            and (number(s["dp_size"]) or 1) > 1
            and (number(s["attn_dp_size"]) or 1) == 1
        ),
        "enable_dp_attention: true beside it",
        "remove it",
    ),
    "dense-tp": rule(
        "moe_dense_tp_size",
        lambda s: number(s["moe_dense_tp_size"]) not in (None, 1),
        "1 or nothing",
        "remove it",
    ),
    "dense-tp-or-all": rule(
        "moe_dense_tp_size tp_size",
        lambda s: number(s["moe_dense_tp_size"]) not in (None, 1, size(s, "tp_size")),
        "1, tp_size or nothing",
        "remove it",
    ),
    "eplb-without-experts": rule(
        "enable_eplb ep_size moe_a2a_backend",
        lambda s: is_on(s, "enable_eplb") and _experts(s) == 1,
        "ep_size above 1 beside it: it moves experts between GPUs",
        "raise ep_size, or remove it",
    ),
    "two-batch-overlap": rule(
        "enable_two_batch_overlap moe_a2a_backend enable_dp_attention attn_dp_size",
        lambda s: (
            is_on(s, "enable_two_batch_overlap")
            and s["moe_a2a_backend"] == "none"
            and not is_on(s, "enable_dp_attention")
            and size(s, "attn_dp_size") == 1
        ),
        "a moe_a2a_backend beside it, such as deepep",
        "write moe_a2a_backend, or remove it",
    ),
    "two-batch-overlap-dp": rule(
        "enable_two_batch_overlap moe_a2a_backend enable_dp_attention",
        lambda s: (
            is_on(s, "enable_two_batch_overlap", "enable_dp_attention")
            and s["moe_a2a_backend"] == "none"
        ),
        "a moe_a2a_backend beside it, such as deepep",
        "write moe_a2a_backend, or remove it",
    ),
    "cutlass-moe-experts": rule(
        "ep_size moe_runner_backend tp_size moe_a2a_backend",
        lambda s: (
            s["moe_runner_backend"] == "flashinfer_cutlass"
            and _experts(s) not in (0, 1, size(s, "tp_size"))
        ),
        "1 or tp_size with moe_runner_backend: flashinfer_cutlass",
        "correct it",
    ),
    "cutlass-fp8-experts": rule(
        "ep_size moe_runner_backend quantization moe_a2a_backend",
        lambda s: (
            s["moe_runner_backend"] == "cutlass"
            and s["quantization"] in ("fp8", "mxfp8")
            and _experts(s) > 1
        ),
        "1 with moe_runner_backend: cutlass and quantization: fp8",
        "remove it, or use another moe_runner_backend",
    ),
    "contexts-tp": rule(
        "attn_cp_size tp_size",
        lambda s: _indivisible(s, "tp_size", "attn_cp_size"),
        "a divisor of tp_size",
        "correct it",
    ),
    "contexts-dp-tp": rule(
        "attn_cp_size dp_size tp_size enable_dp_attention",
        lambda s: (
            spreads_attention(s)
            and size(s, "attn_cp_size") > 1
            and size(s, "tp_size") % (size(s, "attn_cp_size") * size(s, "dp_size")) != 0
        ),
        "such that attn_cp_size times dp_size divides tp_size",
        "lower one of them",
    ),
    "expert-copies-tp": rule(
        "moe_dp_size tp_size",
        lambda s: _indivisible(s, "tp_size", "moe_dp_size"),
        "a divisor of tp_size",
        "correct it",
    ),
    "expert-copies-ep": rule(
        "moe_dp_size ep_size tp_size moe_a2a_backend",
        lambda s: (
            size(s, "moe_dp_size") > 1
            and _experts(s) > 1
            and _experts(s) * size(s, "moe_dp_size") != size(s, "tp_size")
        ),
        "such that moe_dp_size times ep_size is tp_size",
        "correct one of them",
    ),
    "expert-copies-contexts": rule(
        "moe_dp_size attn_cp_size",
        lambda s: size(s, "moe_dp_size") > 1 and size(s, "attn_cp_size") != size(s, "moe_dp_size"),
        "1, or attn_cp_size",
        "correct it, or attn_cp_size",
    ),
    "attention-copies-tp": rule(
        "attn_dp_size tp_size",
        lambda s: _indivisible(s, "tp_size", "attn_dp_size"),
        "a divisor of tp_size",
        "correct it",
    ),
    "flashinfer-transport": rule(
        "moe_a2a_backend enable_dp_attention dp_size attn_dp_size",
        lambda s: (
            s["moe_a2a_backend"] == "flashinfer"
            and not spreads_attention(s)
            and size(s, "attn_dp_size") == 1
        ),
        "enable_dp_attention with dp_size: tp_size beside flashinfer",
        "write both, or use another moe_a2a_backend",
    ),
    "weights-spread-tp": rule(
        "dwdp_size tp_size",
        lambda s: size(s, "dwdp_size") > 1 and size(s, "dwdp_size") != size(s, "tp_size"),
        "tp_size",
        "correct it",
    ),
    "decode-tp": rule(
        "disaggregation_decode_tp disaggregation_mode",
        lambda s: (
            s["disaggregation_mode"] == "decode" and s["disaggregation_decode_tp"] is not None
        ),
        "it for disaggregation_mode: prefill alone",
        "remove it",
    ),
    "decode-dp": rule(
        "disaggregation_decode_dp disaggregation_mode",
        lambda s: (
            s["disaggregation_mode"] == "decode" and s["disaggregation_decode_dp"] is not None
        ),
        "it for disaggregation_mode: prefill alone",
        "remove it",
    ),
    "decode-tp-multiple": rule(
        "disaggregation_decode_tp tp_size disaggregation_mode",
        lambda s: (
            s["disaggregation_mode"] == "prefill"
            and s["disaggregation_decode_tp"] is not None
            and size(s, "disaggregation_decode_tp") > 0 < size(s, "tp_size")
            and not _multiples(size(s, "disaggregation_decode_tp"), size(s, "tp_size"))
        ),
        "a multiple or a divisor of tp_size",
        "correct it",
    ),
    "pp-speculative": rule(
        "speculative_algorithm pp_size",
        lambda s: size(s, "pp_size") > 1 and s["speculative_algorithm"] is not None,
        "no speculative decoding with pipeline parallelism",
        "remove speculative_algorithm, or pp_size",
    ),
    "pp-mixed-chunk": rule(
        "enable_mixed_chunk pp_size",
        lambda s: size(s, "pp_size") > 1 and is_on(s, "enable_mixed_chunk"),
        "no mixed chunks with pipeline parallelism",
        "remove it, or pp_size",
    ),
    "pdmux-pp": rule(
        "enable_pdmux pp_size",
        lambda s: is_on(s, "enable_pdmux") and size(s, "pp_size") > 1,
        "no pipeline parallelism with it",
        "remove it, or pp_size",
    ),
    "pdmux-chunks": rule(
        "enable_pdmux chunked_prefill_size",
        lambda s: is_on(s, "enable_pdmux") and s["chunked_prefill_size"] != -1,
        "chunked_prefill_size: -1 beside it",
        "write that, or remove it",
    ),
    "pdmux-disaggregated": rule(
        "enable_pdmux disaggregation_mode",
        lambda s: is_on(s, "enable_pdmux") and s["disaggregation_mode"] in ("prefill", "decode"),
        "no disaggregation_mode with it",
        "remove one of the two",
    ),
    "pdmux-overlap": rule(
        "enable_pdmux disable_overlap_schedule",
        alone("enable_pdmux", "disable_overlap_schedule"),
        "disable_overlap_schedule: true beside it",
        "write that, or remove it",
    ),
    "encoder-and-language": rule(
        "encoder_only language_only",
        together("encoder_only", "language_only"),
        "one of encoder_only and language_only",
        "remove one",
    ),
    "encoder-disaggregated": rule(
        "encoder_only disaggregation_mode",
        lambda s: is_on(s, "encoder_only") and s["disaggregation_mode"] in ("prefill", "decode"),
        "no disaggregation_mode with encoder_only",
        "remove one of the two",
    ),
    "language-without-encoders": rule(
        "language_only encoder_urls",
        alone("language_only", "encoder_urls"),
        "encoder_urls beside it, which make the embeddings",
        "write encoder_urls, or remove it",
    ),
}
