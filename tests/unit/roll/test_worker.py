"""The strategy and the model by their names, and names that nobody would read."""

import pytest

from sglang_operator.api.errors import Severity
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, guide_spec


def told(**changes):
    """The errors of a spec with these changes."""
    resolved = resolve_pool(OWNER, guide_spec(**changes))
    assert isinstance(resolved, Refused)
    return [(p.field, p.message) for p in resolved.problems if p.severity is Severity.ERROR]


NAMES = [
    ("model_args", "modelNameOrPath", "a/b", "model_name_or_path"),
    ("model_args", "model-name-or-path", "a/b", "model_name_or_path"),
    ("model_args", "model_path", "a/b", "model_name_or_path"),
    ("model_args", "model_nam_or_path", "a/b", "model_name_or_path"),
    ("generating_args", "maxNewTokens", 5, "max_new_tokens"),
    ("generating_args", "max-new-tokens", 5, "max_new_tokens"),
    ("generating_args", "max_tokens", 5, "max_new_tokens"),
    ("generating_args", "temprature", 0.5, "temperature"),
    ("generating_args", "topP", 0.5, "top_p"),
    ("generating_args", "n", 2, "num_return_sequences"),
]


@pytest.mark.parametrize(("section", "name", "value", "meant"), NAMES)
def test_a_name_that_is_not_read_is_told_once_with_the_one_that_is(section, name, value, meant):
    ((field, message),) = told(**{section: {name: value}})
    assert field == f"spec.{section}.{name}"
    assert f"found the name {name}, expected {meant}; write it so" in message


@pytest.mark.parametrize("name", ["dType", "torch_dtype", "loraTarget"])
def test_a_name_beside_the_models_is_told_too(name):
    ((field, _),) = told(model_args={"model_name_or_path": "a/b", name: "fp16"})
    assert field == f"spec.model_args.{name}"


@pytest.mark.parametrize("name", ["min_p", "presence_penalty", "my_own", "top_n", "top"])
def test_a_name_that_stands_for_none_is_left_alone(name):
    resolved = resolve_pool(OWNER, guide_spec(generating_args={name: 1}))
    assert not isinstance(resolved, Refused)


@pytest.mark.parametrize(
    ("value", "found"), [(True, "true"), (7, "7"), ([], "[]"), ({}, "{}"), (["a"], '["a"]')]
)
def test_a_model_that_is_no_text_is_there_and_wrong(value, found):
    ((field, message),) = told(model_args={"model_name_or_path": value})
    assert field == "spec.model_args.model_name_or_path"
    assert message.startswith(f"found {found}, expected text: a Hugging Face id or a path")


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_model_that_is_empty_is_not_there(value):
    ((_, message),) = told(model_args={"model_name_or_path": value})
    assert "is not set" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SGLang", "found SGLang, expected sglang; write it so"),
        ("sg_lang", "expected sglang; write it so"),
        ("", 'strategy_name is ""; expected sglang'),
        ("vllm", "leave other workers to ROLL"),
        ("megatron_infer", "leave other workers to ROLL"),
        ("${strategy}", "filled in by ROLL's config loader"),
    ],
)
def test_a_strategy_is_told_as_what_it_is(name, words):
    config = guide_spec()["strategy_args"]["strategy_config"]
    ((field, message),) = told(strategy_args={"strategy_name": name, "strategy_config": config})
    assert field == "spec.strategy_args.strategy_name"
    assert words in message


def test_a_misspelt_name_that_no_engine_depends_on_does_no_harm():
    resolved = resolve_pool(
        OWNER,
        guide_spec(
            model_args={"model_name_or_path": "a/b", "disable-gradient-checkpointing": True},
            generating_args={"doSample": True},
        ),
    )
    assert not isinstance(resolved, Refused)
