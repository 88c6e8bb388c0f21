"""ROLL's ``generating_args`` as SGLang's sampling parameters of a request.

ROLL translates them in ``create_sampling_params_for_sglang``
(``roll/distributed/strategy/sglang_strategy.py``) and sends them with every request; they are no
arguments of the server.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

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
_WHOLE = frozenset({"max_new_tokens", "top_k", "num_return_sequences", "num_beams"})
# What is expected of a number, and what to do about one that is none of these.
_BOUNDS = {
    "max_new_tokens": ("a whole number", "correct it"),
    "temperature": ("a number of 0 or more", "for greedy sampling write 0"),
    "top_p": ("a number above 0 and up to 1", "for all tokens write 1"),
    "top_k": ("a whole number of 1 or more, or -1", "for all tokens write -1"),
    "repetition_penalty": ("a number from 0 to 2", "for none write 1"),
    "num_return_sequences": ("a whole number of 1 or more", "correct it"),
    "num_beams": ("a whole number of 1 or more", "correct it"),
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
        elif key in _BOUNDS and value is not None:
            yield from _number_problem(path, value, *_BOUNDS[key])
        elif key == "stop_strings" and not _are_strings(value):
            yield errors.FIELD_RANGE(
                path, found=errors.typed(value), expected="a list of strings", advice="correct it"
            )


def _number_problem(
    path: str, value: object, expected: str, advice: str
) -> Iterator[errors.Problem]:
    if not _is_number(value):
        is_quoted = isinstance(value, str) and _is_written_number(value)
        advice = "write it without quotes" if is_quoted else "correct it"
    elif _fits(path.rpartition(".")[2], value):
        return
    yield errors.FIELD_RANGE(path, found=errors.word(value), expected=expected, advice=advice)


def _is_written_number(text: str) -> bool:
    try:
        return math.isfinite(float(text[:32]))
    except ValueError:
        return False


def _fits(key: str, value: Any) -> bool:
    """Whether SGLang takes a request with it (SamplingParams.verify), and ROLL its type."""
    if key in _WHOLE and value != int(value):
        return False
    match key:
        case "temperature":
            return bool(value >= 0)
        case "top_p":
            return bool(0 < value <= 1)
        case "repetition_penalty":
            return bool(0 <= value <= 2)
        case "top_k":
            return bool(value == -1 or value >= 1)
        case "num_return_sequences" | "num_beams":
            return bool(value >= 1)
    return True


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
