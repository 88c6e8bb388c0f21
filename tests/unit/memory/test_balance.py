import pytest

from sglang_operator.memory import balance, cards, engine
from sglang_operator.memory.balance import TrainingStep
from tests.unit.memory.shapes import request

STEP = TrainingStep(samples=512, prompt=2048, response=4096, passes=2, train_gpus=32, total_gpus=32)


def asked(**fields):
    return request("Qwen3-30B-A3B", version="0.5.7", sequence=(2048, 4096), **fields)


def now(engines=12, step=STEP, **fields):
    found = balance.of(engine.plan(asked(**fields)), engines, step)
    assert found is not None
    return found


def test_the_rate_is_tokens_of_responses_for_each_gpu_and_second():
    found = now(tp=2)
    made = 512 * 4096 / 2
    assert found.tokens == pytest.approx(made / (32 * (found.generation + found.training)))


def test_more_engines_generate_faster():
    assert now(engines=12, tp=2).generation < now(engines=6, tp=2).generation


def test_too_little_cache_makes_waves():
    assert now(engines=2, tp=2, mem_fraction_static=0.4).at_once < 256
    assert now(engines=2, tp=2, mem_fraction_static=0.4).generation > (
        now(engines=2, tp=2, mem_fraction_static=0.8).generation
    )


def test_more_trainers_train_faster():
    few = TrainingStep(
        samples=512, prompt=2048, response=4096, passes=2, train_gpus=8, total_gpus=32
    )
    assert now(step=few).training == pytest.approx(4 * now().training)


def test_what_does_not_fit_or_is_on_an_unknown_card_has_no_balance():
    nothing = engine.plan(request("Qwen2.5-72B-Instruct", sequence=(2048, 4096)))
    assert balance.of(nothing, 4, STEP) is None
    unknown = engine.plan(request("Qwen2.5-7B", cards.parse("80GiB"), sequence=(2048, 4096)))
    assert balance.of(unknown, 4, STEP) is None
    assert balance.better(unknown.request, 4, STEP) == ()


def test_others_are_named_only_where_they_are_better():
    start = asked(tp=2, mem_fraction_static=0.7)
    present = balance.of(engine.plan(start), 12, STEP)
    assert present is not None
    found = balance.better(start, 12, STEP)
    assert found
    assert all(other.tokens >= 1.05 * present.tokens for other in found)
    best = found[0]
    again = engine.changed(start, tp=best.engine_gpus, mem_fraction_static=best.share)
    assert balance.better(again, best.engines, STEP) == ()


def test_every_balance_uses_gpus_that_are_there():
    for found in balance.better(asked(tp=2, mem_fraction_static=0.7), 12, STEP):
        assert found.gpus in (24, 32)
