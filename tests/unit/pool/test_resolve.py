"""A pool as a whole: what only several fields together say."""

import pytest

from sglang_operator.api import errors
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, a_pool, guide_spec, with_config

LORA = {**guide_spec()["model_args"], "lora_target": "all-linear", "lora_rank": 32}


def reasons(spec):
    resolved = resolve_pool(OWNER, spec)
    problems = resolved.problems if isinstance(resolved, Refused) else resolved.warnings
    return [(problem.reason, problem.severity, problem.field) for problem in problems]


def test_rolls_lora_is_refused_where_a_trainer_brings_the_weights():
    assert reasons(guide_spec(model_args=LORA)) == [
        ("LoRAUnsupported", errors.Severity.ERROR, "spec.model_args.lora_target")
    ]


def test_rolls_lora_is_accepted_where_engines_load_all_weights_themselves():
    assert reasons(guide_spec(model_args=LORA, weights={"gate": "Off"})) == []


def test_no_lora_target_is_no_lora():
    assert reasons(guide_spec(model_args={**LORA, "lora_target": None})) == []


def test_adapters_under_a_name_with_dashes_are_warned_of_too():
    told = [reason for reason, _, _ in reasons(with_config(**{"lora-paths": ["a=/a"]}))]
    assert told == ["ArgumentSpelling", "WeightSyncUnsupported"]


@pytest.mark.parametrize(
    "config",
    [
        {"enable_lora": True, "max_lora_rank": 8, "lora_target_modules": ["all"]},
        {"lora_paths": ["a=/a"]},
    ],
)
def test_adapters_that_no_commit_reaches_are_warned_of(config):
    name = next(iter(config))
    told = ("WeightSyncUnsupported", errors.Severity.WARNING)
    assert reasons(with_config(**config)) == [(*told, f"spec.strategy_args.strategy_config.{name}")]
    assert a_pool({**with_config(**config), "weights": {"gate": "Off"}}).warnings == ()


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"security": {"apiKey": {"name": "My_Secret", "key": "k"}}}, "security.apiKey.name"),
        ({"security": {"apiKey": {"name": "s", "key": "a b"}}}, "security.apiKey.key"),
        (
            {"scheduling": {"priorityClassName": "Highest"}},
            "scheduling.priorityClassName",
        ),
    ],
)
def test_names_of_what_cannot_exist_are_refused(section, field):
    told = ("SpecInvalid", errors.Severity.ERROR, f"spec.{field}")
    assert reasons(guide_spec(**section)) == [told]


def resources(**amounts):
    container = {"name": "engine", "resources": {"requests": amounts}}
    return guide_spec(podTemplate={"spec": {"containers": [container]}})


@pytest.mark.parametrize(
    "amount", ["banana", "", "-1", "1e400Gi", "1 Gi", "64GiB", True, [1], float("inf"), "1\n"]
)
def test_an_amount_that_is_no_quantity_is_refused_before_a_pod_is(amount):
    path = "spec.podTemplate.spec.containers[0].resources.requests.memory"
    assert reasons(resources(memory=amount)) == [("SpecInvalid", errors.Severity.ERROR, path)]


@pytest.mark.parametrize("amount", [8, 0.5, "500m", "64Gi", "1e3", ".5", "2.", "9" * 40])
def test_an_amount_that_is_a_quantity_is_taken(amount):
    assert reasons(resources(memory=amount)) == []


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_a_seed_that_numpy_does_not_take_is_refused_at_the_seed(seed):
    assert reasons(guide_spec(seed=seed)) == [("SpecInvalid", errors.Severity.ERROR, "spec.seed")]
