"""Twelve engines on one H200, planned before they ran (tests/data/real-engine/memory.json)."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, reading, settings, verdict

FILE = Path(__file__).parents[2] / "data" / "real-engine" / "memory.json"
MEASURED: dict[str, Any] = json.loads(FILE.read_text())
VERSION = versions.parse(MEASURED["sglang"])
SHAPES: dict[str, Any] = MEASURED["shapes"]


def planned(name: str) -> engine.EnginePlan:
    shape = SHAPES[name]
    given = shape["arguments"]
    argv = [f"{flag}={value}" for flag, value in zip(given[::2], given[1::2], strict=True)]
    request = engine.Request(
        shape=reading.shape(shape["config"]),
        card=cards.CARDS[MEASURED["card"]],
        version=VERSION,
        settings=settings.of_argv(argv, VERSION),
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


@pytest.mark.parametrize("name", SHAPES)
def test_no_engine_that_ran_would_have_been_refused(name):
    assert not verdict.cannot_fit(planned(name))


def test_weights_are_planned_much_better_than_a_refusal_asks_for():
    for name in SHAPES:
        weights, reported = planned(name).weights_gib, SHAPES[name]["reported"]["weights_gib"]
        assert abs(weights - reported) < 0.3 * (2 + 0.05 * weights)
