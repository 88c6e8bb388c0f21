"""A pool as a whole: what only several fields together say."""

import pytest

from sglang_operator.api import errors
from sglang_operator.planner.pool import Refused, plan_pool
from tests.builders import OWNER, a_pool, guide_spec, with_config

LORA = {**guide_spec()["model_args"], "lora_target": "all-linear", "lora_rank": 32}


def reasons(spec):
    planned = plan_pool(OWNER, spec)
    problems = planned.problems if isinstance(planned, Refused) else planned.warnings
    return [(problem.reason, problem.severity, problem.field) for problem in problems]


def test_rolls_lora_is_refused_where_a_trainer_brings_the_weights():
    assert reasons(guide_spec(model_args=LORA)) == [
        ("LoRAUnsupported", errors.Severity.ERROR, "spec.model_args.lora_target")
    ]


def test_rolls_lora_is_accepted_where_engines_load_all_weights_themselves():
    assert reasons(guide_spec(model_args=LORA, weights={"gate": "Off"})) == []


def test_no_lora_target_is_no_lora():
    assert reasons(guide_spec(model_args={**LORA, "lora_target": None})) == []


@pytest.mark.parametrize(
    "config", [{"enable_lora": True}, {"lora_paths": ["a=/a"]}, {"lora-paths": ["a=/a"]}]
)
def test_adapters_that_no_commit_reaches_are_warned_of(config):
    (name,) = config
    told = ("WeightSyncUnsupported", errors.Severity.WARNING)
    assert reasons(with_config(**config)) == [(*told, f"spec.strategy_args.strategy_config.{name}")]
    assert a_pool({**with_config(**config), "weights": {"gate": "Off"}}).warnings == ()
