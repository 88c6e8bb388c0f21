"""Figures against their targets, and whether a process has grown."""

import json

import pytest

from tests.bench.figures import Figure, percentile, ratio, table
from tests.faults import soak


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure(name="x", values=[1.0, 2.0, 9.0], most=2.0), True),
        (Figure(name="x", values=[1.0, 2.1, 2.1], most=2.0), False),
        (Figure(name="x", values=[0.8, 0.9, 1.0], least=0.9), True),
        (Figure(name="x", values=[0.8, 0.8, 1.0], least=0.9), False),
        (Figure(name="x", values=[5.0]), None),
    ],
)
def test_the_median_is_held_against_the_target(figure, met):
    assert figure.met is met


def test_a_ratio_is_taken_within_each_round():
    assert ratio("r", [10.0, 30.0], [5.0, 10.0], most=2.5).values == [2.0, 3.0]


def test_rounds_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        ratio("r", [1.0], [1.0, 2.0])


def test_a_missed_target_stands_in_the_table():
    told = table([Figure(name="creates", values=[0.5], least=0.9, unit="×")])
    assert "≥ 0.9" in told
    assert "MISSED" in told


def test_percentiles_of_few_values_are_values():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def _samples(growth: float) -> list[soak.Sample]:
    return [soak.Sample(at=n, rss_mb=80 + n * growth, tasks=20, descriptors=30) for n in range(30)]


def test_a_process_that_grows_is_told():
    assert soak._grown(_samples(0.0)) == []
    assert soak._grown(_samples(2.0)) == ["rss_mb grew from 89 to 129"]


def test_what_came_of_a_soak_can_be_written_as_json():
    told = soak.Soak(samples=_samples(0.0)[:1])
    told.churned["scale"] += 2
    assert json.loads(json.dumps(told.record()))["churned"] == {"scale": 2}
