"""ROLL's sections of a spec by their names: the strategy, the model, and what nobody would read.

ROLL's loader forgets every name that it does not know (``dacite.from_dict``), and so would we: a
misspelt one has no effect, and nobody is told.
"""

from collections.abc import Iterator, Mapping

from sglang_operator.api import errors, spelling
from sglang_operator.api.spec import PoolSpec

STRATEGY = "sglang"
_NAME = "spec.strategy_args.strategy_name"
_MODEL = "model_name_or_path"
_TOKENIZER = "skip_tokenizer_init"
# Fields of ROLL's ModelArguments and GeneratingArguments (roll/configs), and what it adds to them.
_OF_MODEL = """
    model_name_or_path adapter_name_or_path attn_implementation moe_aux_loss_coef
    disable_gradient_checkpointing gradient_checkpointing_use_reentrant device_map dtype model_type
    num_labels model_config_kwargs freeze_module_prefix ulysses_size vision_dp additional_target
    autocast_adapter_dtype lora_alpha lora_dropout lora_rank lora_target
"""
_OF_GENERATION = """
    do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty
    length_penalty num_return_sequences stop_strings include_stop_str_in_output logprobs
    eos_token_id pad_token_id
"""
_MODEL_ARGS = frozenset(_OF_MODEL.split())
_GENERATING_ARGS = frozenset(_OF_GENERATION.split())
# Those of them that something here depends on; a misspelt one of the others does no harm.
_READ = frozenset({_MODEL, "dtype", "lora_target"}) | _GENERATING_ARGS - {
    "do_sample",
    "max_length",
    "length_penalty",
    "logprobs",
    "pad_token_id",
}
# Names that others have for the same.
_OF_OTHERS: Mapping[str, str] = {
    "model": _MODEL,
    "model_path": _MODEL,
    "model_name": _MODEL,
    "pretrain": _MODEL,
    "torch_dtype": "dtype",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "stop": "stop_strings",
    "stop_token_ids": "eos_token_id",
}
_OF_NO_TEXT = "no-text"  # a model that is told as wrong, and so never loaded
_MOST_TOLD = 8  # of a map of many names that nobody knows, the first say enough


def problems(parsed: PoolSpec) -> Iterator[errors.Problem]:
    """What is wrong with the strategy, the model, and the names beside them."""
    yield from _strategy(parsed.strategy_args.strategy_name)
    if parsed.infer_batch_size is not None:
        yield errors.INFER_BATCH_SIZE("spec.infer_batch_size")
    yield from _tokenizer(parsed)
    model = parsed.model_args.get(_MODEL)
    if model is not None and not isinstance(model, str):
        yield errors.FIELD_RANGE(
            f"spec.model_args.{_MODEL}",
            found=errors.typed(model),
            expected="text: a Hugging Face id or a path in the pod",
            advice="write it in quotes" if isinstance(model, (int, float)) else "correct it",
        )
    yield from _unread("model_args", parsed.model_args, _MODEL_ARGS)
    yield from _unread("generating_args", parsed.generating_args, _GENERATING_ARGS)


def _tokenizer(parsed: PoolSpec) -> Iterator[errors.Problem]:
    """ROLL's default has to be meant where the pool is not ROLL's, which gives GPU ids.

    It stays the default all the same: another one would start the engines of such pools anew.
    """
    config = parsed.strategy_args.strategy_config or {}
    said = {str(name).lstrip("-").replace("-", "_") for name in (*config, *parsed.extra_args)}
    if parsed.device_mapping is None and _TOKENIZER not in said:
        yield errors.TOKENIZER_SKIPPED(f"spec.strategy_args.strategy_config.{_TOKENIZER}")


def section_of(name: str) -> str | None:
    """The section of a worker that a name belongs into, if it is one of ROLL's."""
    for section, known in (("model_args", _MODEL_ARGS), ("generating_args", _GENERATING_ARGS)):
        if spelling.respelt(name, known):
            return section
    return None


def model(model_args: Mapping[str, object]) -> str | None:
    """The model that is meant, also where its name or its value is told as wrong."""
    found = model_args.get(_MODEL)
    if found is None:
        names = (name for name in model_args if _meant(name, _MODEL_ARGS) == _MODEL)
        found = next((model_args[name] for name in names), None)
    return found if found is None or isinstance(found, str) else _OF_NO_TEXT


def _strategy(found: str | None) -> Iterator[errors.Problem]:
    if found is None:
        yield errors.FIELD_MISSING(_NAME, advice=f"write strategy_name: {STRATEGY}")
    elif "${" in found:
        yield errors.UNRESOLVED(_NAME, found=errors.shown(found))
    elif spelling.meant(found, (STRATEGY,)):
        shown = errors.shown(found)
        yield errors.FIELD_RANGE(_NAME, found=shown, expected=STRATEGY, advice="write it so")
    elif found != STRATEGY:
        yield errors.STRATEGY_NAME(_NAME, found=errors.shown(found))


def _unread(
    section: str, given: Mapping[str, object], known: frozenset[str]
) -> Iterator[errors.Problem]:
    """Names that stand for one that is read, and are not."""
    left = _MOST_TOLD
    for name, value in given.items():
        if name in known or value is None or not left:
            continue
        left -= 1
        meant = _meant(name, known)
        if meant in _READ and given.get(meant) is None:
            yield errors.FIELD_RANGE(
                f"spec.{section}.{name}",
                found=f"the name {errors.shown(name)}",
                expected=str(meant),
                advice="write it so: ROLL drops in silence what it does not know",
            )


def _meant(name: str, known: frozenset[str]) -> str | None:
    if name in known:
        return None
    other = _OF_OTHERS.get(name.replace("-", "_").lower())
    return other if other is not None and other in known else spelling.meant(name, known)
