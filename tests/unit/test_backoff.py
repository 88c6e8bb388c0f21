"""How long the next try waits."""

import pytest

from sglang_operator.backoff import Backoff


def test_each_pause_is_twice_the_one_before_up_to_the_most():
    backoff = Backoff(0.5, 30.0)
    assert [backoff.pause(tries) for tries in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("tries", [31, 10_000])
def test_what_has_failed_for_years_is_tried_as_ever(tries):
    assert Backoff(1, 300).pause(tries) == 300.0


def test_chance_takes_no_more_of_a_pause_than_it_may():
    backoff = Backoff(1.0, 8.0, jitter=0.25)
    assert [backoff.pause(9, chance) for chance in (0.0, 0.5, 1.0)] == [8.0, 7.0, 6.0]
    assert Backoff(1.0, 8.0).pause(9, 1.0) == 8.0
