"""Arguments that break each rule of ``engine.combinations``, and others that just hold."""

from typing import Any

from generators.schema.sglang import SGLang
from sglang_operator.engine.combination_rules import terms

Fields = dict[str, Any]
_LORA: Fields = {"enable_lora": True, "max_lora_rank": 16, "lora_target_modules": ["q_proj"]}
_EAGLE: Fields = {"speculative_algorithm": "EAGLE", "attention_backend": "triton"}
_DRAFTS: Fields = {"speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4}
_TREE: Fields = {**_EAGLE, "speculative_num_steps": 3, "speculative_num_draft_tokens": 8}
_TREE |= {"speculative_eagle_topk": 1, "speculative_draft_model_path": "x/d"}
_COPIES: Fields = {"enable_dp_attention": True, "dp_size": 2}
_MUX: Fields = {"enable_pdmux": True, "chunked_prefill_size": -1, "disable_overlap_schedule": True}
_SCORING: Fields = {"multi_item_scoring_delimiter": 5, "disable_radix_cache": True}
_SPLIT: Fields = {"disaggregation_mode": "decode", "disaggregation_transfer_backend": "nixl"}
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
        {
            **_SPLIT,
            "disaggregation_decode_enable_offload_kvcache": True,
            "hicache_storage_backend": "file",
        },
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
    "dp-attention-tp": (
        {"enable_dp_attention": True, "tp_size": 4, "dp_size": 3},
        {"enable_dp_attention": True, "tp_size": 4, "dp_size": 2},
    ),
    "dense-tp-or-all": ({"moe_dense_tp_size": 4}, {"moe_dense_tp_size": 2}),
    "eplb-without-experts": ({"enable_eplb": True}, {"enable_eplb": True, "ep_size": 2}),
    "two-batch-overlap": (
        {"enable_two_batch_overlap": True},
        {"enable_two_batch_overlap": True, "moe_a2a_backend": "deepep"},
    ),
    "cutlass-moe-experts": (
        {"moe_runner_backend": "flashinfer_cutlass", "tp_size": 4, "ep_size": 2},
        {"moe_runner_backend": "flashinfer_cutlass", "tp_size": 4, "ep_size": 4},
    ),
    "cutlass-fp8-experts": (
        {"moe_runner_backend": "cutlass", "quantization": "fp8", "ep_size": 2},
        {"moe_runner_backend": "cutlass", "quantization": "fp8"},
    ),
    "decode-tp-multiple": (
        {**_SPLIT, "disaggregation_mode": "prefill", "disaggregation_decode_tp": 3},
        {**_SPLIT, "disaggregation_mode": "prefill", "disaggregation_decode_tp": 4},
    ),
    "pp-speculative": (
        {**_TREE, "pp_size": 2, "disable_overlap_schedule": True},
        {"pp_size": 2, "disable_overlap_schedule": True},
    ),
    "pp-mixed-chunk": (
        {"pp_size": 2, "enable_mixed_chunk": True, "disable_overlap_schedule": True},
        {"pp_size": 2, "disable_overlap_schedule": True},
    ),
    "pdmux-pp": ({**_MUX, "pp_size": 2}, _MUX),
    "pdmux-chunks": ({**_MUX, "chunked_prefill_size": 4096}, _MUX),
    "pdmux-disaggregated": ({**_MUX, **_SPLIT, "disaggregation_mode": "prefill"}, _MUX),
    "pdmux-overlap": ({**_MUX, "disable_overlap_schedule": False}, _MUX),
    "language-without-encoders": (
        {"language_only": True},
        {"language_only": True, "encoder_urls": ["http://x"]},
    ),
    "lora-count": (
        {**_LORA, "lora_paths": ["/a", "/b"], "max_loaded_loras": 1, "max_loras_per_batch": 1},
        {**_LORA, "lora_paths": ["/a"], "max_loaded_loras": 1, "max_loras_per_batch": 1},
    ),
    "speculative-trtllm-moe": (
        {"speculative_moe_runner_backend": "flashinfer_trtllm"},
        {"speculative_moe_runner_backend": "triton"},
    ),
    "standalone-dp": (
        {**_TREE, **_COPIES, "speculative_algorithm": "STANDALONE"},
        {**_TREE, "speculative_algorithm": "STANDALONE"},
    ),
    "ngram-dp": (
        {**_COPIES, "speculative_algorithm": "NGRAM"},
        {"speculative_algorithm": "NGRAM"},
    ),
    "branches-trtllm": (
        {**_TREE, "speculative_eagle_topk": 2, "attention_backend": "trtllm_mha"},
        {**_TREE, "speculative_eagle_topk": 2},
    ),
    "branches-paged": (
        {**_TREE, "speculative_eagle_topk": 2, "page_size": 16, "attention_backend": "aiter"},
        {**_TREE, "speculative_eagle_topk": 2, "page_size": 1},
    ),
    "ngram-paged": (
        {"speculative_algorithm": "NGRAM", "page_size": 16, "attention_backend": "triton"},
        {"speculative_algorithm": "NGRAM", "page_size": 16, "attention_backend": "flashinfer"},
    ),
    "fa4-everywhere": ({"attention_backend": "fa4"}, {"attention_backend": "triton"}),
    "trtllm-mla-cache": (
        {"decode_attention_backend": "trtllm_mla", "kv_cache_dtype": "fp8_e5m2"},
        {"attention_backend": "triton", "kv_cache_dtype": "fp8_e5m2"},
    ),
    "fp4-cache": (
        {"kv_cache_dtype": "fp4_e2m1", "attention_backend": "fa3"},
        {"attention_backend": "fa3"},
    ),
    "cutlass-moe-quantization": (
        {"moe_runner_backend": "flashinfer_cutlass", "quantization": "awq"},
        {"moe_runner_backend": "flashinfer_cutlass"},
    ),
    "trtllm-moe-quantization": (
        {"moe_runner_backend": "flashinfer_trtllm", "quantization": "awq"},
        {"moe_runner_backend": "flashinfer_trtllm", "quantization": "fp8"},
    ),
    "chunk-pages": (
        {"chunked_prefill_size": 100, "page_size": 16},
        {"chunked_prefill_size": 128, "page_size": 16},
    ),
    "scoring-cache": (
        {**_SCORING, "disable_radix_cache": False, "chunked_prefill_size": -1},
        {**_SCORING, "chunked_prefill_size": -1},
    ),
    "scoring-chunks": (_SCORING, {**_SCORING, "chunked_prefill_size": -1}),
    "prompt-buckets": (
        {"prompt_tokens_buckets": ["tse", "1000", "1", "8"]},
        {"prompt_tokens_buckets": ["tse", "1000", "2", "8"]},
    ),
    "generation-buckets": (
        {"generation_tokens_buckets": ["custom", "8", "8"]},
        {"generation_tokens_buckets": ["custom", "8", "9"]},
    ),
    "two-batch-overlap-dp": (
        {**_COPIES, "enable_two_batch_overlap": True},
        {**_COPIES, "enable_two_batch_overlap": True, "moe_a2a_backend": "deepep"},
    ),
    "trtllm-routed-quantization": (
        {"moe_runner_backend": "flashinfer_trtllm_routed", "quantization": "awq"},
        {"moe_runner_backend": "flashinfer_trtllm_routed", "quantization": "fp8"},
    ),
    "contexts-tp": ({"attn_cp_size": 3, "tp_size": 4}, {"attn_cp_size": 2, "tp_size": 4}),
    "contexts-dp-tp": (
        {**_COPIES, "attn_cp_size": 4, "tp_size": 4},
        {**_COPIES, "attn_cp_size": 2, "tp_size": 4},
    ),
    "expert-copies-tp": ({"moe_dp_size": 3, "tp_size": 4}, {"moe_dp_size": 2, "tp_size": 4}),
    "expert-copies-ep": (
        {"moe_dp_size": 2, "attn_cp_size": 2, "ep_size": 2, "tp_size": 8},
        {"moe_dp_size": 2, "attn_cp_size": 2, "ep_size": 4, "tp_size": 8},
    ),
    "expert-copies-contexts": (
        {"moe_dp_size": 2, "tp_size": 4},
        {"moe_dp_size": 2, "attn_cp_size": 2, "tp_size": 4},
    ),
    "attention-copies-tp": ({"attn_dp_size": 3, "tp_size": 4}, {"attn_dp_size": 2, "tp_size": 4}),
    "flashinfer-transport": (
        {"moe_a2a_backend": "flashinfer", "moe_runner_backend": "flashinfer_cutlass"},
        {**_COPIES, "moe_a2a_backend": "flashinfer", "moe_runner_backend": "flashinfer_cutlass"},
    ),
    "weights-spread-tp": ({"dwdp_size": 2, "tp_size": 4}, {"dwdp_size": 4, "tp_size": 4}),
    "priority-two-policies": (
        {"enable_priority_scheduling": True, "schedule_policy": "routing-key"},
        {"enable_priority_scheduling": True, "schedule_policy": "lof"},
    ),
    "collector-thresholds": ({"gc_threshold": [1, 2, 3, 4]}, {"gc_threshold": [1, 2, 3]}),
}

# What an example of a rule in terms needs beside them.
_BESIDE: dict[str, Fields] = {
    "lora_drain_wait_threshold<0 enable_lora": _LORA,
    "enable_lora_overlap_loading !max_loaded_loras enable_lora": _LORA,
}
_BESIDE_FIRST: dict[str, Fields] = {
    "enable_kv_cache_sharding": {"disaggregation_mode": "prefill"},
    "prefill_only_disable_kv_cache": {
        "is_embedding": True,
        "chunked_prefill_size": -1,
        "disable_radix_cache": True,
    },
    "enable_return_aux_hidden_states": {"speculative_algorithm": "EAGLE3"},
    "speculative_algorithm=DFLASH": {"speculative_draft_model_path": "x"},
    "speculative_dflash_block_size<1": {"speculative_draft_model_path": "x"},
    "prefill_kv_cache_dequant_dtype!=auto": {"kv_cache_dtype": "fp8_e4m3"},
}

_SETTING: Fields = {
    "radix_eviction_policy_config": {"threshold": 8},
    "kv_events_config": '{"publisher": "zmq"}',
    "return_aux_hidden_state_layer_ids": [2],
    "sidecar_args": ["x"],
}


def of(sglang: SGLang, name: str) -> tuple[Fields, Fields]:
    """What breaks a rule, and what just holds; of one in terms, made from them."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    found = terms.parse(name)
    breaks = meeting(sglang, name)
    beside = _BESIDE.get(name) or _BESIDE_FIRST.get(name.split()[0], {})
    beside = {key: value for key, value in beside.items() if key not in {t.field for t in found}}
    last = found[0] if len(found) == 1 or "<" in found[0].sign else found[1]
    holds = {key: value for key, value in breaks.items() if key != last.field}
    return {**beside, **breaks}, {**beside, **holds, **_missing(sglang, last)}


def meeting(sglang: SGLang, name: str) -> Fields:
    """What breaks a rule in terms, and no more; it is refused somewhere, if not there."""
    found: Fields = {}
    for term in terms.parse(name) if name not in EXAMPLES else ():
        found |= _meeting(sglang, term)
    return found


def _meeting(sglang: SGLang, term: terms.Term) -> Fields:
    match term.sign:
        case "":
            return {term.field: _some(sglang, term.field)}
        case "=":
            return {term.field: term.values[0]}
        case "<" | "<=":
            return {term.field: int(term.values[0]) - 1}
        case ">":
            return {term.field: int(term.values[0]) + 1}
        case "!" if term.field == "skip_tokenizer_init":
            return {term.field: False}  # of the usual fields, where it is set
        case "!=" if sglang.defaults.get(term.field) in term.values:
            action = sglang.action(term.field)
            choices = action.choices if action and action.choices else ("x",)
            return {term.field: next(x for x in choices if x not in term.values)}
    return {}


def _missing(sglang: SGLang, term: terms.Term) -> Fields:
    """What does not meet a term; nothing, if no word does."""
    match term.sign:
        case "!":
            return {term.field: _some(sglang, term.field)}
        case "!=":
            return {term.field: term.values[0]}
        case "<":
            return {term.field: int(term.values[0])}
        case "<=":
            return {term.field: int(term.values[0]) + 1}
    return {}


def _some(sglang: SGLang, field: str) -> Any:
    """A value that sets a field."""
    action = sglang.action(field)
    if field in _SETTING:
        return _SETTING[field]
    if action is None or action.nargs == 0:
        return True
    if action.choices:
        return next(choice for choice in action.choices if choice not in ("none", "auto"))
    return 2 if action.type is int else "x"
