"""The arguments of an engine that its memory depends on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.engine import aliases, schema, versions
from sglang_operator.memory.weights import Division

_DRAFTS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an engine is started with; None: SGLang decides."""

    division: Division = field(default_factory=Division)
    mem_fraction_static: float | None = None
    quantization: str | None = None
    dtype: str = "auto"
    lora: bool = False
    kv_cache_dtype: str = "auto"
    context_length: int | None = None
    max_running_requests: int | None = None
    max_total_tokens: int | None = None
    chunked_prefill_size: int | None = None
    max_prefill_tokens: int = 16384
    page_size: int = 1
    graph_batch: int | None = None  # of decoding
    graphs: bool = True
    prefill_graphs: bool = True
    prefill_graphs_asked: bool = False
    prefill_graph_tokens: int | None = None
    radix_cache: bool = True
    overlap: bool = True
    speculative: str | None = None
    draft_tokens: int | None = None
    draft_path: str | None = None
    window_ratio: float = 0.8
    state_ratio: float = 0.9
    state_slots: int | None = None
    deepep: bool = False
    memory_saver: bool = False
    weights_on_host: bool = False
    offload_gb: float = 0
    hicache_ratio: float | None = None
    hicache_gb: float = 0
    load_format: str = "auto"
    overrides: str | None = None  # json_model_override_args, as they are written

    @property
    def drafts(self) -> bool:
        """Whether a draft model runs beside the model."""
        return self.speculative in _DRAFTS


def of_argv(argv: Sequence[str], version: versions.Version) -> Settings:
    """The settings of a command line, as the parser of its version reads it."""
    return of_values(dict(_read(argv, schema.nearest(version))))


def of_values(given: Mapping[str, Any]) -> Settings:
    """The settings of fields with their values."""
    tp = _count(given, "tp_size")
    dp_attention = given.get("enable_dp_attention") is True
    deepep = given.get("moe_a2a_backend") == "deepep" or given.get("enable_deepep_moe") is True
    whole_ep = deepep or given.get("enable_ep_moe") is True
    batches = _ints(given, "cuda_graph_bs_decode") or _ints(given, "cuda_graph_bs")
    return Settings(
        division=Division(
            tp=tp,
            pp=_count(given, "pp_size"),
            ep=tp if whole_ep else _count(given, "ep_size"),
            attention_dp=_count(given, "dp_size" if dp_attention else "attn_dp_size"),
            dense_tp=_int(given, "moe_dense_tp_size"),
            head_dp=given.get("enable_dp_lm_head") is True,
        ),
        mem_fraction_static=_float(given, "mem_fraction_static"),
        quantization=_text(given, "quantization"),
        dtype=_text(given, "dtype") or "auto",
        lora=given.get("enable_lora") is True or bool(given.get("lora_paths")),
        kv_cache_dtype=str(given.get("kv_cache_dtype") or "auto"),
        context_length=_int(given, "context_length"),
        max_running_requests=_int(given, "max_running_requests"),
        max_total_tokens=_int(given, "max_total_tokens"),
        chunked_prefill_size=_int(given, "chunked_prefill_size"),
        max_prefill_tokens=_int(given, "max_prefill_tokens") or 16384,
        page_size=_int(given, "page_size") or 1,
        graph_batch=max(batches) if batches else _graph_batch(given),
        graphs=given.get("disable_cuda_graph") is not True
        and given.get("disable_decode_cuda_graph") is not True,
        prefill_graphs=given.get("cuda_graph_backend_prefill") != "disabled"
        and not any(given.get(name) is True for name in _NO_PREFILL_GRAPHS),
        prefill_graphs_asked=given.get("enable_piecewise_cuda_graph") is True,
        prefill_graph_tokens=_int(given, "cuda_graph_max_bs_prefill")
        or _int(given, "piecewise_cuda_graph_max_tokens"),
        radix_cache=given.get("disable_radix_cache") is not True,
        overlap=given.get("disable_overlap_schedule") is not True,
        speculative=_text(given, "speculative_algorithm"),
        draft_tokens=_int(given, "speculative_num_draft_tokens"),
        draft_path=_text(given, "speculative_draft_model_path"),
        window_ratio=_float(given, "swa_full_tokens_ratio") or 0.8,
        state_ratio=_float(given, "mamba_full_memory_ratio") or 0.9,
        state_slots=_int(given, "max_mamba_cache_size"),
        deepep=deepep,
        memory_saver=given.get("enable_memory_saver") is True,
        weights_on_host=given.get("enable_weights_cpu_backup") is True,
        offload_gb=_float(given, "cpu_offload_gb") or 0,
        hicache_ratio=_hicache_ratio(given),
        hicache_gb=_float(given, "hicache_size") or 0,
        load_format=str(given.get("load_format") or "auto"),
        overrides=_overrides(given.get("json_model_override_args")),
    )


_NO_PREFILL_GRAPHS = (
    "disable_cuda_graph",
    "disable_prefill_cuda_graph",
    "disable_piecewise_cuda_graph",
)


def _graph_batch(given: Mapping[str, Any]) -> int | None:
    return _int(given, "cuda_graph_max_bs_decode") or _int(given, "cuda_graph_max_bs")


def _hicache_ratio(given: Mapping[str, Any]) -> float | None:
    if given.get("enable_hierarchical_cache") is not True:
        return None
    return _float(given, "hicache_ratio") or 2.0


def _overrides(given: object) -> str | None:
    """As JSON; None where nothing is changed."""
    written = given if isinstance(given, str) else json.dumps(given or {}, default=str)
    return written if written.strip() not in ("", "{}") else None


def _text(given: Mapping[str, Any], key: str) -> str | None:
    found = given.get(key)
    return found if isinstance(found, str) and found else None


def _count(given: Mapping[str, Any], key: str) -> int:
    return max(1, _int(given, key) or 1)


def _int(given: Mapping[str, Any], key: str) -> int | None:
    found = _float(given, key)
    return None if found is None else int(found)


def _float(given: Mapping[str, Any], key: str) -> float | None:
    found = given.get(key)
    if isinstance(found, bool) or found is None:
        return None
    try:
        return float(found)
    except (TypeError, ValueError):
        return None


def _ints(given: Mapping[str, Any], key: str) -> list[int]:
    found = given.get(key)
    items = found if isinstance(found, (list, tuple)) else str(found or "").split()
    return [int(item) for item in items if str(item).isdecimal()]


def _read(argv: Sequence[str], known: schema.Schema) -> Iterator[tuple[str, Any]]:
    """Fields and values of a command line that the operator has written."""
    flag, value = "", list[str]()
    for item in (*argv, "--"):
        if not item.startswith("--"):
            value.append(item)
            continue
        if flag:
            yield _field(flag, value, known)
        flag, _, after = item.partition("=")
        value = [after] if after else []


def _field(flag: str, value: Sequence[str], known: schema.Schema) -> tuple[str, Any]:
    argument = known.flags.get(flag)
    if argument is None:
        name = aliases.canonical(flag.removeprefix("--"), known)
        return name, value[0] if len(value) == 1 else list(value) or True
    if argument.action == "store_const":
        return argument.field or argument.key, argument.const
    if argument.is_flag:
        on = argument.action != "store_false"
        return argument.field or argument.key, on if flag != argument.negated else not on
    return argument.field or argument.key, value[0] if len(value) == 1 else list(value)
