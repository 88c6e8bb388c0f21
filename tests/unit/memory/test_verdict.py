"""Eight wrong configurations that people report, and the knob that an expert would turn."""

import dataclasses

import pytest

from sglang_operator.memory import cards, engine, verdict
from sglang_operator.memory.verdict import Outcome
from tests.unit.memory.shapes import H200, request

A100_40, A100_80 = cards.CARDS["A100-40GB"], cards.CARDS["A100-80GB"]
ROLL = (2048, 4096)

WRONG = {
    "KV cache too small": (
        request("Qwen2.5-7B", sequence=ROLL, mem_fraction_static=0.15),
        Outcome.DOES_NOT_FIT,
        ("mem_fraction_static", 0.83),
    ),
    "out of memory at graph capture": (
        request("Qwen3-8B", sequence=ROLL, mem_fraction_static=0.98),
        Outcome.DOES_NOT_FIT,
        ("mem_fraction_static", 0.82),
    ),
    "context longer than the cache": (
        request("Qwen2.5-14B", A100_40, context_length=30000, mem_fraction_static=0.8),
        Outcome.TIGHT,
        ("context_length", 18432),
    ),
    "more GPUs than heads of keys and values": (
        request("Qwen3-30B-A3B", sequence=(2048, 8192), tp=8, mem_fraction_static=0.8),
        Outcome.TIGHT,
        ("num_gpus_per_worker", 4),
    ),
    "experts that ep does not divide": (
        request("GLM-4.5", H200, sequence=(2048, 8192), tp=16, ep=12),
        Outcome.DOES_NOT_FIT,
        ("ep_size", 8),
    ),
    "70B on one card of 80 GB": (
        request("Qwen2.5-72B-Instruct", sequence=ROLL),
        Outcome.DOES_NOT_FIT,
        ("num_gpus_per_worker", 4),
    ),
    "beside the trainer's optimizer state": (
        request("Qwen2.5-7B", A100_80, sequence=(2048, 8192), resident=40, mem_fraction_static=0.8),
        Outcome.DOES_NOT_FIT,
        ("mem_fraction_static", 0.32),
    ),
    "long sequences": (
        request("Qwen3-235B-A22B", sequence=(8192, 32768), tp=8),
        Outcome.TIGHT,
        ("mem_fraction_static", 0.91),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_people_report_gets_the_right_knob(name):
    asked, outcome, knob = WRONG[name]
    found = verdict.judge(engine.plan(asked))
    assert found.outcome is outcome, found.line
    assert found.knob is not None, found.line
    assert (found.knob.name, found.knob.value) == knob, found.line
    assert "\n" not in found.line


@pytest.mark.parametrize("name", WRONG)
def test_with_the_knob_turned_it_fits(name):
    asked, _, (knob, value) = WRONG[name]
    names = {"num_gpus_per_worker": "tp", "ep_size": "ep"}
    changed = engine.changed(asked, **{names.get(knob, knob): value})
    found = verdict.judge(engine.plan(changed))
    assert found.outcome is not Outcome.DOES_NOT_FIT, found.line
    assert found.knob is None or found.knob.name != knob, found.line


def test_what_fits_says_how_much_and_turns_nothing():
    found = verdict.judge(engine.plan(request("Qwen3-8B", sequence=ROLL)))
    assert found.outcome is Outcome.FITS
    assert found.knob is None
    assert found.margin > 0
    assert found.line.endswith("nothing to turn")


def test_a_share_that_is_kept_low_may_be_raised_where_nobody_else_is():
    asked = request("Qwen3-30B-A3B", version="0.5.7", sequence=ROLL, tp=2, mem_fraction_static=0.7)
    found = verdict.judge(engine.plan(asked))
    assert found.outcome is Outcome.FITS
    assert str(found.knob) == "mem_fraction_static: 0.83"
    beside = dataclasses.replace(asked, resident_gib=10)
    assert verdict.judge(engine.plan(beside)).knob is None


def test_a_sequence_longer_than_the_model_takes_gets_a_shorter_response():
    found = verdict.judge(engine.plan(request("Qwen3-32B", sequence=(8192, 122880), tp=2)))
    assert str(found.knob) == "response_length: 32768"


def test_a_sequence_longer_than_the_context_that_was_asked_for_gets_a_longer_one():
    asked = request("Qwen3-8B", sequence=(2048, 8192), context_length=8192)
    assert str(verdict.judge(engine.plan(asked)).knob) == "context_length: 10240"


def test_a_trainer_that_leaves_no_room_at_all_is_given_gpus_of_its_own():
    asked = request("Qwen2.5-7B", A100_80, sequence=ROLL, resident=70, mem_fraction_static=0.8)
    found = verdict.judge(engine.plan(asked))
    assert found.knob is not None
    assert found.knob.name == "device_mapping"


def test_few_states_are_what_a_hybrid_gets_more_of():
    asked = request(
        "Qwen3-Next-80B-A3B-Instruct", tp=4, sequence=(512, 512), max_running_requests=64,
        state_slots=20,
    )  # fmt: skip
    found = verdict.judge(engine.plan(asked))
    assert found.outcome is Outcome.TIGHT
    assert found.knob is not None
    assert found.knob.name == "max_mamba_cache_size"


@pytest.mark.parametrize("card", cards.CARDS.values(), ids=lambda card: card.name)
@pytest.mark.parametrize("model", ("Qwen2.5-7B", "Qwen3-30B-A3B", "DeepSeek-R1"))
def test_a_knob_never_makes_it_worse(card, model):
    asked = request(model, card, sequence=ROLL, mem_fraction_static=0.9)
    found = verdict.judge(engine.plan(asked))
    if found.knob is None or found.knob.name != "mem_fraction_static":
        return
    turned = engine.plan(engine.changed(asked, mem_fraction_static=found.knob.value))
    assert verdict.judge(turned).outcome.value in ("fits", "tight"), (found.line, card)


@pytest.mark.parametrize(
    ("version", "name"), (("0.5.7", "cuda_graph_max_bs"), ("0.5.23", "cuda_graph_max_bs_decode"))
)
def test_a_knob_has_the_name_that_its_version_knows(version, name):
    """Weights that leave no lower share: only smaller graphs help."""
    asked = request(
        "Qwen2.5-7B", cards.parse("17GiB"), version=version, sequence=(128, 128),
        mem_fraction_static=0.93, graph_batch=512, chunked_prefill_size=2048, context_length=1024,
        max_running_requests=64, prefill_graphs=False,
    )  # fmt: skip
    found = verdict.judge(engine.plan(asked))
    assert found.knob is not None
    assert found.knob.name == name, found.line


def test_where_no_number_of_gpus_is_enough_for_the_share_that_is_given_that_is_said():
    asked = request("Qwen2.5-72B-Instruct", sequence=ROLL, mem_fraction_static=0.05)
    found = verdict.judge(engine.plan(asked))
    assert found.knob is not None
    assert found.knob.name == "num_gpus_per_worker"
    assert found.line.endswith("(and leave mem_fraction_static to SGLang)")


def test_gpus_that_do_not_divide_become_the_most_that_do():
    asked = request("Qwen3-30B-A3B", sequence=ROLL, tp=6, ep=3)
    found = verdict.judge(engine.plan(asked))
    assert str(found.knob) == "num_gpus_per_worker: 4"
    assert found.line.endswith("(and ep_size: 2)")


def test_a_context_that_sglang_refuses_is_told():
    found = verdict.judge(engine.plan(request("Qwen3-8B", context_length=131072)))
    assert found.outcome is Outcome.DOES_NOT_FIT
    assert str(found.knob) == "context_length: 40960"


def test_a_table_for_a_context_that_nobody_uses_is_made_shorter_first():
    """A context of 262144 tokens and 4096 requests: 4 GiB for where their tokens are."""
    asked = request("Qwen3-4B-Instruct-2507", sequence=ROLL, mem_fraction_static=0.95)
    plan = engine.plan(asked)
    assert plan.table > 2
    found = verdict.judge(plan)
    assert str(found.knob) == "context_length: 6144", found.line
    turned = engine.plan(engine.changed(asked, context_length=6144))
    assert verdict.judge(turned).outcome is not Outcome.DOES_NOT_FIT


def test_an_engine_of_absurd_size_is_answered_at_once():
    asked = request("Qwen3-30B-A3B", sequence=ROLL, tp=999_999, ep=7)
    found = verdict.judge(engine.plan(asked))
    assert found.outcome is Outcome.DOES_NOT_FIT
    assert found.knob is not None
    assert found.knob.value in range(1, 65)


def test_after_too_small_a_cache_the_next_share_holds_one_context():
    plan = engine.plan(request("Qwen2.5-7B", mem_fraction_static=0.15))
    share = verdict.next_share(plan, 1)
    assert share is not None
    found = engine.plan(engine.changed(plan.request, mem_fraction_static=share))
    assert found.context <= found.pools.tokens < 1.2 * found.context


def test_after_out_of_memory_the_next_share_leaves_what_sglang_would():
    plan = engine.plan(request("Qwen3-8B", mem_fraction_static=0.95))
    share = verdict.next_share(plan, -1)
    assert share is not None
    chosen = engine.plan(engine.changed(plan.request, mem_fraction_static=None)).share
    assert share == pytest.approx(chosen, abs=0.005)


def test_no_share_is_better_than_one_that_the_plan_would_not_change():
    plan = engine.plan(request("Qwen2.5-7B", mem_fraction_static=0.6))
    assert verdict.next_share(plan, 1) is None
    assert verdict.next_share(plan, -1) is None
