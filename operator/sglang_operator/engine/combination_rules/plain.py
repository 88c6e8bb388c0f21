"""Rules in terms; each is named by its terms."""

from collections.abc import Iterator, Mapping

from sglang_operator.engine.combination_rules import terms
from sglang_operator.engine.combination_rules.base import Rule

# The first asks for the second, where a third holds.
_NEEDED = """
enable_prefill_cp cp_strategy !enable_dsa_prefill_context_parallel !enable_prefill_context_parallel
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
enable_lora_overlap_loading max_loaded_loras enable_lora
enable_mamba_cache_stochastic_rounding mamba_ssm_dtype=float16
flashinfer_a2a_dispatch_type!=auto moe_a2a_backend=flashinfer flashinfer_a2a_dispatch_type
enable_megamoe_for_layernorm_sp enable_layernorm_sp
speculative_draft_sink_size>0 speculative_draft_window_size
speculative_use_block_verification speculative_algorithm=EAGLE|EAGLE3|NEXTN|DFLASH|DSPARK
enable_http_worker_reuseport tokenizer_worker_num>1
ep_join_rank_offset>0 ep_join_mode=scale
sampling_backend=intel_xpu device=xpu
radix_eviction_policy=tlru radix_eviction_policy_config
enable_linker_mla_dedup enable_unified_cache_external_linker
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
enable_lmcache hicache_host_memory_mode=buffer_only
language_model_only language_only
enable_response_store disaggregation_mode=prefill|decode
ple_offload_embedding cpu_offload_gb>0
ple_offload_embedding offload_group_size>0
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
    "speculative_draft_sink_size": 0,
    "mamba_cache_philox_rounds": 0,
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

_SCORING_ATTENTION = ("flashinfer attention with enable_mis", "use that, or remove enable_mis")
_TOKENSPEED_CACHE = (
    "kv_cache_dtype: fp8_e4m3 beside tokenspeed_mla",
    "write that, or use another attention backend",
)
_CUTEDSL_CACHE = (
    "kv_cache_dtype: fp8_e4m3, bf16 or auto beside cutedsl_mla",
    "use one of these, or another attention backend",
)
# What is refused alone, or with what else, and what is taken instead.
_NEVER: Mapping[str, tuple[str, str]] = {
    "prefill_attention_backend=cutedsl_mla": (
        "cutedsl_mla for decoding alone",
        "write decode_attention_backend: cutedsl_mla instead",
    ),
    "enable_mis attention_backend attention_backend!=flashinfer "
    "!prefill_attention_backend !decode_attention_backend": _SCORING_ATTENTION,
    "enable_mis prefill_attention_backend prefill_attention_backend!=flashinfer": (
        _SCORING_ATTENTION
    ),
    "enable_mis decode_attention_backend decode_attention_backend!=flashinfer": _SCORING_ATTENTION,
    "cuda_graph_backend_prefill=full": (
        "tc_piecewise, breakable or disabled for prefill",
        "use one of these",
    ),
    "linear_attn_decode_backend=flashkda": (
        "flashkda for prefill alone",
        "write linear_attn_prefill_backend: flashkda instead",
    ),
    "speculative_moe_a2a_backend=deepep_v2": ("another one, such as deepep", "use that"),
    "attention_backend=tokenspeed_mla kv_cache_dtype!=fp8_e4m3": _TOKENSPEED_CACHE,
    "decode_attention_backend=tokenspeed_mla kv_cache_dtype!=fp8_e4m3": _TOKENSPEED_CACHE,
    "quantization=nvfp4_online "
    "moe_runner_backend!=auto|flashinfer_trtllm|flashinfer_trtllm_routed": (
        "moe_runner_backend: flashinfer_trtllm with quantization: nvfp4_online",
        "use that",
    ),
    "attention_backend=cutedsl_mla kv_cache_dtype=fp8_e5m2|fp4_e2m1": _CUTEDSL_CACHE,
    "decode_attention_backend=cutedsl_mla kv_cache_dtype=fp8_e5m2|fp4_e2m1": _CUTEDSL_CACHE,
    "attention_backend=fa4 enable_deterministic_inference": (
        "flashinfer, fa3 or triton with enable_deterministic_inference",
        "use one of these",
    ),
    "moe_a2a_backend=pplx attn_dp_size<2 !enable_dp_attention": (
        "attn_dp_size of 2 or more beside pplx",
        "write it, or use another moe_a2a_backend",
    ),
    "enable_tp_lm_head_all_to_all attn_dp_size<2 !enable_dp_attention": (
        "attn_dp_size of 2 or more beside it",
        "write it, or remove enable_tp_lm_head_all_to_all",
    ),
    "moe_runner_backend=lora_triton !enable_lora !lora_paths": (
        "enable_lora beside lora_triton",
        "write it, or use another moe_runner_backend",
    ),
    "disaggregation_decode_host_receive_threshold<0": ("0 to 1", "correct it"),
    "disaggregation_decode_host_receive_threshold>1": ("0 to 1", "correct it"),
    "hicache_host_memory_fraction<=0": ("a number above 0 and at most 1", "correct it"),
    "hicache_host_memory_fraction>1": ("a number above 0 and at most 1", "correct it"),
    "grpc_port<1": ("1 to 65535", "correct it"),
    "grpc_port>65535": ("1 to 65535", "correct it"),
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
