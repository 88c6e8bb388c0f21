"""Rules about caches, scheduling and what an engine says of itself."""

from collections.abc import Mapping

from sglang_operator.engine.combination_rules.base import (
    Condition,
    Settings,
    alone,
    below,
    is_on,
    number,
    rule,
    size,
    together,
)

_MODALITIES = {"image", "video", "audio"}
_OWN_PAGE = 16
_ANY_PAGE = ("fa3", "flashinfer", "triton")  # attention that takes pages of any size
_PRIORITY = ("fcfs", "lof", "routing-key", "hybrid-fcfs")


def _outside(s: Settings) -> bool:
    ratio = number(s["swa_full_tokens_ratio"])
    return ratio is not None and not 0 < ratio <= 1


def _modalities(s: Settings) -> bool:
    limits = s["limit_mm_data_per_request"]
    return isinstance(limits, Mapping) and not set(limits) <= _MODALITIES


def _part_of_a_page(s: Settings) -> bool:
    """Chunks that end within a page.

    Who spreads attention gets smaller chunks, and some attention has pages of its own, of 16
    tokens or a multiple: nothing is told then.
    """
    chunk, page = number(s["chunked_prefill_size"]), size(s, "page_size")
    return (
        chunk is not None
        and chunk > 0 < page
        and chunk % page != 0
        and (chunk % _OWN_PAGE != 0 or s["attention_backend"] in _ANY_PAGE)
        and s["disaggregation_mode"] != "decode"
        and not is_on(s, "enable_dp_attention")
        and s["attention_backend"] in (*_ANY_PAGE, None)
        and not s["prefill_attention_backend"]
        and not s["decode_attention_backend"]
    )


def _buckets(field: str) -> Condition:
    """A rule for the buckets of a histogram: ["tse", middle, base, count], default or custom."""

    def broken(s: Settings) -> bool:
        told = s[field]
        if not isinstance(told, (list, tuple)) or not told:
            return False
        kind, *rest = told
        if kind == "default":
            return bool(rest)
        values = [_float(value) for value in rest]
        if None in values:
            return True
        found = [value for value in values if value is not None]
        if kind == "tse":
            return len(found) != 3 or min(found) <= 0 or found[1] <= 1 or found[2] % 1 != 0
        if kind == "custom":
            return not found or min(found) < 0 or len(set(found)) < len(found)
        return True

    return broken


def _float(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


_BUCKETS = '["default"], ["tse", middle, base above 1, count] or ["custom", each bound once]'

RULES = {
    "hierarchical-without-radix": rule(
        "disable_radix_cache enable_hierarchical_cache",
        together("disable_radix_cache", "enable_hierarchical_cache"),
        "one of the two: the hierarchical cache is the radix cache with more room",
        "remove disable_radix_cache, or enable_hierarchical_cache",
    ),
    "swa-ratio": rule(
        "swa_full_tokens_ratio", _outside, "a number above 0 and at most 1", "correct it"
    ),
    "offload-kv": rule(
        "disaggregation_decode_enable_offload_kvcache disaggregation_mode",
        lambda s: (
            is_on(s, "disaggregation_decode_enable_offload_kvcache")
            and s["disaggregation_mode"] != "decode"
        ),
        "disaggregation_mode: decode beside it",
        "remove it",
    ),
    "prefix-mm-cache": rule(
        "enable_prefix_mm_cache encoder_only",
        alone("enable_prefix_mm_cache", "encoder_only"),
        "encoder_only: true beside it (it caches embeddings of images, not prefixes)",
        "remove it",
    ),
    "chunk-pages": rule(
        "chunked_prefill_size page_size disaggregation_mode enable_dp_attention "
        "attention_backend prefill_attention_backend decode_attention_backend",
        _part_of_a_page,
        "a multiple of page_size",
        "correct it, or page_size",
    ),
    "scoring-cache": rule(
        "multi_item_scoring_delimiter disable_radix_cache",
        lambda s: (
            s["multi_item_scoring_delimiter"] is not None and not is_on(s, "disable_radix_cache")
        ),
        "disable_radix_cache: true beside it",
        "write that, or remove it",
    ),
    "scoring-chunks": rule(
        "multi_item_scoring_delimiter chunked_prefill_size",
        lambda s: s["multi_item_scoring_delimiter"] is not None and s["chunked_prefill_size"] != -1,
        "chunked_prefill_size: -1 beside it",
        "write that, or remove it",
    ),
    "tokenizer-workers": rule(
        "tokenizer_worker_num skip_tokenizer_init",
        lambda s: not is_on(s, "skip_tokenizer_init") and below("tokenizer_worker_num", 1)(s),
        "1 or more",
        "raise it",
    ),
    "two-tokenizer-batches": rule(
        "enable_dynamic_batch_tokenizer enable_tokenizer_batch_encode",
        together("enable_dynamic_batch_tokenizer", "enable_tokenizer_batch_encode"),
        "one of enable_tokenizer_batch_encode and enable_dynamic_batch_tokenizer",
        "remove one",
    ),
    "conservativeness": rule(
        "schedule_conservativeness", below("schedule_conservativeness", 0), "0 or more", "raise it"
    ),
    "priority-policy": rule(
        "schedule_policy enable_priority_scheduling",
        lambda s: is_on(s, "enable_priority_scheduling") and s["schedule_policy"] not in _PRIORITY,
        "fcfs or lof with enable_priority_scheduling",
        "use fcfs",
    ),
    "priority-two-policies": rule(
        "schedule_policy enable_priority_scheduling",
        lambda s: (
            is_on(s, "enable_priority_scheduling")
            and s["schedule_policy"] in ("routing-key", "hybrid-fcfs")
        ),
        "fcfs or lof with enable_priority_scheduling",
        "use fcfs",
    ),
    "collector-thresholds": rule(
        "gc_threshold",
        lambda s: isinstance(s["gc_threshold"], (list, tuple)) and len(s["gc_threshold"]) > 3,
        "one to three numbers",
        "remove the others",
    ),
    "metrics-file": rule(
        "export_metrics_to_file export_metrics_to_file_dir",
        lambda s: is_on(s, "export_metrics_to_file") and s["export_metrics_to_file_dir"] is None,
        "export_metrics_to_file_dir beside it",
        "write the folder, or remove it",
    ),
    "prompt-buckets": rule(
        "prompt_tokens_buckets", _buckets("prompt_tokens_buckets"), _BUCKETS, "correct it"
    ),
    "generation-buckets": rule(
        "generation_tokens_buckets", _buckets("generation_tokens_buckets"), _BUCKETS, "correct it"
    ),
    "model-name-colon": rule(
        "served_model_name",
        lambda s: isinstance(s["served_model_name"], str) and ":" in s["served_model_name"],
        "a name without a colon, which separates a model from an adapter",
        "choose another name",
    ),
    "modalities": rule(
        "limit_mm_data_per_request", _modalities, "a map with image, video and audio", "correct it"
    ),
}
