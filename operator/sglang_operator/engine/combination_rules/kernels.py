"""Rules about attention, the kernels of experts and what they compute with."""

from collections.abc import Sequence

from sglang_operator.engine.combination_rules.base import (
    Condition,
    Settings,
    attends_with,
    is_on,
    rule,
)

_DETERMINISTIC = ("flashinfer", "fa3", "fa4", "triton", "ascend", "aiter", "intel_xpu")
_FP4_CACHE = (
    *("cutlass_mla", "flashinfer", "trtllm_mla", "flashmla"),
    *("triton", "torch_native", "flex_attention", "trtllm_mha", "fa4"),
)


def _quantized(runner: str, taken: Sequence[str]) -> Condition:
    """A runner of experts with a quantization that it cannot compute."""
    return lambda s: s["moe_runner_backend"] == runner and s["quantization"] not in (*taken, None)


def _chosen(s: Settings) -> bool:
    """Whether one attention is chosen, for both phases."""
    phases = (s["prefill_attention_backend"], s["decode_attention_backend"])
    return s["attention_backend"] is not None and phases == (None, None)


RULES = {
    "deterministic-attention": rule(
        "attention_backend enable_deterministic_inference rl_on_policy_target",
        lambda s: (
            (is_on(s, "enable_deterministic_inference") or bool(s["rl_on_policy_target"]))
            and s["attention_backend"] not in (*_DETERMINISTIC, None)
        ),
        "flashinfer, fa3 or triton with deterministic inference",
        "use one of these",
    ),
    "fa4-decode": rule(
        "decode_attention_backend prefill_attention_backend",
        lambda s: s["decode_attention_backend"] == "fa4" != s["prefill_attention_backend"],
        "fa4 for prefill alone",
        "write prefill_attention_backend: fa4 instead",
    ),
    "fa4-everywhere": rule(
        "attention_backend",
        lambda s: s["attention_backend"] == "fa4",
        "fa4 for prefill alone",
        "write prefill_attention_backend: fa4 instead",
    ),
    "trtllm-mla-cache": rule(
        "kv_cache_dtype attention_backend decode_attention_backend",
        lambda s: (
            attends_with(s, "trtllm_mla", phases="decode")
            and s["kv_cache_dtype"] not in ("fp8_e4m3", "fp4_e2m1", "bf16", "bfloat16", "auto")
        ),
        "fp8_e4m3, fp4_e2m1, bf16 or auto with trtllm_mla",
        "use one of these",
    ),
    "fp4-cache": rule(
        "attention_backend kv_cache_dtype",
        lambda s: (
            s["kv_cache_dtype"] == "fp4_e2m1"
            and _chosen(s)
            and s["attention_backend"] not in _FP4_CACHE
        ),
        "one with kv_cache_dtype: fp4_e2m1 that can read it, such as flashinfer or trtllm_mha",
        "remove it, or use another kv_cache_dtype",
    ),
    "cutlass-moe-quantization": rule(
        "quantization moe_runner_backend",
        _quantized("flashinfer_cutlass", ("modelopt_fp4", "modelopt_fp8", "modelopt_mixed")),
        "modelopt_fp4, modelopt_fp8 or none with moe_runner_backend: flashinfer_cutlass",
        "correct it, or use another moe_runner_backend",
    ),
    "trtllm-routed-quantization": rule(
        "quantization moe_runner_backend",
        _quantized(
            "flashinfer_trtllm_routed",
            (
                *("modelopt_fp4", "modelopt_fp8", "modelopt_mixed", "nvfp4_online"),
                *("fp8", "mxfp8", "mxfp4", "compressed-tensors"),
            ),
        ),
        "fp8, modelopt_fp4 or none with moe_runner_backend: flashinfer_trtllm_routed",
        "correct it, or use another moe_runner_backend",
    ),
    "trtllm-moe-quantization": rule(
        "quantization moe_runner_backend",
        _quantized(
            "flashinfer_trtllm",
            (
                *("modelopt_fp4", "modelopt_fp8", "modelopt_mixed", "nvfp4_online"),
                *("fp8", "mxfp8", "mxfp4", "compressed-tensors"),
            ),
        ),
        "modelopt_fp4, modelopt_fp8, fp8 or none with moe_runner_backend: flashinfer_trtllm",
        "correct it, or use another moe_runner_backend",
    ),
}
