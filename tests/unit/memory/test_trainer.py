import dataclasses

import pytest

from sglang_operator.memory import trainer
from sglang_operator.memory.trainer import Kind, Training
from tests.unit.memory.shapes import known

GIB = 2**30


def training(model="Qwen2.5-7B", kind=Kind.MEGATRON, gpus=8, **fields):
    return Training(name="actor_train", shape=known(model), kind=kind, gpus=gpus, **fields)


def test_megatron_keeps_weights_gradients_and_its_part_of_the_state():
    peak = trainer.peak(training(gpus=8))
    parameters = 7.62e9 / GIB
    assert peak.weights == pytest.approx(2 * parameters, rel=0.01)
    assert peak.gradients == pytest.approx(4 * parameters, rel=0.01)
    assert peak.optimizer == pytest.approx(12 * parameters / 8, rel=0.01)


def test_an_optimizer_that_is_not_distributed_is_on_every_gpu():
    peak = trainer.peak(training(distributed_optimizer=False))
    assert peak.optimizer == pytest.approx(6 * peak.weights)


def test_an_optimizer_on_the_host_is_on_no_gpu():
    assert trainer.peak(training(optimizer_on_host=True)).optimizer == 0


@pytest.mark.parametrize("field", ("tp", "pp"))
def test_two_ways_to_divide_halve_the_weights(field):
    whole, half = training(), training(**{field: 2})
    assert trainer.peak(half).weights == pytest.approx(trainer.peak(whole).weights / 2)


def test_experts_are_divided_by_their_own_size():
    whole = trainer.peak(training("Qwen3-30B-A3B", gpus=32))
    divided = trainer.peak(training("Qwen3-30B-A3B", gpus=32, ep=8))
    assert divided.weights < whole.weights / 5


def test_fsdp_divides_all_among_all():
    peak = trainer.peak(training(kind=Kind.SHARDED, gpus=16))
    assert peak.weights == pytest.approx(2 * 7.62e9 / GIB / 16, rel=0.01)
    assert peak.optimizer == pytest.approx(6 * peak.weights, rel=0.01)


def test_zero_keeps_weights_whole_and_divides_the_rest():
    peak = trainer.peak(training(kind=Kind.STATE_SHARDED, gpus=16))
    assert peak.weights == pytest.approx(2 * 7.62e9 / GIB, rel=0.01)
    assert peak.gradients == pytest.approx(peak.weights / 16, rel=0.01)


def test_a_role_that_only_looks_has_no_gradients():
    peak = trainer.peak(training(kind=Kind.INFERENCE, trains=False))
    assert (peak.gradients, peak.optimizer, peak.logits) == (0, 0, 0)


def test_recomputation_saves_most_activations():
    with_it, without = training(tokens=16384), training(tokens=16384, recompute=False)
    assert trainer.peak(without).activations > 5 * trainer.peak(with_it).activations


def test_the_terms_are_all_there_is():
    peak = trainer.peak(training())
    values = dataclasses.asdict(peak).values()
    assert peak.total == pytest.approx(sum(values))


def test_others_keep_something_beside_it():
    assert trainer.beside(training(), 0, engines=False) == 0
    assert trainer.beside(training(), 2, engines=True) == 4.0


@pytest.mark.parametrize(
    ("given", "knob"),
    (
        ({"distributed_optimizer": False, "tp": 2}, ("use_distributed_optimizer", "true")),
        (
            {"recompute": False, "tokens": 16384, "tp": 2},
            ("disable_gradient_checkpointing", "false"),
        ),
        ({}, ("tensor_model_parallel_size", 2)),
        ({"kind": Kind.STATE_SHARDED, "gpus": 4}, ("optimizer_cpu_offload", "true")),
    ),
)
def test_what_is_too_much_gets_the_argument_that_costs_least(given, knob):
    asked = training(**given)
    room = trainer.peak(asked).total - 4
    assert trainer.knob(asked, room) == knob


def test_experts_are_divided_first():
    asked = training("Qwen3-30B-A3B", gpus=32, tp=2, pp=2, ep=4)
    assert trainer.knob(asked, 30.0) == ("expert_model_parallel_size", 8)


def test_where_no_argument_is_enough_there_is_no_knob():
    assert trainer.knob(training(), 1.0) is None
