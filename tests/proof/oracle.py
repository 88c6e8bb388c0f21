"""What an engine is to be told, written from ROLL's and SGLang's semantics, not from our code.

ROLL edits ``strategy_config`` and calls ``Engine(**config)`` (roll/distributed/strategy/
sglang_strategy.py; explanation/roll.md), so its keys are fields of ServerArgs; the changes that
the operator makes to that are those of explanation/roll.md.  Further names are SGLang's own: second
option strings, and what its deprecated actions store (server_args.py, argparse_actions.py).
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

MODEL = "Qwen/Qwen3-30B-A3B-Base"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "auto": "auto"}

# Second option strings of one argument.
SPELLINGS = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "expert_parallel_size": "ep_size",
    "ep": "ep_size",
    "attention_context_parallel_size": "attn_cp_size",
    "attention_data_parallel_size": "attn_dp_size",
    "decode_context_parallel_size": "dcp_size",
    "moe_data_parallel_size": "moe_dp_size",
    "speculative_draft_model": "speculative_draft_model_path",
    "fp8_gemm_backend": "fp8_gemm_runner_backend",
    "fp4_gemm_backend": "fp4_gemm_runner_backend",
    "elastic_ep_join_mode": "ep_join_mode",
    "elastic_ep_join_rank_offset": "ep_join_rank_offset",
    "enable_hicache": "enable_hierarchical_cache",
    "hierarchical_sparse_attention_extra_config": "hisparse_config",
    "grpc_http_sidecar_port": "smg_http_sidecar_port",
    "context_bucket": "cuda_graph_prefill_max_context",
}
# DeprecatedAliasStoreAction and DeprecatedStoreTrueAction: old names, in versions without such a
# field.
RENAMED = {
    "cuda_graph_max_bs": "cuda_graph_max_bs_decode",
    "cuda_graph_bs": "cuda_graph_bs_decode",
    "piecewise_cuda_graph_tokens": "cuda_graph_bs_prefill",
    "piecewise_cuda_graph_max_tokens": "cuda_graph_max_bs_prefill",
    "piecewise_cuda_graph_compiler": "cuda_graph_tc_compiler",
    "nsa_prefill_backend": "dsa_prefill_backend",
    "nsa_decode_backend": "dsa_decode_backend",
    "nsa_prefill_cp_mode": "dsa_prefill_cp_mode",
    "enable_nsa_prefill_context_parallel": "enable_dsa_prefill_context_parallel",
    "mamba_scheduler_strategy": "mamba_radix_cache_strategy",
    "speculative_dflash_draft_window_size": "speculative_draft_window_size",
    "stream_output": "incremental_streaming_output",
}
# DeprecatedStoreConstAction: old flags that stand for one value of another field.
CONSTANTS = {
    "enable_breakable_cuda_graph": ("cuda_graph_backend_prefill", "breakable"),
    "disable_piecewise_cuda_graph": ("cuda_graph_backend_prefill", "disabled"),
    "enforce_piecewise_cuda_graph": ("cuda_graph_backend_prefill", "tc_piecewise"),
    "monokernel_backend": ("enable_amd_monokernel", True),
}
# DeprecatedAction: accepted, and nothing comes of it.
IGNORED = {"hybrid_kvcache_ratio", "prefill_round_robin_balance", "collect_tokens_histogram"}
# DeprecatedAction in 0.4.6.post5: raises where it is given, so false is nothing.
RETIRED = {"enable_flashinfer_mla", "enable_flashmla"}
# Fields whose default on the command line is not that of ServerArgs, up to 0.5.9; without
# kt_weight_path nothing reads them.
OTHER_DEFAULTS = {"kt_amx_method", "kt_method", "kt_threadpool_count"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration, as a pool of one version has it."""

    version: str
    config: Mapping[str, Any]
    gpus: int = 2
    dtype: str | None = "bf16"
    seed: int = 42
    port: int = 30000
    replay: str = "disable"
    sampling: Mapping[str, Any] | None = None
    fields: Collection[str] = field(default=(), repr=False)  # of the version's ServerArgs


def arguments(case: Case) -> dict[str, Any]:
    """The keyword arguments of ServerArgs that the configuration stands for."""
    given: dict[str, Any] = {}
    for name, value in case.config.items():
        if value is not None:  # for ROLL null is the default that it is for SGLang
            given |= _meaning(name.replace("-", "_"), value, case.fields)
    given.pop("grpc_mode", None)  # ROLL's own key: true is refused
    # ROLL overwrites these, whatever is written.
    given["model_path"] = MODEL
    given["dtype"] = DTYPES[case.dtype or "bf16"]
    given["random_seed"] = case.seed
    given["port"] = case.port
    given["host"] = "0.0.0.0"
    if "enable_return_routed_experts" in case.fields:
        given["enable_return_routed_experts"] = case.replay == "R3"
    else:
        given.pop("enable_return_routed_experts", None)
    # ROLL's defaults; ROLL forces the first two, here they can be set.
    for name, value in (
        ("skip_tokenizer_init", True),
        ("trust_remote_code", True),
        ("disable_custom_all_reduce", True),
        ("log_level", "info"),
        ("log_level_http", "warning"),
    ):
        given.setdefault(name, value)
    if "weight_version" in case.fields:
        given["weight_version"] = "unsynced"
    if case.sampling:
        given["preferred_sampling_params"] = dict(case.sampling)
    return given | _sizes(given, case.gpus)


def _meaning(name: str, value: Any, fields: Collection[str]) -> dict[str, Any]:
    name = name if name in fields else SPELLINGS.get(name, name)
    if name in fields:
        return {name: value}
    if name in CONSTANTS:
        target, constant = CONSTANTS[name]
        return {target: constant} if value is not False else {}
    if name in IGNORED or (name in RETIRED and value is False):
        return {}
    return {RENAMED.get(name, name): value}


def _sizes(given: Mapping[str, Any], gpus: int) -> dict[str, int]:
    """tp · pp · dp are the engine's GPUs; attention data parallelism lies within tp."""
    within = given.get("enable_dp_attention") or given.get("attn_dp_size", 1) > 1
    copies = 1 if within else given.get("dp_size", 1)
    pipeline = given.get("pp_size", 1)
    return {"tp_size": given.get("tp_size", gpus // (pipeline * copies)), "pp_size": pipeline}


def same(name: str, wanted: Any, found: Any, default: Any) -> bool:
    """Whether SGLang has found what was wanted for a field."""
    if name == "lora_paths":
        return adapters(wanted) == adapters(found)
    if isinstance(wanted, (list, tuple)) and not wanted and not isinstance(found, str):
        return bool(found == default or found == [])
    if isinstance(wanted, (Mapping, list, tuple)) and isinstance(found, str):
        return bool(json.loads(found) == _plain(wanted))  # SGLang reads the JSON later
    if isinstance(wanted, str) and isinstance(found, (Mapping, list)):
        return bool(json.loads(wanted) == found)
    if isinstance(wanted, str) and isinstance(found, int) and not isinstance(found, bool):
        return _number(wanted) == found
    if name == "quantization_param_path" and wanted in ("", "None"):
        return found is None
    if isinstance(wanted, bool) is not isinstance(found, bool):
        return False
    return bool(_plain(wanted) == _plain(found))


def adapters(value: Any) -> list[tuple[str, str, bool]]:
    """LoRA adapters in any form that ServerArgs takes (check_lora_server_args)."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return sorted((name, path, False) for name, path in value.items())
    return sorted(map(_adapter, value))


def _adapter(item: Any) -> tuple[str, str, bool]:
    if isinstance(item, Mapping):
        return item["lora_name"], item["lora_path"], bool(item.get("pinned", False))
    name, equals, path = item.strip().partition("=")
    return (name, path, False) if equals else (name, name, False)


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _number(text: str) -> int:
    """32k as human_readable_int reads it."""
    match = re.fullmatch(r"(-?[0-9.]+)([kMGT]?|[KMGT]i)", text)
    assert match, text
    return int(Decimal(match[1]) * _UNITS[match[2]])


def _plain(value: Any) -> Any:
    """Lists for tuples and numbers by value, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
