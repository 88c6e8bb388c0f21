"""What is remembered of a trainer's steps, by which a rollout waits for the end of one."""

import pytest

from sglang_operator.api import conditions
from sglang_operator.controller.windows import Windows
from sglang_operator.observed.model import Observed
from sglang_operator.observed.moment import NO_STEPS, Moment
from sglang_operator.plan.decision import Plan
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pool, all_pods, refused, weighed

COMMIT = Transaction(phase=Phase.COMMITTED, id="t1", version="step-1", committed=NOW - 100)
NEXT = Transaction(phase=Phase.COMMITTED, id="t2", version="step-2", committed=NOW + 7)
SYNC = Transaction(phase=Phase.SYNCING, id="t2", version="step-1", committed=NOW - 100)


def between(**rollout):
    return a_pool(rollout={"window": "BetweenSteps", "windowDeadlineSeconds": 600, **rollout})


def at(seconds):
    """A moment, by clocks that tell different times."""
    return Moment(wall=NOW + seconds, steady=1000.0 + seconds)


def seen(windows, pool, state, seconds, status=None):
    children = a_lease_saying(pool, state) if state is not None else {}
    found = windows.seen(pool, Observed(children=children), status or {}, at(seconds))
    windows.learn(Plan(rolling=True))
    return found.steps


def test_a_commit_that_comes_about_is_known_from_then_on():
    windows, pool = Windows(), between()
    assert seen(windows, pool, COMMIT, 0).committed is None, "it may be long ago"
    assert seen(windows, pool, SYNC, 5).committed is None
    assert seen(windows, pool, NEXT, 7).committed == at(7).steady
    assert seen(windows, pool, NEXT, 90).committed == at(7).steady


def test_the_first_commit_of_a_trainer_comes_about_too():
    windows, pool = Windows(), between()
    assert seen(windows, pool, None, 0).committed is None
    assert seen(windows, pool, NEXT, 7).committed == at(7).steady


def test_a_sync_that_is_withdrawn_leaves_the_step_as_it_was():
    windows, pool = Windows(), between()
    seen(windows, pool, COMMIT, 0)
    seen(windows, pool, SYNC, 5)
    assert seen(windows, pool, COMMIT, 6).committed is None


def test_the_deadline_counts_from_when_the_rollout_began_and_survives_an_operator():
    windows, pool = Windows(), between()
    assert seen(windows, pool, COMMIT, 0).rolling == at(0)
    assert seen(windows, pool, COMMIT, 50).rolling == at(0)
    told = windows.told(pool)
    assert told == {
        "revision": pool.base_revision,
        "since": "2027-01-15T08:00:00Z",
        "until": "2027-01-15T08:10:00Z",
    }
    status = {"rollout": {"window": told}}
    assert seen(Windows(), pool, COMMIT, 80, status).rolling == at(0)
    assert seen(Windows(), between(maxUnavailable=2), COMMIT, 80, status).rolling == at(0)
    another = a_pool(seed=9, rollout={"window": "BetweenSteps"})
    assert seen(Windows(), another, COMMIT, 80, status).rolling == at(80)


def test_a_rollout_that_is_over_has_no_deadline():
    windows, pool = Windows(), between()
    seen(windows, pool, COMMIT, 0)
    windows.learn(Plan())
    assert windows.told(pool) is None
    assert seen(windows, pool, COMMIT, 90).rolling == at(90)


def test_nothing_is_remembered_where_no_rollout_goes_by_steps():
    windows, pool = Windows(), between()
    seen(windows, pool, COMMIT, 0)
    assert seen(windows, a_pool(), NEXT, 5) == NO_STEPS
    assert windows.told(pool) is None
    assert seen(windows, pool, NEXT, 9).committed is None


@pytest.mark.parametrize("found", [1, "x", [], {"since": 4}, {"since": "yesterday"}, {}])
def test_a_status_of_another_make_begins_anew(found):
    assert seen(Windows(), between(), COMMIT, 9, {"rollout": {"window": found}}).rolling == at(9)


def test_the_status_tells_that_it_waits_and_until_when():
    windows, pool = Windows(), between()
    pods = all_pods(pool, revision="0" * 10, ready=True)
    children = a_lease_saying(pool, COMMIT)
    observed = windows.seen(pool, Observed(pods=tuple(pods), children=children), {}, at(0))
    made = plan(pool, observed, at(0).steady)
    windows.learn(made)
    assert made.wake_at == at(600).steady
    weights = weighed(pool, pods, children=children)
    status = compute.compute(
        pool,
        made,
        weights,
        ignored=(),
        troubles=(),
        previous={},
        now=NOW,
        window=windows.told(pool),
    )
    told = conditions.find(status["conditions"], conditions.RECONCILING)
    assert told is not None
    assert told["reason"] == conditions.ROLLOUT_WAITING
    assert "from 2027-01-15T08:10:00Z on" in told["message"]
    assert status["rollout"]["window"]["until"] == "2027-01-15T08:10:00Z"


def test_steps_of_which_nobody_tells_are_refused():
    (problem,) = refused(rollout={"window": "BetweenSteps"}, weights={"gate": "Versioned"}).errors
    assert (problem.reason, problem.field) == ("WindowOfVersionedPool", "spec.rollout.window")


@pytest.mark.parametrize("value", [-1, 604801])
def test_a_deadline_has_bounds(value):
    (problem,) = refused(rollout={"windowDeadlineSeconds": value}).errors
    assert problem.field == "spec.rollout.windowDeadlineSeconds"
