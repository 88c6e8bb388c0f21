"""The environment of an engine: ours, ROLL's, and what may not be set."""

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import environment, versions

NEW = versions.features(versions.parse("0.5.7"))
OLD = versions.features(versions.parse("0.5.5.post3"))

DEFAULTS = {
    "FLASHINFER_WORKSPACE_BASE": "/cache",
    "HOME": "/cache",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
    "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
    "TRITON_CACHE_DIR": "/cache/triton",
}


def only_problem(system_envs, features=NEW):
    found, problems = environment.environment(system_envs, features)
    (problem,) = problems
    return found, problem


def test_a_pool_without_system_envs_has_our_defaults():
    found, problems = environment.environment({}, NEW)
    assert found == DEFAULTS
    assert list(found) == sorted(found)
    assert problems == ()


def test_where_the_variable_has_no_effect_it_is_not_set():
    found, _ = environment.environment({}, OLD)
    assert found == {k: v for k, v in DEFAULTS.items() if not k.startswith("SGLANG_")}


@pytest.mark.parametrize(
    "name", ["NCCL_CUMEM_ENABLE", "NCCL_NVLS_ENABLE", "HOME", "TRITON_CACHE_DIR"]
)
def test_the_user_has_the_last_word_over_a_default(name):
    found, problems = environment.environment({name: "mine"}, NEW)
    assert found == {**DEFAULTS, name: "mine"}
    assert problems == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("a", "a", id="text"),
        pytest.param("", "", id="empty text"),
        pytest.param(1, "1", id="an integer"),
        pytest.param(0, "0", id="zero"),
        pytest.param(0.5, "0.5", id="a float"),
        pytest.param(True, "true", id="true"),
        pytest.param(False, "false", id="false"),
        pytest.param("a b\nc", "a b\nc", id="two lines"),
        pytest.param("$(HOME) $HOME", "$$(HOME) $$HOME", id="what the kubelet would expand"),
    ],
)
def test_values_become_strings(value, text):
    found, problems = environment.environment({"A": value}, NEW)
    assert found["A"] == text
    assert problems == ()


def test_null_is_absent():
    assert environment.environment({"A": None, "CUDA_VISIBLE_DEVICES": None}, NEW) == (DEFAULTS, ())


@pytest.mark.parametrize(
    ("system_envs", "text"),
    [
        pytest.param({"A": [1]}, "A is a list; expected a string or a number", id="a list"),
        pytest.param({"A": {}}, "A is a map; expected a string or a number", id="a map"),
        pytest.param({"A": float("nan")}, "A is NaN;", id="no number"),
        pytest.param({"A": 10**5000}, "A is a int;", id="a huge number"),
        pytest.param({"A": "x\0y"}, "A is text with a character that ends it;", id="a NUL"),
        pytest.param({"": "x"}, '"" is no name of a variable;', id="no name"),
        pytest.param(
            {"1A": "x"}, "1A is no name of a variable;", id="a name that begins with a digit"
        ),
        pytest.param({"A=B": "x"}, "A… is no name of a variable;", id="an equals sign in the name"),
        pytest.param({"A B": "x"}, "A B is no name of a variable;", id="a blank in the name"),
        pytest.param({1: "x"}, "1 is no name of a variable;", id="a number for a name"),
    ],
)
def test_what_no_environment_can_hold_is_refused(system_envs, text):
    found, problem = only_problem(system_envs)
    assert found == DEFAULTS
    assert problem.reason == "SystemEnvInvalid"
    assert problem.message.startswith(text)


def test_a_reference_that_roll_would_resolve_is_refused():
    _, problem = only_problem({"A": "${oc.env:HOME}"})
    assert problem.reason == "ValueUnresolved"
    assert problem.field == "spec.system_envs.A"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CUDA_VISIBLE_DEVICES", "the device plugin gives an engine its GPUs"),
        ("NVIDIA_VISIBLE_DEVICES", "the device plugin gives an engine its GPUs"),
        ("SGLANG_API_KEY", "name a Secret in security.apiKey"),
        ("SGLANG_ADMIN_API_KEY", "name a Secret in security.adminApiKey"),
    ],
)
def test_what_others_decide_is_refused(name, advice):
    _, problem = only_problem({name: "hush"})
    assert problem.reason == "SystemEnvOwned"
    assert problem.field == f"spec.system_envs.{name}"
    assert problem.severity is errors.Severity.ERROR
    assert advice in problem.message
    assert ("hush" in problem.message) is ("API_KEY" not in name)


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_an_allocator_setting_that_breaks_sleep_is_removed_with_a_warning(name):
    found, problem = only_problem({name: "expandable_segments:True"})
    assert found == DEFAULTS
    assert problem.reason == "SystemEnvRemoved"
    assert problem.severity is errors.Severity.WARNING
    assert problem.message.startswith(f"{name} is expandable_segments:True, and is not passed on")


@pytest.mark.parametrize("value", ["true", "1", True, 1, "off", "anything"])
def test_a_health_check_that_generates_is_refused(value):
    _, problem = only_problem({"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": value})
    assert problem.reason == "SystemEnvOwned"
    assert "kills a sleeping engine" in problem.message


@pytest.mark.parametrize("value", ["false", "False", "0", 0, False, "no"])
def test_a_health_check_that_does_not_may_be_said_twice(value):
    _, problems = environment.environment({"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": value}, NEW)
    assert problems == ()


@pytest.mark.parametrize("value", ["1", 1, "true", True])
def test_rolls_word_for_modelscope_is_translated_into_sglangs(value):
    found, problems = environment.environment({"USE_MODELSCOPE": value}, NEW)
    assert found["SGLANG_USE_MODELSCOPE"] == "true"
    assert found["USE_MODELSCOPE"] in ("1", "true")
    assert problems == ()


def test_sglangs_own_word_for_modelscope_wins():
    envs = {"USE_MODELSCOPE": "1", "SGLANG_USE_MODELSCOPE": "false"}
    assert environment.environment(envs, NEW)[0]["SGLANG_USE_MODELSCOPE"] == "false"


@pytest.mark.parametrize("value", ["0", "false", None])
def test_without_modelscope_nothing_is_said_about_it(value):
    assert "SGLANG_USE_MODELSCOPE" not in environment.environment({"USE_MODELSCOPE": value}, NEW)[0]


def test_every_problem_is_said_not_only_the_first():
    envs = {"1": "x", "A": [], "CUDA_VISIBLE_DEVICES": "0", "PYTORCH_CUDA_ALLOC_CONF": "x"}
    _, problems = environment.environment(envs, NEW)
    assert [problem.reason for problem in problems] == [
        "SystemEnvInvalid",
        "SystemEnvInvalid",
        "SystemEnvOwned",
        "SystemEnvRemoved",
    ]
