"""ROLL's ``generating_args`` as SGLang's sampling parameters of a request.

ROLL translates them in ``create_sampling_params_for_sglang``
(``roll/distributed/strategy/sglang_strategy.py``) and sends them with every request; they are no
arguments of the server.
"""

import math
from collections.abc import Iterator, Mapping

from sglang_operator.api import errors

FIELD = "spec.generating_args"

# generating_args -> sampling parameter, where the value stays what it is
_NUMBERS = {
    "max_new_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "num_return_sequences": "n",
}
_LISTS = {"stop_strings": "stop", "eos_token_id": "stop_token_ids"}


def sampling_params(generating_args: Mapping[str, object]) -> dict[str, object]:
    """The request parameters that these arguments set; what is absent is left to the trainer.

    Arguments without an equal in SGLang (``do_sample``, ``length_penalty``, …) are left out, as
    ROLL does.  Values are not judged here: see ``problems``.
    """
    given = {key: value for key, value in generating_args.items() if value is not None}
    if _is_number(beams := given.get("num_beams")) and beams > 1:  # type: ignore[operator]
        given["num_return_sequences"] = beams  # ROLL's GeneratingArguments.__post_init__
    params = {name: given[key] for key, name in _NUMBERS.items() if key in given}
    if not _is_positive(params.get("max_new_tokens", 1)):
        del params["max_new_tokens"]  # ROLL's GeneratingArguments.to_dict
    params |= {name: _listed(given[key]) for key, name in _LISTS.items() if key in given}
    if "stop" in params:
        params["no_stop_trim"] = given.get("include_stop_str_in_output", True)
    return params


def problems(generating_args: Mapping[str, object]) -> Iterator[errors.Problem]:
    """What is wrong with the arguments that ``sampling_params`` translates."""
    for key, value in generating_args.items():
        path = f"{FIELD}.{key}"
        if _unresolved(value):
            yield errors.UNRESOLVED(path, found=errors.shown(value))
        elif key in (*_NUMBERS, "num_beams") and value is not None and not _is_number(value):
            yield errors.FIELD_RANGE(
                path, found=errors.typed(value), expected="a number", advice="correct it"
            )
        elif key == "stop_strings" and not _are_strings(value):
            yield errors.FIELD_RANGE(
                path, found=errors.typed(value), expected="a list of strings", advice="correct it"
            )


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return not isinstance(value, (int, float)) or value > 0


def _listed(value: object) -> list[object]:
    """A list as it is; a single value as a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _unresolved(value: object) -> bool:
    return any(isinstance(item, str) and "${" in item for item in _listed(value))


def _are_strings(value: object) -> bool:
    return value is None or all(isinstance(item, str) for item in _listed(value))
