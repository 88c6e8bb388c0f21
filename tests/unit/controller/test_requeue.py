"""Who wants another pass says so with a reason; the earliest counts."""

import pytest

from sglang_operator.clocks import steady
from sglang_operator.controller.requeue import Reason, Requeue


def test_nobody_wants_another_pass():
    assert Requeue().delay() is None
    assert str(Requeue()) == ""


def test_the_earliest_wish_counts_and_each_reason_is_kept():
    requeue = Requeue()
    requeue.after(Reason.PODS_FAILED, 4.0)
    requeue.at(Reason.PLAN, steady() + 60.0)
    requeue.after(Reason.INTERVAL, 2.0)
    assert requeue.delay() == 2.0
    assert list(requeue.reasons()) == [Reason.INTERVAL, Reason.PODS_FAILED, Reason.PLAN]
    assert str(requeue).startswith("it was published a moment ago (2.00 s), pods could not be")


@pytest.mark.parametrize("first", [1.0, 9.0])
def test_of_one_reason_the_earliest_time_counts(first):
    requeue = Requeue()
    now = steady()
    for seconds in (first, 5.0):
        requeue.after(Reason.PUT_BACK, seconds)
        requeue.at(Reason.NAME_TAKEN, now + seconds)
    found = requeue.reasons()
    assert found[Reason.PUT_BACK] == min(first, 5.0)
    assert found[Reason.NAME_TAKEN] == pytest.approx(min(first, 5.0), abs=0.5)


def test_what_is_overdue_is_due_now():
    requeue = Requeue()
    requeue.at(Reason.PLAN, steady() - 100.0)
    assert requeue.delay() == 0.0


def test_no_time_is_no_wish():
    requeue = Requeue()
    requeue.at(Reason.LOOKUP, None)
    assert requeue.reasons() == {}


def test_a_pass_ends_before_what_waits_for_its_end():
    """A wait after a failure is none that the rest of a long pass uses up."""
    requeue = Requeue()
    requeue.after(Reason.PODS_FAILED, 0.2)
    requeue.now(Reason.STATUS_FAILED)
    assert requeue.reasons() == {Reason.STATUS_FAILED: 0.0, Reason.PODS_FAILED: 0.2}
