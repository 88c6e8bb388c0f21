"""Which rules of ``engine.combinations`` a version has, and where: by breaking them.

Each rule has arguments that break it and others that just hold.  A version has the rule if its own
check refuses the first at one place on every ground, and takes the second on every ground.
"""

from typing import Any

from tests.schema import checks
from tests.schema.sglang import SGLang

_LORA = {"enable_lora": True, "max_lora_rank": 16, "lora_target_modules": ["q_proj"]}
_EAGLE = {"speculative_algorithm": "EAGLE", "attention_backend": "triton"}
_DRAFTS = {"speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4}
_SPLIT = {"disaggregation_mode": "decode", "disaggregation_transfer_backend": "nixl"}
BASE: dict[str, Any] = {"mem_fraction_static": 0.7, "skip_tokenizer_init": True, "tp_size": 2}

Fields = dict[str, Any]
EXAMPLES: dict[str, tuple[Fields, Fields]] = {
    "loras-per-batch": ({**_LORA, "max_loras_per_batch": 0}, {**_LORA, "max_loras_per_batch": 1}),
    "hierarchical-without-radix": (
        {"enable_hierarchical_cache": True, "disable_radix_cache": True},
        {"enable_hierarchical_cache": True},
    ),
    "tokenizer-workers": (
        {"tokenizer_worker_num": 0, "skip_tokenizer_init": False},
        {"tokenizer_worker_num": 1, "skip_tokenizer_init": False},
    ),
    "conservativeness": ({"schedule_conservativeness": -0.1}, {"schedule_conservativeness": 0.0}),
    "swa-ratio": ({"swa_full_tokens_ratio": 1.1}, {"swa_full_tokens_ratio": 1.0}),
    "metrics-file": (
        {"export_metrics_to_file": True},
        {"export_metrics_to_file": True, "export_metrics_to_file_dir": "/m"},
    ),
    "lora-shape": ({"enable_lora": True, "max_lora_rank": 16}, _LORA),
    "loaded-loras": (
        {**_LORA, "max_loaded_loras": 1, "max_loras_per_batch": 2},
        {**_LORA, "max_loaded_loras": 2, "max_loras_per_batch": 2},
    ),
    "lora-all-modules": (
        {**_LORA, "lora_target_modules": ["all", "q_proj"]},
        {**_LORA, "lora_target_modules": ["all"]},
    ),
    "lora-speculative": ({**_LORA, **_EAGLE, **_DRAFTS, "speculative_num_steps": 3}, _LORA),
    "priority-policy": (
        {"enable_priority_scheduling": True, "schedule_policy": "lpm"},
        {"enable_priority_scheduling": True, "schedule_policy": "lof"},
    ),
    "decode-tp": ({**_SPLIT, "disaggregation_decode_tp": 2}, _SPLIT),
    "decode-dp": ({**_SPLIT, "disaggregation_decode_dp": 2}, _SPLIT),
    "prefix-mm-cache": (
        {"enable_prefix_mm_cache": True},
        {"enable_prefix_mm_cache": True, "encoder_only": True},
    ),
    "encoder-and-language": (
        {"encoder_only": True, "language_only": True, "encoder_urls": ["http://x"]},
        {"encoder_only": True},
    ),
    "encoder-disaggregated": ({"encoder_only": True, **_SPLIT}, {"encoder_only": True}),
    "two-tokenizer-batches": (
        {"enable_tokenizer_batch_encode": True, "enable_dynamic_batch_tokenizer": True},
        {"enable_tokenizer_batch_encode": True},
    ),
    "offload-kv": (
        {"disaggregation_decode_enable_offload_kvcache": True},
        {"disaggregation_decode_enable_offload_kvcache": True, **_SPLIT},
    ),
    "dp-lm-head": (
        {"enable_dp_lm_head": True, "dp_size": 2},
        {"enable_dp_lm_head": True, "dp_size": 2, "enable_dp_attention": True},
    ),
    "dense-tp": ({"moe_dense_tp_size": 2}, {"moe_dense_tp_size": 1}),
    "model-name-colon": ({"served_model_name": "a:b"}, {"served_model_name": "a-b"}),
    "modalities": (
        {"limit_mm_data_per_request": {"text": 1}},
        {"limit_mm_data_per_request": {"image": 1}},
    ),
    "draft-steps": (
        {**_EAGLE, **_DRAFTS, "speculative_draft_model_path": "x/d"},
        {
            **_EAGLE,
            **_DRAFTS,
            "speculative_num_steps": 3,
            "speculative_draft_model_path": "x/d",
        },
    ),
    "deterministic-attention": (
        {"enable_deterministic_inference": True, "attention_backend": "torch_native"},
        {"enable_deterministic_inference": True, "attention_backend": "triton"},
    ),
    "flex-speculative": (
        {"attention_backend": "flex_attention", "speculative_algorithm": "NGRAM"},
        {"attention_backend": "triton", "speculative_algorithm": "NGRAM"},
    ),
    "fa4-decode": (
        {"decode_attention_backend": "fa4"},
        {"decode_attention_backend": "triton"},
    ),
}


def places(sglang: SGLang) -> dict[str, str]:
    """The rules of a version with their places in its source."""
    found = {name: _place(sglang, *EXAMPLES[name]) for name in EXAMPLES}
    return {name: place for name, place in found.items() if place}


def _place(sglang: SGLang, breaks: Fields, holds: Fields) -> str:
    if not {*breaks, *holds} <= set(sglang.names):
        return ""
    refusals = {verdict(sglang, breaks, ground) for ground in checks.GROUNDS}
    accepted = [verdict(sglang, holds, ground).place == "" for ground in checks.GROUNDS]
    if len(refusals) != 1 or not all(accepted):
        return ""
    (refusal,) = refusals
    return refusal.place.removeprefix("sglang.srt.") if refusal.is_judgement else ""


def verdict(sglang: SGLang, fields: Fields, ground: checks.Ground) -> checks.Verdict:
    """What a version says of these fields beside the usual ones."""
    return checks.judge(sglang, {**BASE, **fields}, ground)
