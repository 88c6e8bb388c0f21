"""Rules in terms; each is named by its terms."""

from collections.abc import Iterator, Mapping

from sglang_operator.engine.combination_rules import terms
from sglang_operator.engine.combination_rules.base import Rule

# The first asks for the second, where a third holds.
_NEEDED = """
enable_prefill_cp cp_strategy
disaggregation_decode_enable_offload_kvcache hicache_storage_backend disaggregation_mode=decode
hicache_host_memory_mode=buffer_only hicache_storage_backend enable_hierarchical_cache
elastic_ep_rejoin elastic_ep_backend
ep_join_mode elastic_ep_backend
max_ep_size elastic_ep_backend
prefill_only_disable_kv_cache is_embedding
prefill_only_disable_kv_cache disable_radix_cache
sidecar_args sidecar
enable_page_major_kv_layout enable_unified_memory
return_aux_hidden_state_layer_ids enable_return_aux_hidden_states
enable_kv_cache_sharding disaggregation_mode=prefill
enable_quant_communications device=npu
retraction_policy=priority enable_priority_scheduling
kv_canary_sweep_interval>0 kv_canary=log|raise
disaggregation_decode_retraction_backup=host_pool disaggregation_mode=decode
dcp_comm_backend=a2a|fi_a2a dcp_size>1
dcp_replicate_q_proj dcp_size>1
speculative_skip_dp_mlp_sync speculative_algorithm=EAGLE|NEXTN
load_publish_endpoint kv_events_config
moe_runner_backend=flashinfer_cutedsl quantization=modelopt_fp4
prefill_kv_cache_dequant_dtype!=auto kv_cache_dtype=nvfp4
enable_lora_overlap_loading max_loaded_loras
speculative_algorithm=DFLASH speculative_draft_model_path
enable_return_aux_hidden_states speculative_algorithm=EAGLE3|DFLASH|DSPARK
"""

# These cannot be together, where a third holds.
_APART = """
enable_lmcache enable_hierarchical_cache
enable_lmcache disable_radix_cache
enable_lmcache enable_unified_cache_external_linker
enable_lmcache dcp_size>1
enable_lmcache enable_streaming_session
enable_lmcache disaggregation_mode=prefill|decode
enable_lmcache speculative_algorithm
enable_unified_cache_external_linker disable_radix_cache
enable_unified_cache_external_linker radix_cache_backend
enable_unified_cache_external_linker enable_hierarchical_cache
enable_unified_cache_external_linker hicache_storage_backend
enable_int8_mamba_checkpoint enable_hierarchical_cache
enable_int8_mamba_checkpoint radix_cache_backend
enable_linear_replayssm enable_linear_replayssm_spec
enable_linear_replayssm disaggregation_mode=prefill|decode
enable_linear_replayssm_spec disaggregation_mode=prefill
enable_prefill_context_parallel enable_dsa_prefill_context_parallel
enable_aiter_allreduce_fusion attn_cp_size>1
enable_aiter_allreduce_fusion moe_dp_size>1
moe_dp_size>1 pp_size>1
dcp_size>1 enable_prefill_cp
attn_dp_size>1 dp_size>1
elastic_ep_backend pp_size>1
disable_cuda_graph_padding enable_torch_compile
enable_hisparse prefill_only_disable_kv_cache
prefill_only_disable_kv_cache kv_cache_dtype=fp4_e2m1|nvfp4|fp4_mx_block16|mxfp8
prefill_only_disable_kv_cache attn_cp_size>1
prefill_only_disable_kv_cache enable_prefill_cp
enable_unified_memory enable_lmcache
enable_unified_memory enable_two_batch_overlap
enable_unified_memory enable_unified_cache_external_linker
enable_unified_memory speculative_algorithm=NGRAM|STANDALONE
enable_kv_cache_sharding enable_lmcache
enable_kv_cache_sharding enable_hisparse
enable_kv_cache_sharding enable_two_batch_overlap
enable_kv_cache_sharding enable_unified_memory
enable_kv_cache_sharding enable_unified_cache_external_linker
enable_kv_cache_sharding enable_streaming_session
enable_kv_cache_sharding enable_session_radix_cache
enable_kv_cache_sharding enable_flexkv
enable_kv_cache_sharding dcp_size>1
enable_kv_cache_sharding radix_cache_backend
dwdp_size>1 pp_size>1
dwdp_size>1 enable_eplb
dwdp_size>1 enable_two_batch_overlap
dwdp_size>1 speculative_algorithm
dwdp_size>1 disaggregation_mode=decode
enable_return_aux_hidden_states pp_size>1
enable_return_aux_hidden_states speculative_draft_model_path
mm_feature_transport=cuda_vmm pp_size>1
speculative_algorithm=DFLASH enable_dp_attention dp_size>1
speculative_use_rejection_sampling enable_deterministic_inference speculative_algorithm=EAGLE|EAGLE3
speculative_use_rejection_sampling enable_multi_layer_eagle speculative_algorithm=EAGLE|EAGLE3
speculative_use_rejection_sampling speculative_eagle_topk>1 speculative_algorithm=EAGLE|EAGLE3
speculative_use_rejection_sampling speculative_algorithm=STANDALONE
moe_a2a_backend=pplx deepep_mode=normal
disable_fast_image_processor image_processor_backend!=auto|pil
"""

# With the radix cache of an engine that only decodes.
_APART_FROM_DECODE_RADIX = """
enable_hisparse
disaggregation_transfer_backend=fake
speculative_algorithm=NGRAM|STANDALONE|DFLASH
"""

# The least that each may be.
_LEAST: Mapping[str, float] = {
    "pp_max_micro_batch_size": 1,
    "speculative_draft_window_size": 1,
    "mm_processor_worker_num": 0,
    "mm_io_worker_num": 0,
    "mm_preprocess_cache_size_mb": 0,
    "prefill_decode_interval": 0,
    "prefill_decode_interval_min_bs": 0,
    "sampling_mask_max_tokens": 1,
    "dcp_size": 1,
    "attn_dp_size": 1,
    "swa_prefix_tails": 0,
    "cuda_graph_prefill_max_context": 1,
}
_ABOVE_ZERO = (
    "asr_max_buffer_seconds",
    "asr_max_concurrent_sessions",
    "grpc_response_timeout_secs",
)
# And with a flag.
_LEAST_WITH: Mapping[str, tuple[str, float]] = {
    "lora_drain_wait_threshold": ("enable_lora", 0),
    "detokenizer_worker_num": ("!skip_tokenizer_init", 1),
    "linear_replayssm_cache_len": ("enable_linear_replayssm", 1),
    "http2_max_concurrent_streams": ("enable_http2", 1),
    "http2_initial_connection_window_size": ("enable_http2", 1024),
    "speculative_dflash_block_size": ("speculative_algorithm=DFLASH", 1),
}

# What is refused alone, with what is taken instead.
_NEVER: Mapping[str, tuple[str, str]] = {
    "prefill_attention_backend=cutedsl_mla": (
        "cutedsl_mla for decoding alone",
        "write decode_attention_backend: cutedsl_mla instead",
    ),
    "enable_mis attention_backend attention_backend!=flashinfer "
    "!prefill_attention_backend !decode_attention_backend": (
        "attention_backend: flashinfer with enable_mis",
        "use that, or remove enable_mis",
    ),
    "cuda_graph_backend_prefill=full": (
        "tc_piecewise, breakable or disabled for prefill",
        "use one of these",
    ),
    "linear_attn_decode_backend=flashkda": (
        "flashkda for prefill alone",
        "write linear_attn_prefill_backend: flashkda instead",
    ),
    "speculative_moe_a2a_backend=deepep_v2": ("another one, such as deepep", "use that"),
    "attention_backend=tokenspeed_mla kv_cache_dtype!=fp8_e4m3": (
        "kv_cache_dtype: fp8_e4m3 beside it",
        "write that, or use another attention_backend",
    ),
    "quantization=nvfp4_online "
    "moe_runner_backend!=auto|flashinfer_trtllm|flashinfer_trtllm_routed": (
        "moe_runner_backend: flashinfer_trtllm with quantization: nvfp4_online",
        "use that",
    ),
    "moe_runner_backend=flashinfer_trtllm_routed "
    "quantization=awq|gptq|gguf|bitsandbytes|marlin|w8a8_int8|w8a8_fp8|qoq|quark|modelslim": (
        "quantization: fp8, modelopt_fp4 or none with moe_runner_backend: flashinfer_trtllm_routed",
        "correct it, or use another moe_runner_backend",
    ),
}

_OPPOSITE = {"=": "!=", "!=": "=", ">": "<", "": "!"}


def _opposite(text: str) -> str:
    (term,) = terms.parse(text)
    if not term.sign:
        return f"!{term.field}"
    if term.sign == ">":
        return f"{term.field}<{int(term.values[0]) + 1}"
    return f"{term.field}{_OPPOSITE[term.sign]}{'|'.join(term.values)}"


def _words(text: str) -> str:
    """A term as a user writes it."""
    (term,) = terms.parse(text)
    values = ", ".join(value for value in term.values)
    forms = {
        "": term.field,
        "!": f"{term.field}: false",
        "=": f"{term.field}: {' or '.join(term.values)}",
        "!=": f"{term.field} that is none of {values}",
        ">": f"{term.field} above {values}",
    }
    return forms[term.sign]


def _rules() -> Iterator[tuple[str, Rule]]:
    for line in filter(None, _NEEDED.splitlines()):
        one, other, *where = line.split()
        text = " ".join((one, _opposite(other), *where))
        advice = "write that, or remove it"
        yield text, terms.rule(text, f"{_words(other)} beside {_words(one)}", advice)
    for line in filter(None, _APART.splitlines()):
        yield line, _apart(line)
    for other in filter(None, _APART_FROM_DECODE_RADIX.splitlines()):
        text = f"disaggregation_decode_enable_radix_cache {other} disaggregation_mode=decode"
        yield text, _apart(text)
    for text, (expected, advice) in _NEVER.items():
        yield text, terms.rule(text, expected, advice)
    for field in _ABOVE_ZERO:
        yield f"{field}<=0", terms.rule(f"{field}<=0", "more than 0", "raise it")
    for field, least in _LEAST.items():
        text = f"{field}<{least:g}"
        yield text, terms.rule(text, f"{least:g} or more", "raise it")
    for field, (beside, least) in _LEAST_WITH.items():
        text = f"{field}<{least:g} {beside}"
        yield text, terms.rule(text, f"{least:g} or more with {_words(beside)}", "raise it")


def _apart(text: str) -> Rule:
    one, other, *_ = text.split()
    first, second = _words(one), _words(other)
    return terms.rule(text, f"no {second} with {first}", "remove one of the two")


RULES = dict(_rules())
