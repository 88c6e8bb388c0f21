"""What the operator plans of a pool's memory, and where it says nothing."""

import pytest

from sglang_operator.memory import cards
from sglang_operator.memory.verdict import Outcome
from sglang_operator.pool import planned_memory
from tests.builders import a_pool, guide_spec, with_config

H100 = cards.CARDS["H100-80GB"]


def of_model(model, **config):
    raw = with_config(**config) | {"model_args": {"model_name_or_path": model, "dtype": "bf16"}}
    return planned_memory.of(a_pool(raw), H100)


def test_the_guides_engines_are_planned_as_kubectl_sglang_plan_does():
    found = planned_memory.of(a_pool(), H100)
    assert found is not None
    assert found.verdict.outcome is Outcome.FITS
    assert found.plan.pools.tokens == pytest.approx(567_061, rel=0.02)  # how-to/plan.md


@pytest.mark.parametrize("model", ["somebody/their-own", "/models/checkpoint-7", "", "x" * 4096])
def test_a_model_that_is_not_shipped_as_data_is_not_planned(model):
    assert of_model(model or "?") is None


def test_without_a_card_nothing_is_planned():
    assert planned_memory.of(a_pool(), None) is None


def test_gpus_of_another_kind_are_not_those_that_the_labels_tell_of():
    pool = a_pool(placement={"resourceName": "nvidia.com/mig-1g.10gb"})
    assert planned_memory.of(pool, H100) is None


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"hidden_size": "large"},
        {"vocab_size": None},
        {"num_key_value_heads": [8]},
        {"head_dim": 2**63 - 1},
    ],
)
def test_sizes_of_which_there_are_no_engines_stand_in_nobodys_way(overrides):
    planned_memory.of(a_pool(with_config(json_model_override_args=overrides)), H100)


def test_a_pool_asks_for_a_card_by_the_labels_of_its_nodes():
    selector = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    pool = a_pool(guide_spec(podTemplate={"spec": {"nodeSelector": selector}}))
    assert planned_memory.asked_for(pool) == H100
    assert planned_memory.asked_for(a_pool()) is None
