"""What the explorer on containers goes by: which answers are right, and how fast its clock goes."""

import time

import pytest

from sglang_operator.testing.engine import weights
from tests.mutants.planted import planted
from tests.weights_real import planted as defects
from tests.weights_real.clients import Checker
from tests.weights_real.pace import Pace
from tests.weights_real.steps import BARE, MAX_RATIO, OURS, Steps
from tests.weights_real.trainer import TENSORS, checkpoint_of


def answer(*stamps):
    held = weights.Weights(TENSORS, dummy=True, source="")
    for number, stamp in enumerate(stamps):
        held.update(TENSORS[number:], stamp)
    return {"fake_weights": held.describe()}


@pytest.fixture
def checker():
    checker = Checker()
    for version in ("v1", "v2", "v3"):
        checker.expect(version)
    return checker


def test_a_version_is_whole_from_buckets_and_from_its_checkpoint(checker):
    assert [checker.problem(answer(stamp)) for stamp in ("v2", checkpoint_of("v2"))] == ["", ""]


def test_random_torn_and_unknown_weights_are_a_problem(checker):
    held = [answer(), answer("v1", "v2"), answer("v1", checkpoint_of("v1")), answer("v9")]
    assert [checker.problem(each) for each in held] == ["random", "torn", "torn", "whole"]


def test_no_older_version_comes_back_once_a_newer_one_serves(checker):
    before = checker.oldest
    checker.serves("v2")
    assert checker.problem(answer("v1"), oldest=before) == ""  # asked before
    assert "v1, older than v2" in checker.problem(answer("v1"), oldest=checker.oldest)
    assert checker.problem(answer("v3"), oldest=checker.oldest) == ""


def test_an_engine_that_a_commit_covers_holds_exactly_its_version(checker):
    assert checker.problem(answer(checkpoint_of("v2")), version="v2") == ""
    assert "v1 instead of v2" in checker.problem(answer(checkpoint_of("v1")), version="v2")
    assert "v3 instead of v2" in checker.problem(answer("v3"), version="v2")


def test_the_clock_goes_slower_while_work_takes_longer(monkeypatch):
    at = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    pace = Pace()
    pace.took(0.02)
    at[0] += 10
    assert pace.now() == pytest.approx(10)
    for _ in range(15):
        pace.took(0.08)
    begun = pace.now()
    at[0] += 10
    assert pace.now() - begun == pytest.approx(2.5)
    assert pace.slowest == pytest.approx(4)
    assert pace.now() >= begun  # it never goes back


@pytest.mark.parametrize(
    ("ours", "bare", "lost", "wrong", "good"),
    [
        (0.1, 0.1, 0, [], True),
        (2.0, 1.9, 0, [], True),  # a machine that is busy
        (0.1 * (MAX_RATIO + 1), 0.1, 0, [], False),
        (0.1, 0.1, 1, [], False),
        (0.1, 0.1, 0, ["v1: torn"], False),
    ],
)
def test_steps_fail_for_what_is_wrong_and_not_for_a_slow_machine(ours, bare, lost, wrong, good):
    parts = {OURS: [ours], BARE: [bare]}
    measured = Steps(engines=12, parts=parts, writes=9.0, lost=lost, wrong=wrong)
    assert measured.good is good


@pytest.mark.parametrize("defect", [defects.OPENS_AT_BEGIN, defects.LOADS_OUTSIDE])
def test_what_is_planted_is_still_in_the_source(defect):
    assert planted(defect)
