"""What is said of a value of the wrong type."""

import math

import pytest

from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, guide_spec

CASES = [
    ({"num_gpus_per_worker": "2"}, '"2", expected a whole number; write it without quotes'),
    ({"num_gpus_per_worker": " 2 "}, "expected a whole number; write it without quotes"),
    ({"num_gpus_per_worker": "2 GPUs"}, "2 GPUs, expected a whole number; correct it"),
    ({"num_gpus_per_worker": True}, "true, expected a whole number; correct it"),
    ({"num_gpus_per_worker": 2.5}, "2.5, expected a whole number; correct it"),
    ({"num_gpus_per_worker": math.nan}, "NaN, expected a whole number; correct it"),
    ({"num_gpus_per_worker": []}, "[], expected a whole number; correct it"),
    ({"num_gpus_per_node": "8"}, '"8", expected a whole number; write it without quotes'),
    ({"num_gpus_per_node": "${x}"}, "write the value itself"),
    ({"seed": "4.2"}, '"4.2", expected a whole number; correct it'),
    ({"suspend": "true"}, '"true", expected true or false; write it without quotes'),
    ({"image": 1.5}, "1.5, expected text; write it in quotes"),
    ({"model_args": "Qwen/Qwen3-8B"}, "Qwen/Qwen3-8B, expected a map; correct it"),
    ({"generation": "perRequest"}, "perRequest, expected one of PerRequest, ServerDefault"),
    ({"placement": {"mode": "count"}}, "count, expected one of Count, Slot, Exact"),
    ({"security": {"apiKey": "sk-1234"}}, "found text, expected a map"),
    ({"security": {"adminApiKey": {"name": "a", "key": 12345}}}, "found a number, expected text"),
]


@pytest.mark.parametrize(("change", "words"), CASES, ids=str)
def test_a_wrong_type_is_told_with_what_was_found_and_what_to_do(change, words):
    resolved = resolve_pool(OWNER, guide_spec(**change))
    assert isinstance(resolved, Refused)
    (problem,) = resolved.errors
    assert words in problem.message
    assert problem.field.startswith(f"spec.{next(iter(change))}")
    assert not {"sk-1234", "12345"} & set(problem.message.split())
