"""Engines on H200s beside their plans (tests/data/real-engine/memory.json).

Twelve of SGLang 0.5.14 on one GPU were planned before they ran; the same of 0.5.13, and four of
0.5.14 on two GPUs each, were run after the rules had been written.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, reading, settings, verdict

FILE = Path(__file__).parents[2] / "data" / "real-engine" / "memory.json"
MEASURED: dict[str, Any] = json.loads(FILE.read_text())
SHAPES: dict[str, Any] = MEASURED["shapes"]
AGAIN: list[dict[str, Any]] = MEASURED["again"]
OTHERS = [(run, name) for run in AGAIN for name in run["reported"]]


def planned(name: str, sglang: str = MEASURED["sglang"], tp: int = 1) -> engine.EnginePlan:
    shape, version = SHAPES[name], versions.parse(sglang)
    given = shape["arguments"]
    argv = [f"{flag}={value}" for flag, value in zip(given[::2], given[1::2], strict=True)]
    request = engine.Request(
        shape=reading.shape(shape["config"]),
        card=cards.CARDS[MEASURED["card"]],
        version=version,
        settings=settings.of_argv([*argv, f"--tp-size={tp}"], version),
    )
    return engine.plan(request)


def off(name: str) -> float:
    """By what share the planned tokens differ from the reported ones."""
    reported = SHAPES[name]["reported"]["tokens"]
    return float(abs(planned(name).pools.tokens / reported - 1))


@pytest.mark.parametrize("name", SHAPES)
def test_what_an_engine_reported_had_been_planned(name):
    plan, reported = planned(name), SHAPES[name]["reported"]
    assert plan.share == pytest.approx(reported["mem_fraction_static"], abs=0.0005)
    assert plan.weights_gib == pytest.approx(reported["weights_gib"], rel=0.04)
    assert plan.left == pytest.approx(reported["left_gib"], abs=0.1)
    assert off(name) < 0.01


def test_half_of_them_are_planned_to_a_thousandth():
    assert len(SHAPES) == 12
    assert statistics.median(map(off, SHAPES)) < 0.001


@pytest.mark.parametrize(
    ("run", "name"), OTHERS, ids=[f"{run['sglang']}-tp{run['tp']}-{name}" for run, name in OTHERS]
)
def test_so_it_is_of_another_version_and_of_two_gpus(run, name):
    plan, reported = planned(name, run["sglang"], run["tp"]), run["reported"][name]
    assert plan.share == pytest.approx(reported["mem_fraction_static"], abs=0.0005)
    assert plan.weights_gib == pytest.approx(reported["weights_gib"], rel=0.04)
    assert plan.left == pytest.approx(reported["left_gib"], abs=0.15)
    assert plan.pools.tokens == pytest.approx(reported["tokens"], rel=0.01)


def test_two_versions_and_two_gpus_are_among_them():
    assert [(run["sglang"], run["tp"], len(run["reported"])) for run in AGAIN] == [
        ("0.5.13", 1, 12),
        ("0.5.14", 2, 4),
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_no_engine_that_ran_would_have_been_refused(name):
    assert not verdict.cannot_fit(planned(name))


def test_weights_are_planned_much_better_than_a_refusal_asks_for():
    for name in SHAPES:
        weights, reported = planned(name).weights_gib, SHAPES[name]["reported"]["weights_gib"]
        assert abs(weights - reported) < 0.3 * (2 + 0.05 * weights)
