"""What the operator plans of a pool's memory, and where it says nothing."""

import pytest

from sglang_operator.api import errors
from sglang_operator.memory import cards
from sglang_operator.memory.verdict import Outcome
from sglang_operator.pool import planned_memory
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, a_pool, guide_spec, with_config

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


# --- what cannot fit

LARGE = "Qwen/Qwen2.5-72B-Instruct"  # 67.7 GiB on each of 2 GPUs
ON_H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def problems(model=LARGE, selector=ON_H100, **changes):
    raw = guide_spec(
        model_args={"model_name_or_path": model, "dtype": "bf16"},
        podTemplate={"spec": {"nodeSelector": selector}},
        **changes,
    )
    found = resolve_pool(OWNER, raw)
    return [problem for problem in getattr(found, "problems", ()) if problem.field == "spec"]


def test_a_pool_whose_weights_alone_are_clearly_too_much_is_refused_with_the_knob():
    (problem,) = problems()
    assert problem.reason == "MemoryLacking"
    assert problem.severity is errors.Severity.ERROR
    assert problem.message.startswith("H100-80GB: does not fit: weights take 67.7 GiB of each GPU")
    assert "set mem_fraction_static: 0.88; memoryCheck: Warn tries it" in problem.message


def test_with_the_knob_turned_it_is_not():
    config = {"mem_fraction_static": 0.88, "load_format": "dummy"}
    assert not problems(strategy_args={"strategy_name": "sglang", "strategy_config": config})
    assert not problems(num_gpus_per_worker=4)


def test_what_tuning_may_mend_is_not_refused():
    def tuned(most):
        return {"autoTune": {"mem_fraction_static": {"min": 0.6, "max": most}}}

    assert not problems(restart=tuned(0.9))
    assert problems(restart=tuned(0.75))


@pytest.mark.parametrize("check", ["Warn", "Off"])
def test_whoever_knows_better_says_so(check):
    assert not problems(memoryCheck=check)


def test_the_switch_restarts_no_engine():
    assert a_pool(memoryCheck="Off").revision == a_pool().revision


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model": "somebody/Their-72B"}, id="an unknown model"),
        pytest.param({"model": "/models/Qwen2.5-72B-Instruct"}, id="whatever is at that path"),
        pytest.param({"selector": {}}, id="no card"),
        pytest.param(
            {"selector": {"nvidia.com/gpu.product": "X1", "nvidia.com/gpu.memory": "24576"}},
            id="an unknown card",
        ),
        pytest.param({"selector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}, id="it fits"),
        pytest.param({"placement": {"resourceName": "amd.com/gpu"}}, id="other GPUs"),
    ],
)
def test_what_is_not_known_is_never_refused(changes):
    assert not problems(**changes)


def test_by_no_more_than_plans_were_ever_wrong_nothing_is_refused():
    """What lacks less than 2 GiB and 5 % of the weights is a warning."""
    plan = planned_memory.of(a_pool(), H100)
    assert plan is not None
    weights = plan.plan.weights_gib
    lacking = (weights - 1.5) / plan.plan.free, (weights - 2.5 - 0.05 * weights) / plan.plan.free
    raw = [with_config(mem_fraction_static=round(share, 4)) for share in lacking]
    selected = {"podTemplate": {"spec": {"nodeSelector": ON_H100}}}
    assert isinstance(resolve_pool(OWNER, raw[0] | selected), Pool)
    assert isinstance(resolve_pool(OWNER, raw[1] | selected), Refused)


def test_a_revision_of_which_engines_came_up_is_not_said_to_be_impossible():
    raw = guide_spec(
        model_args={"model_name_or_path": LARGE, "dtype": "bf16"},
        podTemplate={"spec": {"nodeSelector": ON_H100}},
    )
    runs = resolve_pool(OWNER, raw | {"memoryCheck": "Warn"})
    assert isinstance(runs, Pool)
    assert isinstance(resolve_pool(OWNER, raw, None, runs.revision), Pool)
    assert isinstance(resolve_pool(OWNER, raw, None, "another"), Refused)
    other = raw | {"num_gpus_per_worker": 5}
    assert isinstance(resolve_pool(OWNER, other, None, runs.revision), Refused)
