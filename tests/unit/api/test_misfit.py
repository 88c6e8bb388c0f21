"""What is said of a value of the wrong type."""

import math
from typing import Any

import pytest

from sglang_operator.api import errors, spec
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, guide_spec, with_config

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
    ({"placement": {"mode": "count"}}, "count, expected one of Count, Shared, Slot"),
    ({"security": {"apiKey": "sk-1234"}}, "found text, expected a map"),
    ({"security": {"adminApiKey": {"name": "a", "key": 12345}}}, "found a number, expected text"),
]


PROSE = "token s3cr3t-of-mine and more"
LONG = "s3cr3t" * 20


@pytest.mark.parametrize("text", [PROSE, LONG, f"{LONG} a"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("num_gpus_per_worker", lambda text: {"num_gpus_per_worker": text}),
        ("suspend", lambda text: {"suspend": text}),
        ("generation", lambda text: {"generation": text}),
        ("model_args", lambda text: {"model_args": text}),
        ("network.port", lambda text: {"network": {"port": text}}),
        ("weights.gate", lambda text: {"weights": {"gate": text}}),
        ("rollout.maxSurge", lambda text: {"rollout": {"maxSurge": text}}),
        ("engineVersion", lambda text: {"engineVersion": text}),
        ("router_replay.mode", lambda text: {"router_replay": {"mode": text}}),
        (
            "podTemplate.spec.terminationGracePeriodSeconds",
            lambda text: {"podTemplate": {"spec": {"terminationGracePeriodSeconds": text}}},
        ),
        (
            "podTemplate.spec.containers",
            lambda text: {"podTemplate": {"spec": {"containers": text}}},
        ),
        (
            "podTemplate.spec.containers[0].imagePullPolicy",
            lambda text: {
                "podTemplate": {
                    "spec": {"containers": [{"name": "engine", "imagePullPolicy": text}]}
                }
            },
        ),
        (
            "strategy_args.strategy_config.context_length",
            lambda text: with_config(context_length=text),
        ),
        (
            "strategy_args.strategy_config.attention_backend",
            lambda text: with_config(attention_backend=text),
        ),
    ],
)
def test_of_text_that_is_no_word_where_one_is_expected_nothing_is_told(field, change, text):
    """It was meant for another place, and may be a secret of no known form."""
    resolved = resolve_pool(OWNER, guide_spec(**change(text)))
    assert isinstance(resolved, Refused)
    found = [problem for problem in resolved.problems if problem.field == f"spec.{field}"]
    assert found
    assert "s3cr3t" not in " ".join(map(str, resolved.problems))


@pytest.mark.parametrize(("change", "words"), CASES, ids=str)
def test_a_wrong_type_is_told_with_what_was_found_and_what_to_do(change, words):
    resolved = resolve_pool(OWNER, guide_spec(**change))
    assert isinstance(resolved, Refused)
    (problem,) = resolved.errors
    assert words in problem.message
    assert problem.field.startswith(f"spec.{next(iter(change))}")
    assert not {"sk-1234", "12345"} & set(problem.message.split())


@pytest.mark.parametrize("path", sorted(spec.CHOICES))
def test_of_each_field_that_takes_one_of_a_few_words_these_are_named(path):
    wrong: dict[str, Any] = {}
    *outer, last = path.split(".")
    within = wrong
    for name in outer:
        within = within.setdefault(name, {})
    within[last] = "nonsense"
    with pytest.raises(errors.InvalidError) as caught:
        spec.parse(wrong)
    words = ", ".join(str(each.value) for each in spec.CHOICES[path])
    assert f"expected one of {words}" in str(caught.value)
