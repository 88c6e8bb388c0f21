"""What is in every trainer's way is told in the pool's status."""

import dataclasses

import pytest

from sglang_operator.api import conditions
from sglang_operator.observed.model import Observed
from sglang_operator.plan.plan import plan as planned
from sglang_operator.status import compute
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, weighed


def told(pool, pods, state, edit=None):
    """The condition WeightsSynced."""
    lease = a_lease_saying(pool, state)
    if edit is not None:
        (child,) = lease.values()
        child.body["spec"].update(edit)
    weights = weighed(pool, pods, children=lease)
    made = planned(pool, Observed(pods=tuple(pods)), NOW)
    status = compute.compute(pool, made, weights, ignored=(), troubles=(), previous={}, now=NOW)
    return conditions.find(status["conditions"], conditions.WEIGHTS_SYNCED)


@pytest.mark.parametrize("phase", [Phase.SLEEPING, Phase.ABORTED])
def test_an_engine_of_which_nobody_knows_whether_it_sleeps_is_named_with_what_to_do(phase):
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = [a_pod(pool, engine, container_id="c") for engine in pool.engines]
    runs = tuple(str(pod.instance) for pod in pods)
    state = Transaction(
        phase=phase, id="t1", released=SLEEP_TAGS, asleep=runs, unclear=frozenset(runs[:1])
    )
    message = told(pool, pods, state)["message"]
    assert f"kubectl delete pod {pods[0].name}; " in message
    assert pods[1].name not in message
    clear = dataclasses.replace(state, unclear=frozenset())
    assert "kubectl delete pod" not in told(pool, pods, clear)["message"]


def test_a_duration_that_was_edited_is_told_with_the_one_that_counts():
    pool = a_pool(device_mapping="list(range(0,4))")
    state = Transaction(phase=Phase.SYNCING, id="t1", holder="trainer", duration=3600.0)
    message = told(pool, [], state, {"leaseDurationSeconds": 1})["message"]
    assert "leaseDurationSeconds of the weights Lease says 1, which was edited" in message
    assert "3600 s" in message
    assert "leaseDurationSeconds" not in told(pool, [], state)["message"]
