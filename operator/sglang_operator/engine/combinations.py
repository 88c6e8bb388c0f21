"""What SGLang refuses of arguments together, where nothing but the arguments is needed for it.

A rule holds for the versions whose schema names its place: ``make schema`` has run the version's
own check on arguments that break the rule, and on others that just hold.  What depends on the
machine, the model or the environment is no rule here: nothing is refused that SGLang takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import aliases
from sglang_operator.engine.schema import Schema

Settings = Mapping[str, object]
_NO_MODEL = ("none", "dummy")  # for these SGLang checks nothing
_MODALITIES = {"image", "video", "audio"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule over fields of ServerArgs."""

    reads: tuple[str, ...]  # the fields that it depends on, the one to tell of first
    broken: Callable[[Settings], bool]
    expected: str
    advice: str


def _rule(reads: str, broken: Callable[[Settings], bool], expected: str, advice: str) -> Rule:
    return Rule(reads=tuple(reads.split()), broken=broken, expected=expected, advice=advice)


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _below(field: str, least: float) -> Callable[[Settings], bool]:
    def broken(s: Settings) -> bool:
        number = _number(s[field])
        return number is not None and number < least

    return broken


def _lora(s: Settings) -> bool:
    return s["enable_lora"] is True or (s["enable_lora"] is None and bool(s["lora_paths"]))


def _more(s: Settings, field: str, than: str) -> bool:
    one, other = _number(s[field]), _number(s[than])
    return one is not None and other is not None and one > other


def _outside(s: Settings) -> bool:
    ratio = _number(s["swa_full_tokens_ratio"])
    return ratio is not None and not 0 < ratio <= 1


def _modalities(s: Settings) -> bool:
    limits = s["limit_mm_data_per_request"]
    return isinstance(limits, Mapping) and not set(limits) <= _MODALITIES


def _steps(s: Settings) -> bool:
    given = (s["speculative_eagle_topk"], s["speculative_num_draft_tokens"])
    eagle = s["speculative_algorithm"] in ("EAGLE", "EAGLE3")
    return eagle and s["speculative_num_steps"] is None and given != (None, None)


RULES: Mapping[str, Rule] = {
    "loras-per-batch": _rule(
        "max_loras_per_batch",
        _below("max_loras_per_batch", 1),
        "1 or more",
        "raise it",
    ),
    "hierarchical-without-radix": _rule(
        "disable_radix_cache enable_hierarchical_cache",
        lambda s: s["disable_radix_cache"] is True and s["enable_hierarchical_cache"] is True,
        "one of the two: the hierarchical cache is the radix cache with more room",
        "remove disable_radix_cache, or enable_hierarchical_cache",
    ),
    "tokenizer-workers": _rule(
        "tokenizer_worker_num skip_tokenizer_init",
        lambda s: s["skip_tokenizer_init"] is not True and _below("tokenizer_worker_num", 1)(s),
        "1 or more",
        "raise it",
    ),
    "conservativeness": _rule(
        "schedule_conservativeness", _below("schedule_conservativeness", 0), "0 or more", "raise it"
    ),
    "swa-ratio": _rule(
        "swa_full_tokens_ratio", _outside, "a number above 0 and at most 1", "correct it"
    ),
    "metrics-file": _rule(
        "export_metrics_to_file export_metrics_to_file_dir",
        lambda s: s["export_metrics_to_file"] is True and s["export_metrics_to_file_dir"] is None,
        "export_metrics_to_file_dir beside it",
        "write the folder, or remove it",
    ),
    "lora-shape": _rule(
        "enable_lora lora_paths max_lora_rank lora_target_modules",
        lambda s: (
            s["enable_lora"] is True
            and not s["lora_paths"]
            and not (s["max_lora_rank"] and s["lora_target_modules"])
        ),
        "lora_paths, or both max_lora_rank and lora_target_modules",
        "write them",
    ),
    "loaded-loras": _rule(
        "max_loaded_loras max_loras_per_batch enable_lora lora_paths",
        lambda s: _lora(s) and _more(s, "max_loras_per_batch", "max_loaded_loras"),
        "at least max_loras_per_batch",
        "raise it, or lower max_loras_per_batch",
    ),
    "lora-all-modules": _rule(
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
    "lora-speculative": _rule(
        "enable_lora lora_paths speculative_algorithm",
        lambda s: s["enable_lora"] is True and s["speculative_algorithm"] in ("EAGLE", "EAGLE3"),
        "no speculative decoding with LoRA but NGRAM",
        "remove speculative_algorithm, or LoRA",
    ),
    "priority-policy": _rule(
        "schedule_policy enable_priority_scheduling",
        lambda s: (
            s["enable_priority_scheduling"] is True
            and s["schedule_policy"] not in ("fcfs", "lof", "routing-key", "hybrid-fcfs")
        ),
        "fcfs or lof with enable_priority_scheduling",
        "use fcfs",
    ),
    "decode-tp": _rule(
        "disaggregation_decode_tp disaggregation_mode",
        lambda s: (
            s["disaggregation_mode"] == "decode" and s["disaggregation_decode_tp"] is not None
        ),
        "it for disaggregation_mode: prefill alone",
        "remove it",
    ),
    "decode-dp": _rule(
        "disaggregation_decode_dp disaggregation_mode",
        lambda s: (
            s["disaggregation_mode"] == "decode" and s["disaggregation_decode_dp"] is not None
        ),
        "it for disaggregation_mode: prefill alone",
        "remove it",
    ),
    "prefix-mm-cache": _rule(
        "enable_prefix_mm_cache encoder_only",
        lambda s: s["enable_prefix_mm_cache"] is True and s["encoder_only"] is not True,
        "encoder_only: true beside it (it caches embeddings of images, not prefixes)",
        "remove it",
    ),
    "encoder-and-language": _rule(
        "encoder_only language_only",
        lambda s: s["encoder_only"] is True and s["language_only"] is True,
        "one of encoder_only and language_only",
        "remove one",
    ),
    "encoder-disaggregated": _rule(
        "encoder_only disaggregation_mode",
        lambda s: s["encoder_only"] is True and s["disaggregation_mode"] in ("prefill", "decode"),
        "no disaggregation_mode with encoder_only",
        "remove one of the two",
    ),
    "two-tokenizer-batches": _rule(
        "enable_dynamic_batch_tokenizer enable_tokenizer_batch_encode",
        lambda s: (
            s["enable_tokenizer_batch_encode"] is True
            and s["enable_dynamic_batch_tokenizer"] is True
        ),
        "one of enable_tokenizer_batch_encode and enable_dynamic_batch_tokenizer",
        "remove one",
    ),
    "offload-kv": _rule(
        "disaggregation_decode_enable_offload_kvcache disaggregation_mode",
        lambda s: (
            s["disaggregation_decode_enable_offload_kvcache"] is True
            and s["disaggregation_mode"] != "decode"
        ),
        "disaggregation_mode: decode beside it",
        "remove it",
    ),
    "dp-lm-head": _rule(
        "enable_dp_lm_head enable_dp_attention dp_size attn_dp_size dwdp_size",
        lambda s: (
            s["enable_dp_lm_head"] is True
            and s["enable_dp_attention"] is not True
            and (_number(s["dp_size"]) or 1) > 1
            and (_number(s["attn_dp_size"]) or 1) == 1
        ),
        "enable_dp_attention: true beside it",
        "remove it",
    ),
    "dense-tp": _rule(
        "moe_dense_tp_size",
        lambda s: _number(s["moe_dense_tp_size"]) not in (None, 1),
        "1 or nothing",
        "remove it",
    ),
    "model-name-colon": _rule(
        "served_model_name",
        lambda s: isinstance(s["served_model_name"], str) and ":" in s["served_model_name"],
        "a name without a colon, which separates a model from an adapter",
        "choose another name",
    ),
    "modalities": _rule(
        "limit_mm_data_per_request", _modalities, "a map with image, video and audio", "correct it"
    ),
    "draft-steps": _rule(
        "speculative_num_steps speculative_algorithm speculative_eagle_topk "
        "speculative_num_draft_tokens",
        _steps,
        "speculative_num_steps, speculative_eagle_topk and speculative_num_draft_tokens together",
        "write all three, or none",
    ),
    "deterministic-attention": _rule(
        "attention_backend enable_deterministic_inference",
        lambda s: (
            s["enable_deterministic_inference"] is True
            and s["attention_backend"] in ("torch_native", "flex_attention", "flashmla")
        ),
        "flashinfer, fa3 or triton with enable_deterministic_inference",
        "use one of these",
    ),
    "flex-speculative": _rule(
        "attention_backend speculative_algorithm",
        lambda s: (
            s["attention_backend"] == "flex_attention" and s["speculative_algorithm"] is not None
        ),
        "no speculative decoding with flex_attention",
        "use another attention_backend, or no speculative_algorithm",
    ),
    "fa4-decode": _rule(
        "decode_attention_backend prefill_attention_backend",
        lambda s: s["decode_attention_backend"] == "fa4" != s["prefill_attention_backend"],
        "fa4 for prefill alone",
        "write prefill_attention_backend: fa4 instead",
    ),
}


def check(
    given: aliases.Given, schema: Schema, exact: bool, extra: Sequence[str]
) -> Iterator[errors.Problem]:
    """Every rule of the version that the arguments break; of a version not known, nothing."""
    if not exact or str(given.values.get("model_path", "")).lower() in _NO_MODEL:
        return
    settings = _Settings(given, schema)
    for name, place in schema.rules.items():
        rule = RULES[name]
        if not _is_open(rule, extra) and rule.broken(settings):
            yield _problem(given, schema, rule, settings, place)


def _problem(
    given: aliases.Given, schema: Schema, rule: Rule, settings: Settings, place: str
) -> errors.Problem:
    written = [field for field in rule.reads if field in given.spelled]
    found = [
        f"{given.spelling(field)} is {errors.typed(settings[field])}"
        for field in written or rule.reads[:1]
    ]
    return errors.ARGUMENT_COMBINATION(
        given.path(written[0] if written else rule.reads[0]),
        found=" and ".join(found),
        expected=rule.expected,
        advice=rule.advice,
        version=schema.version,
        place=place,
    )


def _is_open(rule: Rule, extra: Sequence[str]) -> bool:
    """Whether ``extraArgs`` may say otherwise: argparse takes unique beginnings of flags too."""
    names = [item[2:].partition("=")[0].replace("-", "_") for item in extra if item[:2] == "--"]
    return any(field.startswith(name) for name in names for field in rule.reads)


class _Settings(dict[str, object]):
    """The fields of ServerArgs as they will be; one that nobody sets is the version's default."""

    def __init__(self, given: aliases.Given, schema: Schema) -> None:
        super().__init__(schema.defaults)
        for key, value in given.values.items():
            argument = schema.argument(key)
            if argument is None or argument.const is not None or value is None:
                continue
            self[argument.field] = value

    def __missing__(self, key: str) -> object:
        return None
