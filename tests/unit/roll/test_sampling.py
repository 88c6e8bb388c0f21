"""generating_args as SGLang's request parameters, compared with ROLL's own translation."""

import pytest

from sglang_operator.api import errors
from sglang_operator.roll import sampling

GUIDE = {
    "max_new_tokens": 4096,
    "top_p": 0.99,
    "top_k": 100,
    "num_beams": 1,
    "temperature": 0.99,
    "num_return_sequences": 8,
}


def test_the_guides_arguments_become_request_parameters():
    assert sampling.sampling_params(GUIDE) == {
        "max_new_tokens": 4096,
        "temperature": 0.99,
        "top_p": 0.99,
        "top_k": 100,
        "n": 8,
    }


@pytest.mark.parametrize(
    ("args", "params"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"temperature": None}, {}, id="null is absent"),
        pytest.param({"do_sample": True, "length_penalty": 1.0, "logprobs": 0}, {}, id="unknown"),
        pytest.param(
            {"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}, id="repetition penalty"
        ),
        pytest.param({"num_beams": 4}, {"n": 4}, id="beams set n"),
        pytest.param({"num_beams": 4, "num_return_sequences": 2}, {"n": 4}, id="beams win"),
        pytest.param({"num_beams": 1, "num_return_sequences": 2}, {"n": 2}, id="one beam does not"),
        pytest.param({"num_beams": "4"}, {}, id="beams that are no number"),
        pytest.param({"num_beams": True}, {}, id="beams that are a bool"),
        pytest.param({"max_new_tokens": 0}, {}, id="no limit, as in ROLL's to_dict"),
        pytest.param({"max_new_tokens": -1, "max_length": 9}, {}, id="max_length has no equal"),
        pytest.param(
            {"stop_strings": ["</s>"]},
            {"stop": ["</s>"], "no_stop_trim": True},
            id="stop strings are kept in the text, as ROLL asks",
        ),
        pytest.param(
            {"stop_strings": ["</s>"], "include_stop_str_in_output": False},
            {"stop": ["</s>"], "no_stop_trim": False},
            id="stop strings that are cut off",
        ),
        pytest.param({"include_stop_str_in_output": False}, {}, id="nothing to cut off"),
        pytest.param(
            {"stop_strings": "</s>"}, {"stop": ["</s>"], "no_stop_trim": True}, id="one string"
        ),
        pytest.param({"eos_token_id": [1, 2]}, {"stop_token_ids": [1, 2]}, id="token ids"),
        pytest.param({"eos_token_id": 7}, {"stop_token_ids": [7]}, id="one token id"),
    ],
)
def test_each_argument_is_translated_as_roll_does(args, params):
    assert sampling.sampling_params(args) == params


def test_the_arguments_are_not_changed():
    args = {"num_beams": 4, "stop_strings": ["a"]}
    stop = sampling.sampling_params(args)["stop"]
    assert isinstance(stop, list)
    stop.append("b")
    assert args == {"num_beams": 4, "stop_strings": ["a"]}


def test_good_arguments_have_no_problems():
    args = {**GUIDE, "stop_strings": ["</s>"], "do_sample": True, "max_length": None}
    assert list(sampling.problems(args)) == []


@pytest.mark.parametrize(
    ("args", "reason", "text"),
    [
        pytest.param(
            {"max_new_tokens": "${response_length}"},
            "ValueUnresolved",
            "spec.generating_args.max_new_tokens: the value is ${response_length}: ",
            id="a reference",
        ),
        pytest.param(
            {"stop_strings": ["${stop}"]},
            "ValueUnresolved",
            "spec.generating_args.stop_strings: ",
            id="a reference in a list",
        ),
        pytest.param(
            {"custom": "${x}"},
            "ValueUnresolved",
            "spec.generating_args.custom: ",
            id="a reference anywhere",
        ),
        pytest.param(
            {"top_k": "100"},
            "SpecInvalid",
            'spec.generating_args.top_k: found "100", expected a whole number of 1 or more, or -1; '
            "write it without quotes",
            id="a string for a number",
        ),
        pytest.param(
            {"temperature": float("nan")},
            "SpecInvalid",
            "spec.generating_args.temperature: found NaN, expected a number",
            id="no number",
        ),
        pytest.param(
            {"top_p": True},
            "SpecInvalid",
            "spec.generating_args.top_p: found true, expected a number",
            id="a bool",
        ),
        *(
            pytest.param(
                {key: value},
                "SpecInvalid",
                f"spec.generating_args.{key}: found {value}, expected {words}",
                id=f"{key} {value}",
            )
            for key, value, words in (
                ("max_new_tokens", 2.5, "a whole number; correct it"),
                ("top_k", 0, "a whole number of 1 or more, or -1; for all tokens write -1"),
                ("top_k", -2, "a whole number of 1 or more, or -1; for all tokens write -1"),
                ("top_p", 0, "a number above 0 and up to 1; for all tokens write 1"),
                ("top_p", 1.5, "a number above 0 and up to 1; for all tokens write 1"),
                ("temperature", -0.1, "a number of 0 or more; for greedy sampling write 0"),
                ("repetition_penalty", 3, "a number from 0 to 2; for none write 1"),
                ("num_return_sequences", 0, "a whole number of 1 or more; correct it"),
                ("num_beams", 1.5, "a whole number of 1 or more; correct it"),
            )
        ),
        pytest.param(
            {"stop_strings": [1]},
            "SpecInvalid",
            "spec.generating_args.stop_strings: found [1], expected a list of strings",
            id="stop numbers",
        ),
    ],
)
def test_what_cannot_be_translated_is_said(args, reason, text):
    (problem,) = sampling.problems(args)
    assert problem.reason == reason
    assert str(problem).startswith(text)
    assert problem.severity is errors.Severity.ERROR


@pytest.mark.parametrize(
    "args",
    [
        {"top_k": -1, "top_p": 1, "temperature": 0},
        {"top_k": 1.0, "max_new_tokens": 0, "repetition_penalty": 2},
        {"max_new_tokens": -1, "num_beams": 1},
    ],
)
def test_the_ends_of_what_sglang_takes_are_taken(args):
    assert list(sampling.problems(args)) == []


def test_every_problem_is_said_not_only_the_first():
    found = list(sampling.problems({"top_k": "a", "top_p": [], "max_new_tokens": "${x}"}))
    assert len(found) == 3


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["huge", "hugely negative"])
def test_numbers_of_any_size_raise_nothing(value):
    list(sampling.problems({"top_k": value}))
    sampling.sampling_params({"top_k": value, "num_beams": value, "max_new_tokens": value})
