"""What stands in for ROLL's module roll.distributed.strategy.sglang_strategy (at 8eb27cc2).

ROLL imports it by name, in each process where it needs something of it: workers the strategy,
schedulers, env managers and judges the two functions, which give requests and answers their form.
Its own module needs SGLang, and a version of ROLL's list; this one neither SGLang nor a GPU, and it
imports nothing of ROLL before the strategy is asked for: ``install`` can be Ray's
worker_process_setup_hook.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.client.calls import Json

ROLLS_MODULE = "roll.distributed.strategy.sglang_strategy"
HOOK = f"{__name__}.install"
_AS_NAMED = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
_DRAFTS = (
    "spec_accept_rate",
    "spec_accept_length",
    "spec_accept_token_num",
    "spec_draft_token_num",
)


def install() -> None:
    """Let ROLL find this module in place of its own, in this process."""
    sys.modules[ROLLS_MODULE] = sys.modules[__name__]


def installed() -> bool:
    """Whether ROLL finds this module in this process."""
    return sys.modules.get(ROLLS_MODULE) is sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name == "SgLangStrategy":
        from sglang_operator.client.roll import OperatorPoolStrategy

        return OperatorPoolStrategy
    raise AttributeError(f"module {__name__} has no attribute {name}")


def create_sampling_params_for_sglang(gen_kwargs: Mapping[str, Any]) -> Json:
    """ROLL's generating_args as SGLang's sampling parameters (explanation/roll.md)."""
    renamed = {
        "stop_token_ids": gen_kwargs["eos_token_id"],
        "n": gen_kwargs["num_return_sequences"],
        "stop": gen_kwargs.get("stop_strings"),
        "no_stop_trim": gen_kwargs.get("include_stop_str_in_output", True),
    }
    return {**{key: gen_kwargs[key] for key in _AS_NAMED}, **renamed}


def postprocess_generate(chunks: Sequence[Mapping[str, Any]]) -> Json:
    """Answers of /generate in the form that ROLL's schedulers read.

    Where logprobs were asked for, tokens and logprobs are cut to the shorter of the two.
    """
    about = [chunk["meta_info"] for chunk in chunks]
    tokens = [chunk.get("output_ids", []) for chunk in chunks]
    found: Json = {}
    told = [each.get("output_token_logprobs") for each in about]
    if any(each is not None for each in told):
        pairs = [
            list(zip(ids, of or [], strict=False)) for ids, of in zip(tokens, told, strict=True)
        ]
        tokens = [[token for token, _ in each] for each in pairs]
        found["output_logprobs"] = [[chosen[0] for _, chosen in each] for each in pairs]
    found["output_token_ids"] = tokens
    found["finish_reasons"] = [_reason(each["finish_reason"]) for each in about]
    experts = [each.get("routed_experts") for each in about]
    if any(each is not None for each in experts):
        found["routed_experts"] = experts
    metrics = {key: [each[key] for each in about if key in each] for key in _DRAFTS}
    if any(metrics.values()):
        found["metrics"] = {key: values for key, values in metrics.items() if values}
    return found


def _reason(reason: Any) -> Any:
    return reason["type"] if isinstance(reason, Mapping) else reason
