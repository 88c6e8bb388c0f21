"""Rollouts of pools in queues of the real Kueue: under a full quota, and with room for one more."""

import time

import pytest

from sglang_operator.api import conditions
from sglang_operator.plan.footing import MOST_PLACE_SECONDS
from tests.integration.members import serving
from tests.integration.pools import PoolUnderTest
from tests.kueue.queues import FOUR, GPUS, PAIRS, QUEUE, WAIT


def test_a_rollout_goes_through_the_queue_under_a_full_quota(queue):
    pool = queue(8).pool()
    before = pool.wait_ready(WAIT)
    pool.patch({"podTemplate": {"metadata": {"annotations": {"example.com/again": "1"}}}})
    after = pool.wait_ready(WAIT)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


@pytest.mark.parametrize("spec", [FOUR, PAIRS], ids=["one pod", "two pods"])
def test_new_engines_wait_for_quota_beside_old_ones_and_come_first_once_they_have_it(
    queue, installed, spec
):
    """While the quota is full nobody goes for them, and the pool says what it waits for."""
    engines, gpus = (4, 2) if spec is FOUR else (2, 16)
    shared = queue(engines * gpus)
    pool = shared.pool(rollout={"maxSurge": 1}, **spec)
    pool.wait_ready(WAIT)
    pool.wait(lambda: len(serving(pool)) == engines, "all serve", WAIT)
    before = serving(pool)
    pool.patch({"seed": 7})
    told_of_quota(pool)
    told = pool.kubectl("get", "sgi", pool.name).splitlines()[-1].split()
    whole = f"{engines}/{engines}"
    assert told[:4] == [pool.name, whole, whole, conditions.WAITING_FOR_QUOTA]
    pool.wait_rest()
    assert serving(pool) == before
    installed.quota(shared.namespace, {GPUS: (engines + 1) * gpus})
    fewest = engines

    def replaced() -> bool:
        nonlocal fewest
        now = serving(pool)
        fewest = min(fewest, len(now))
        return len(now) == engines and not now & before and pool.is_ready()

    pool.wait(replaced, "all replaced", 2 * WAIT)
    assert fewest == engines
    assert not [e for e in pool.events() if e["reason"] == conditions.SURGE_NO_ROOM]


def told_of_quota(pool: PoolUnderTest) -> None:
    """Wait until the pool says that its rollout waits for quota, and by what."""
    words = f"1 engine waiting until Kueue's LocalQueue {QUEUE} has quota for more beside those"
    told = pool.wait_for(conditions.READY, conditions.WAITING_FOR_QUOTA, WAIT)
    assert words in told["message"]


def test_a_new_engine_that_is_not_let_in_for_long_gets_the_quota_of_the_one_it_replaces(queue):
    """After three minutes, as the page says, and until then the old one serves."""
    pool = queue(2).pool(rollout={"maxSurge": 1}, device_mapping="list(range(0,2))")
    before = pool.wait_ready(WAIT)
    begun = time.monotonic()
    pool.patch({"seed": 7})
    told_of_quota(pool)

    def told() -> str | None:
        found = [each for each in pool.events() if each["reason"] == conditions.SURGE_NO_ROOM]
        return str(found[0]["note"]) if found else None

    message = pool.wait(told, "no quota for one more", 2 * MOST_PLACE_SECONDS)
    assert time.monotonic() - begun >= MOST_PLACE_SECONDS
    assert f"queue {QUEUE} has not let pod actor-g0-1-1 in" in message
    after = pool.wait_ready(WAIT)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
