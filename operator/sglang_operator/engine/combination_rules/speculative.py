"""Rules about speculative decoding and adapters."""

from sglang_operator.engine.combination_rules.base import (
    DRAFTING,
    Settings,
    attends_with,
    below,
    more,
    number,
    rule,
    size,
    speculates,
    spreads_attention,
)


def _lora(s: Settings) -> bool:
    return s["enable_lora"] is True or (s["enable_lora"] is None and bool(s["lora_paths"]))


def _steps(s: Settings) -> bool:
    given = (s["speculative_eagle_topk"], s["speculative_num_draft_tokens"])
    drafts = s["speculative_algorithm"] in DRAFTING and not s["speculative_adaptive"]
    return drafts and s["speculative_num_steps"] is None and given != (None, None)


def _branches(s: Settings) -> bool:
    return (number(s["speculative_eagle_topk"]) or 1) > 1


def _paged_tree(s: Settings) -> bool:
    """Several branches over pages of several tokens, with no attention that can do it."""
    fit = ("flashinfer", "fa3", "triton", None)
    return (
        s["speculative_algorithm"] in DRAFTING
        and _branches(s)
        and size(s, "page_size") > 1
        and s["attention_backend"] not in fit
    )


def _paged_ngram(s: Settings) -> bool:
    return (
        s["speculative_algorithm"] == "NGRAM"
        and (number(s["speculative_ngram_max_bfs_breadth"]) or 1) > 1
        and size(s, "page_size") > 1
        and s["attention_backend"] not in ("flashinfer", None)
    )


def _adapters(s: Settings) -> int:
    paths = s["lora_paths"]
    return len(paths) if isinstance(paths, (list, tuple, dict)) else 0


RULES = {
    "loras-per-batch": rule(
        "max_loras_per_batch",
        below("max_loras_per_batch", 1),
        "1 or more",
        "raise it",
    ),
    "lora-shape": rule(
        "enable_lora lora_paths max_lora_rank lora_target_modules",
        lambda s: (
            s["enable_lora"] is True
            and not s["lora_paths"]
            and not (s["max_lora_rank"] and s["lora_target_modules"])
        ),
        "lora_paths, or both max_lora_rank and lora_target_modules",
        "write them",
    ),
    "loaded-loras": rule(
        "max_loaded_loras max_loras_per_batch enable_lora lora_paths",
        lambda s: _lora(s) and more(s, "max_loras_per_batch", "max_loaded_loras"),
        "at least max_loras_per_batch",
        "raise it, or lower max_loras_per_batch",
    ),
    "lora-count": rule(
        "max_loaded_loras lora_paths enable_lora",
        lambda s: _lora(s) and _adapters(s) > (number(s["max_loaded_loras"]) or _adapters(s)),
        "at least as many as lora_paths has",
        "raise it, or load fewer",
    ),
    "lora-all-modules": rule(
        "lora_target_modules enable_lora lora_paths",
        lambda s: (
            _lora(s)
            and isinstance(s["lora_target_modules"], (list, tuple))
            and "all" in s["lora_target_modules"]
            and len(set(s["lora_target_modules"])) > 1
        ),
        "all alone, or the modules by name",
        "remove all, or the others",
    ),
    "lora-speculative": rule(
        "speculative_algorithm enable_lora lora_paths",
        lambda s: _lora(s) and s["speculative_algorithm"] not in ("NGRAM", None),
        "no speculative decoding with LoRA but NGRAM",
        "remove speculative_algorithm, or LoRA",
    ),
    "draft-steps": rule(
        "speculative_num_steps speculative_algorithm speculative_eagle_topk "
        "speculative_num_draft_tokens speculative_adaptive",
        _steps,
        "speculative_num_steps, speculative_eagle_topk and speculative_num_draft_tokens together",
        "write all three, or none",
    ),
    "speculative-trtllm-moe": rule(
        "speculative_moe_runner_backend",
        lambda s: s["speculative_moe_runner_backend"] == "flashinfer_trtllm",
        "another one than flashinfer_trtllm, which some draft models cannot take",
        "remove it, or use another",
    ),
    "standalone-dp": rule(
        "speculative_algorithm enable_dp_attention dp_size",
        lambda s: speculates("STANDALONE")(s) and spreads_attention(s),
        "EAGLE or EAGLE3 with enable_dp_attention",
        "use one of these, or remove enable_dp_attention",
    ),
    "ngram-dp": rule(
        "speculative_algorithm enable_dp_attention dp_size",
        lambda s: speculates("NGRAM")(s) and spreads_attention(s),
        "EAGLE or EAGLE3 with enable_dp_attention",
        "use one of these, or remove enable_dp_attention",
    ),
    "branches-trtllm": rule(
        "speculative_eagle_topk attention_backend prefill_attention_backend "
        "decode_attention_backend speculative_algorithm",
        lambda s: speculates(*DRAFTING)(s) and _branches(s) and attends_with(s, "trtllm_mha"),
        "1 with trtllm_mha",
        "use 1, or another attention backend",
    ),
    "branches-paged": rule(
        "speculative_eagle_topk page_size attention_backend speculative_algorithm",
        _paged_tree,
        "1 with page_size above 1, or attention_backend: flashinfer",
        "use 1, or another attention_backend",
    ),
    "ngram-paged": rule(
        "page_size attention_backend speculative_algorithm speculative_ngram_max_bfs_breadth",
        _paged_ngram,
        "attention_backend: flashinfer with NGRAM and page_size above 1",
        "remove page_size, or use flashinfer",
    ),
    "flex-speculative": rule(
        "attention_backend speculative_algorithm",
        lambda s: (
            s["attention_backend"] == "flex_attention" and s["speculative_algorithm"] is not None
        ),
        "no speculative decoding with flex_attention",
        "use another attention_backend, or no speculative_algorithm",
    ),
}
