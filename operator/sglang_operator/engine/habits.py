"""Names and words that people bring from elsewhere: vLLM, ROLL's other backend, above all.

A worker of ROLL becomes SGLang's by one word, and what is left in ``strategy_config`` is vLLM's.
No likeness of letters finds what was meant: each name has its counterpart here, or none.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sglang_operator.api import spelling
from sglang_operator.engine.schema import Argument, Schema

_LONGEST_NAME = 80  # comparing names takes time with the square of their length
_SIMILARITY = 0.85
_NOTHING_LIKE_IT = "and SGLang has nothing like it: remove it"
_NO_LONGER = "and this version of SGLang has nothing like it: remove it"


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What to do about a name of somebody else's."""

    instead: tuple[str, ...] = ()  # arguments that mean the same, the first that a version has
    note: str = ""  # what differs, or what to do where there is no such argument
    whose: str = "vLLM's"


def _to(*instead: str, note: str = "", whose: str = "vLLM's") -> Habit:
    return Habit(instead=instead, note=note, whose=whose)


def _note(note: str, whose: str = "vLLM's") -> Habit:
    return Habit(note=note, whose=whose)


_BATCH_SIZES = _to("cuda_graph_bs", "cuda_graph_bs_decode")
_LARGEST_BATCH = _to("cuda_graph_max_bs", "cuda_graph_max_bs_decode")
_OVERRIDES = _to("json_model_override_args", note="a map of what differs in the model's config")
_SLEEP = "which engines need for release_memory_occupation"
_WORKER_FIELD = "write it beside strategy_args"
_PER_REQUEST = "requests bring it: write generating_args beside strategy_args"
_LOGGING = "SGLang has log_level and log_level_http: remove it"

HABITS: Mapping[str, Habit] = {
    # --- memory and lengths
    "gpu_memory_utilization": _to(
        "mem_fraction_static", note="of weights and KV cache alone, so mostly a little lower"
    ),
    "max_model_len": _to("context_length"),
    "max_num_seqs": _to("max_running_requests"),
    "max_num_batched_tokens": _to("max_prefill_tokens"),
    "num_gpu_blocks_override": _to("max_total_tokens", note="in tokens, not in blocks"),
    "kv_cache_memory_bytes": _to("mem_fraction_static", note="a share of the GPU's memory"),
    "kv_cache_memory": _to("mem_fraction_static", note="a share of the GPU's memory"),
    "block_size": _to("page_size"),
    "kv_offloading_size": _to("hicache_size", note="with enable_hierarchical_cache: true"),
    "kv_offloading_backend": _to("enable_hierarchical_cache", note="true"),
    "enable_sleep_mode": _to("enable_memory_saver", note=f"true, {_SLEEP}"),
    "sleep_level": _to(
        "enable_memory_saver",
        note=f"true, {_SLEEP}; the trainer says with each sleep what is released",
        whose="ROLL's for vLLM",
    ),
    "free_cache_engine": _to("enable_memory_saver", note=f"true, {_SLEEP}", whose="verl's"),
    # --- caching and scheduling
    "enable_prefix_caching": _note(
        "SGLang caches prefixes anyway: for true remove it, for false write "
        "disable_radix_cache: true"
    ),
    "enable_chunked_prefill": _note(
        "SGLang prefills in chunks anyway: for true remove it, for false write "
        "chunked_prefill_size: -1"
    ),
    "scheduling_policy": _to("schedule_policy"),
    "async_scheduling": _note(
        "SGLang overlaps scheduling anyway: for true remove it, for false write "
        "disable_overlap_schedule: true"
    ),
    "disable_async_output_proc": _to("disable_overlap_schedule"),
    "num_scheduler_steps": _to("num_continuous_decode_steps"),
    "disable_hybrid_kv_cache_manager": _to("disable_hybrid_swa_memory"),
    # --- CUDA graphs and compilation
    "enforce_eager": _to("disable_cuda_graph"),
    "cudagraph_capture_sizes": _BATCH_SIZES,
    "cuda_graph_sizes": _BATCH_SIZES,
    "max_cudagraph_capture_size": _LARGEST_BATCH,
    "compilation_config": _note(
        "SGLang's are enable_torch_compile and the cuda_graph arguments: remove it"
    ),
    # --- parallelism
    "enable_expert_parallel": _to("ep_size", note="the GPUs that experts are spread over"),
    "all2all_backend": _to("moe_a2a_backend"),
    "enable_dbo": _to("enable_two_batch_overlap"),
    "num_redundant_experts": _to("ep_num_redundant_experts"),
    "eplb_step_interval": _to("eplb_rebalance_num_iterations"),
    "eplb_config": _note(
        "SGLang has an argument for each of its keys, such as ep_num_redundant_experts"
    ),
    "tp": _to("tp_size", whose="a short form"),
    "pp": _to("pp_size", whose="a short form"),
    "dp": _to("dp_size", whose="a short form"),
    "tensor_model_parallel_size": _to("tp_size", whose="Megatron's"),
    "pipeline_model_parallel_size": _to("pp_size", whose="Megatron's"),
    "expert_model_parallel_size": _to("ep_size", whose="Megatron's"),
    # --- the model
    "tokenizer": _to("tokenizer_path"),
    "hf_overrides": _OVERRIDES,
    "rope_scaling": _OVERRIDES,
    "rope_theta": _OVERRIDES,
    "attention_config": _to("attention_backend"),
    "mamba_ssm_cache_dtype": _to("mamba_ssm_dtype"),
    "seed": _note("random_seed, which seed of the pool decides: remove it"),
    "task": _note("SGLang generates unless is_embedding is true: remove it"),
    "runner": _note("SGLang generates unless is_embedding is true: remove it"),
    "hf_token": _note("name a Secret with HF_TOKEN in podTemplate, and remove it here"),
    "generation_config": _note(_PER_REQUEST),
    "override_generation_config": _note(_PER_REQUEST),
    # --- LoRA
    "max_loras": _to("max_loras_per_batch"),
    "max_cpu_loras": _to("max_loaded_loras"),
    "lora_modules": _to("lora_paths"),
    "enable_lora_bias": _note(_NOTHING_LIKE_IT),
    # --- speculative decoding
    "speculative_model": _to("speculative_draft_model_path"),
    "speculative_model_quantization": _to("speculative_draft_model_quantization"),
    "num_speculative_tokens": _to("speculative_num_draft_tokens"),
    "ngram_prompt_lookup_max": _to("speculative_ngram_max_match_window_size"),
    "ngram_prompt_lookup_min": _to("speculative_ngram_min_match_window_size"),
    "speculative_config": _note(
        "SGLang has an argument for each of its keys: speculative_algorithm, "
        "speculative_draft_model_path, speculative_num_draft_tokens"
    ),
    # --- images, tools, logs
    "limit_mm_per_prompt": _to("limit_mm_data_per_request"),
    "mm_processor_kwargs": _to("mm_process_config"),
    "enable_multimodal_encoder_data_parallel": _to("mm_enable_dp_encoder"),
    "mm_encoder_tp_mode": _to("mm_enable_dp_encoder"),
    "guided_decoding_backend": _to("grammar_backend"),
    "structured_outputs_config": _to("grammar_backend"),
    "enable_auto_tool_choice": _note("SGLang goes by tool_call_parser: remove it"),
    "enable_log_requests": _to("log_requests"),
    "tokenizer_pool_size": _to("tokenizer_worker_num"),
    "api_server_count": _to("tokenizer_worker_num"),
    "uvicorn_log_level": _to("log_level_http"),
    "disable_log_stats": _note(_LOGGING),
    "disable_log_requests": _note("SGLang logs none unless log_requests is true: remove it"),
    "disable_uvicorn_access_log": _note(_LOGGING),
    "kv_transfer_config": _note("SGLang's are disaggregation_mode and enable_lmcache: remove it"),
    # --- fields of the worker, not of its strategy
    "num_gpus_per_worker": _note(_WORKER_FIELD, "a field of the worker"),
    "device_mapping": _note(_WORKER_FIELD, "a field of the worker"),
    "model_args": _note(_WORKER_FIELD, "a field of the worker"),
    "generating_args": _note(_WORKER_FIELD, "a field of the worker"),
    "system_envs": _note(_WORKER_FIELD, "a field of the worker"),
    "infer_batch_size": _note(_WORKER_FIELD, "a field of the worker"),
    "router_replay": _note(_WORKER_FIELD, "a field of the worker"),
    "max_new_tokens": _note(_PER_REQUEST, "a sampling parameter"),
    "temperature": _note(_PER_REQUEST, "a sampling parameter"),
    "top_p": _note(_PER_REQUEST, "a sampling parameter"),
    "top_k": _note(_PER_REQUEST, "a sampling parameter"),
    "repetition_penalty": _note(_PER_REQUEST, "a sampling parameter"),
}
# vLLM's (EngineArgs and its server's, 0.6 to 0.11), to which SGLang has nothing like.
_WITHOUT_COUNTERPART = """
    additional_config aggregate_engine_logging allow_credentials allowed_headers
    allowed_local_media_path allowed_methods allowed_origins
    calculate_kv_scales chat_template_content_format code_revision collect_detailed_traces
    config_format convert cudagraph_metrics data_parallel_address data_parallel_backend
    data_parallel_external_lb data_parallel_hybrid_lb data_parallel_rank data_parallel_rpc_port
    data_parallel_size_local data_parallel_start_rank dbo_decode_token_threshold
    dbo_prefill_token_threshold default_mm_loras disable_cascade_attn disable_chunked_mm_input
    disable_fastapi_docs disable_frontend_multiprocessing disable_log_stats_periodic
    disable_logprobs_during_spec_decoding disable_mm_preprocessor_cache
    disable_nccl_for_dp_synchronization disable_sliding_window distributed_executor_backend
    ec_transfer_config enable_force_include_usage enable_mm_embeds enable_prompt_adapter
    enable_prompt_tokens_details enable_request_id_headers enable_server_load_tracking
    enable_ssl_refresh_certs enable_tokenizer_info_endpoint enable_tower_connector_lora
    engine_use_ray eplb_log_balancedness eplb_window_size expert_placement_strategy
    fully_sharded_loras guided_decoding_disable_additional_properties
    guided_decoding_disable_any_whitespace guided_decoding_disable_fallback headless hf_config_path
    ignore_patterns interleave_mm_strings io_processor_plugin kv_cache_metrics
    kv_cache_metrics_sample kv_sharing_fast_prefill logits_processor_pattern
    logits_processors logprobs_mode long_lora_scaling_factors long_prefill_token_threshold
    lora_dtype lora_extra_vocab_size mamba_block_size mamba_cache_dtype max_context_len_to_capture
    max_log_len max_logprobs max_long_partial_prefills max_num_partial_prefills
    max_parallel_loading_workers max_prompt_adapter_token max_prompt_adapters
    max_seq_len_to_capture media_io_kwargs middleware mm_encoder_attn_backend mm_encoder_only
    mm_processor_cache_gb mm_processor_cache_type mm_shm_cache_max_object_size_mb
    multi_step_stream_outputs num_lookahead_slots optimization_level override_attention_dtype
    override_neuron_config override_pooler_config pooler_config preemption_mode
    prefix_caching_hash_algo profiler_config prompt_adapters pt_load_map_location
    qlora_adapter_name_or_path ray_workers_use_nsight reasoning_parser_plugin response_role
    return_tokens_as_token_ids safetensors_load_strategy scheduler_cls scheduler_delay_factor
    show_hidden_metrics_for_version skip_mm_profiling spec_decoding_acceptance_method
    specialize_active_lora speculative_disable_by_batch_size speculative_disable_mqa_scorer
    speculative_draft_tensor_parallel_size speculative_max_model_len swap_space
    tokenizer_pool_extra_config tokenizer_pool_type tokenizer_revision tokens_only
    tool_parser_plugin typical_acceptance_sampler_posterior_alpha
    typical_acceptance_sampler_posterior_threshold ubatch_size use_tqdm_on_load
    use_v2_block_manager video_pruning_rate weight_transfer_config worker_cls worker_extension_cls
    worker_use_ray
"""
WITHOUT_COUNTERPART = frozenset(_WITHOUT_COUNTERPART.split())
# Every name that is known to be somebody else's.
NAMES = frozenset({*HABITS, *WITHOUT_COUNTERPART})
# slime's flags are SGLang's with a word before them.
_PREFIX = "sglang_"
# Words of vLLM's for values -> SGLang's.
VALUES: Mapping[str, Mapping[str, str]] = {
    "kv_cache_dtype": {"fp8": "fp8_e4m3", "bfloat16": "bf16"},
    "load_format": {"runai_streamer": "auto", "fastsafetensors": "safetensors", "hf": "auto"},
    "attention_backend": {
        "flash_attn": "fa3",
        "flash_attn_vllm_v1": "fa3",
        "flashinfer": "flashinfer",
        "flashinfer_vllm_v1": "flashinfer",
        "triton_attn": "triton",
        "triton_attn_vllm_v1": "triton",
        "torch_sdpa": "torch_native",
        "flashmla": "flashmla",
        "cutlass_mla": "cutlass_mla",
        "flex_attention": "flex_attention",
    },
    "grammar_backend": {"guidance": "llguidance", "lm-format-enforcer": "xgrammar"},
    "tokenizer_mode": {"mistral": "auto", "custom": "auto", "hf": "auto"},
    "tool_call_parser": {"hermes": "qwen25", "llama3_json": "llama3", "deepseek_v3": "deepseekv3"},
    "reasoning_parser": {"deepseek_r1": "deepseek-r1"},
    "speculative_algorithm": {"ngram": "NGRAM", "eagle": "EAGLE", "eagle3": "EAGLE3"},
    "schedule_policy": {"priority": "fcfs"},
    "moe_a2a_backend": {"deepep_high_throughput": "deepep", "deepep_low_latency": "deepep"},
}
# Names of variables of the environment, and what to do about them as keys.
VARIABLE = "[A-Z][A-Z0-9]*(_[A-Z0-9]+)+"
VLLM = "VLLM_"
OF_VLLM = "it is vLLM's, which SGLang does not read: remove it"
# Names that begin like vLLM's, and that kernels in SGLang's images read.
READ_BY_SGLANG = ("VLLM_MARLIN_USE_ATOMIC_ADD",)
OF_OTHERS = "write it into system_envs"


def advice(name: str, schema: Schema) -> str | None:
    """What to do about a name of somebody else's; None if it is not known as one."""
    if name in WITHOUT_COUNTERPART:
        return f"it is vLLM's, {_NOTHING_LIKE_IT}"
    habit = HABITS.get(name)
    if habit is None:
        own = name.removeprefix(_PREFIX)
        known = own != name and schema.key(own) is not None
        return f"it is slime's for {own}: write that" if known else None
    there = next((key for key in habit.instead if schema.argument(key) is not None), None)
    if there is not None:
        return f"it is {habit.whose}: write {there} instead" + _more(habit.note)
    if habit.instead:
        return f"it is {habit.whose}, {_NO_LONGER}"
    joint = ", " if habit.note == _NOTHING_LIKE_IT else ": "
    return f"it is {habit.whose}{joint}{habit.note}"


def _more(note: str) -> str:
    return f" ({note})" if note else ""


@functools.lru_cache(maxsize=1024)
def misspelt(name: str) -> str | None:
    """The name of somebody else's that this one is a slip of, if that is plain."""
    near = difflib.get_close_matches(name[:_LONGEST_NAME], NAMES, 2, _SIMILARITY)
    return spelling.meant(name, near)


def meant(name: str) -> str | None:
    """The argument that a name of somebody else's stands for, if any."""
    habit = HABITS.get(name)
    return habit.instead[0] if habit is not None and habit.instead else None


def word(argument: Argument, value: object) -> str | None:
    """SGLang's word for a value in vLLM's."""
    found = VALUES.get(argument.key, {}).get(value.lower()) if isinstance(value, str) else None
    return found if found in argument.choices else None


def is_variable(name: str) -> bool:
    """Whether a name looks like one of the environment."""
    return re.fullmatch(VARIABLE, name) is not None


def is_vllm_variable(name: str) -> bool:
    """Whether a variable of the environment is vLLM's alone."""
    return name.startswith(VLLM) and name not in READ_BY_SGLANG


def spellings(name: str) -> Iterator[str]:
    """What a name that can be no argument's may have been meant as: a flag, or camelCase."""
    bare = name.removeprefix("--")
    snake = re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", bare[:1].lower() + bare[1:])
    for spelled in (bare, snake, bare.lower()):
        yield spelled.replace("-", "_")
