"""What one pass does, in which order, what it remembers, and who wants the next one.

These are the tests of ``observing``, ``deciding``, ``acting`` and ``publishing`` as well.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from sglang_operator.api import names, texts
from sglang_operator.controller.memory import CONFLICT_BACKOFF, ERRORS_BEFORE_TOLD
from sglang_operator.controller.requeue import Reason
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.observed import wire
from sglang_operator.weights import groups, lease_state, steps
from sglang_operator.weights.lease_state import GroupsOwner, Transaction
from tests.unit.controller.passes import KEY, LEASE, Clock, Passes

REGISTRY = f"configmaps/{names.registry_name('pool')}"
QUOTA = ApiError(403, "Forbidden", "exceeded quota: gpus, requested: nvidia.com/gpu=2", None)
BROKEN = ApiError(500, "InternalError", "boom", None)
ONE_ENGINE = "[0, 1]"
TWO_ENGINES = "[0, 1, 2, 3]"


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600 * 24):  # of a clock that is put ahead
            await told()

    asyncio.run(bounded())


def failing(method: str, part: str, error: Exception) -> Callable[[str, str], Exception | None]:
    return lambda m, path: error if m == method and part in path else None


# --- the way of a new pool


def test_a_pass_makes_everything_that_is_missing_pods_first(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.run()
        assert pool.writes[0] == "POST pods"
        assert sorted(pool.writes[1:-1]) == [
            "POST configmaps",
            "POST controllerrevisions",
            "POST leases",
            "POST poddisruptionbudgets",
            "POST services",
        ]
        assert pool.writes[-1] == "PATCH sglanginferences/pool/status"
        assert pool.status["observedGeneration"] == 1

    story(told)


def test_a_pool_that_is_as_it_should_be_is_left_alone(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        requeue = await pool.run()
        assert pool.writes == []
        assert pool.reason == "PoolReady"
        assert not {Reason.PODS_FAILED, Reason.GATES_FAILED, Reason.STATUS_FAILED} & (
            requeue.reasons().keys()
        )

    story(told)


def test_what_engines_take_of_their_nodes_gpus_is_told_once(clock):
    async def told() -> None:
        pool = Passes(clock)
        labels = {"nvidia.com/gpu.product": "NVIDIA-H200"}
        meta = wire.Meta(name="gpu-node-0", uid="n", resource_version="4", labels=labels)
        pool.nodes.replace("", [wire.NodeObject(metadata=meta)], 5)
        await pool.run()
        (name,) = pool.pod_names()
        pool.api.touch(paths.pod("rl", name), {"spec": {"nodeName": "gpu-node-0"}})
        await pool.settle()
        assert pool.status["memory"]["card"] == "H200-141GB"
        assert pool.status["memory"]["planned"]["tokens"] > 1_000_000
        await pool.run()
        assert pool.writes == []

    story(told)


def test_an_engine_whose_pod_vanished_is_made_again(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        (name,) = pool.pod_names()
        await pool.api.request("DELETE", paths.pod("rl", name))
        await pool.run()
        assert "POST pods" in pool.writes

    story(told)


def test_within_the_interval_nothing_is_published_and_the_rest_of_it_is_waited_for(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.run()
        (name,) = pool.pod_names()
        pool.api.touch(paths.pod("rl", name), {"status": {"conditions": []}})  # it loads its model
        requeue = await pool.run()
        assert "PATCH sglanginferences/pool/status" not in pool.writes
        assert 0 < requeue.reasons()[Reason.INTERVAL] <= 3600

    story(told)


def test_that_the_last_engine_is_up_is_told_within_the_interval(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.run()
        await pool.run()
        assert pool.reason == "PoolReady"

    story(told)


def test_what_a_trainer_waits_for_does_not_wait_for_the_interval(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.sync()
        await pool.run()
        pool.commit()
        for _ in range(3):
            await pool.run()
        assert (
            '"phase":"Committed"'
            in pool.api.objects[paths.child("ConfigMap", "rl", names.registry_name("pool"))][
                "data"
            ]["engines.json"]
        )

    story(told)


def test_that_a_job_forms_its_process_groups_is_told_at_once_and_once_for_each_claim(clock):
    """No engine is told of a group before: its address may be another pod's by then."""

    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        now = 1_800_000_000.0
        mine = GroupsOwner(id="a1", holder="job", forming=True)
        trainer = steps.Trainer(holder="job", transaction="t")

        async def after(step: Callable[[Transaction], Transaction]) -> tuple[bool, bool]:
            """Whether this step in the Lease wakes the pool, and has its registry written."""
            held = pool.api.objects[LEASE]
            pool.api.touch(LEASE, lease_state.patch(held, step(lease_state.read(held))))
            pool.woken.clear()
            await pool.run()
            return KEY in pool.woken, any(REGISTRY in write for write in pool.writes)

        def claims() -> tuple[str, int]:
            path = paths.child("ConfigMap", "rl", names.registry_name("pool"))
            weights = json.loads(pool.api.objects[path]["data"]["engines.json"])["weights"]
            return weights["groups"], weights["claims"]

        assert claims() == ("", 0)
        for count in (1, 2):
            claim = partial(groups.claimed, me=mine, now=now + count, seen=now)
            assert await after(claim) == (True, True)
            assert claims() == ("a1", count)
        begin = partial(steps.begin, trainer=trainer, epoch="e", version="1", now=now, seen=now)
        await after(lambda state: groups.acts(begin(state), "a1", now))
        assert claims() == ("a1", 2)
        _, wrote = await after(lambda state: groups.acts(state, "a1", now + 9))
        assert not wrote, "the job's sync renews"

    story(told)


# --- gates


def test_a_commit_opens_the_gate_and_is_acknowledged_by_the_next_pass(clock):
    """What is acknowledged stands: no trainer is told of a gate that is still to be written."""

    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        requeue = await pool.run()
        assert pool.writes == ["PATCH pods/status"]
        assert pool.api.gate("rl") == "True"
        assert requeue.reasons()[Reason.GATES_MOVED] == 0.0
        await pool.run()
        assert f"PATCH {REGISTRY}" in pool.writes
        assert "PATCH pods/status" not in pool.writes

    story(told)


def test_gates_close_before_pods_are_written(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        await pool.settle()
        pool.abort()
        pool.change(device_mapping=TWO_ENGINES)
        await pool.run()
        assert pool.writes[:2] == ["PATCH pods/status", "POST pods"]
        assert pool.api.gate("rl") == "False"

    story(told)


def test_a_gate_that_cannot_be_written_is_tried_again_ever_later_and_told(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        pool.api.fails = failing("PATCH", "/pods/", BROKEN)
        waits = [(await pool.run()).reasons()[Reason.GATES_FAILED] for _ in range(3)]
        assert waits == [0.2, 0.4, 0.8]
        assert ERRORS_BEFORE_TOLD == 4
        clock.advance(7200)
        await pool.run()
        assert pool.reason == "APIError"
        pool.api.fails = lambda method, path: None
        await pool.settle()
        assert pool.api.gate("rl") == "True"
        assert pool.reason == "PoolReady"

    story(told)


def test_a_gate_that_was_written_after_all_begins_with_the_shortest_wait_again(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        pool.api.fails = failing("PATCH", "/pods/", BROKEN)
        assert [(await pool.run()).reasons()[Reason.GATES_FAILED] for _ in range(2)] == [0.2, 0.4]
        pool.api.fails = lambda method, path: None
        await pool.run()
        assert pool.api.gate("rl") == "True"
        pool.abort()
        pool.api.fails = failing("PATCH", "/pods/", BROKEN)
        assert (await pool.run()).reasons()[Reason.GATES_FAILED] == 0.2

    story(told)


def test_the_end_of_a_hold_wakes_the_pool_and_aborts_the_sync(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.sync(60)
        requeue = await pool.run()
        assert 50 < requeue.reasons()[Reason.LEASE] <= 60
        await pool.settle_within(50)
        assert lease_state.read(pool.api.objects[LEASE]).phase is lease_state.Phase.SYNCING
        before = lease_state.read(pool.api.objects[LEASE])
        clock.advance(61)
        await pool.run()
        assert pool.writes[0] == f"PATCH leases/{names.weights_lease_name('pool')}"
        message = texts.SYNC_EXPIRED.format(holder="trainer", seconds=60)
        proven = steps.aborted(before, message)  # the step that the model proves
        assert lease_state.read(pool.api.objects[LEASE]) == proven

    story(told)


# --- failures


def test_a_failed_engine_goes_only_once_its_failure_stands_in_the_status(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        (name,) = pool.pod_names()
        pool.fail(name)
        clock.advance(7200)
        requeue = await pool.run()
        assert name in pool.pod_names()
        assert pool.status["lastFailures"]
        assert requeue.reasons()[Reason.RECORDED] == 0.0
        for _ in range(5):
            clock.advance(3600)
            await pool.run()
        assert name not in pool.pod_names()
        assert len(pool.pod_names()) == 1

    story(told)


def test_an_engine_that_fails_again_is_made_when_its_wait_is_over_without_any_event(clock):
    async def told() -> None:
        pool = Passes(clock, interval=1.0)
        await pool.settle_within(20)
        waits = []
        for _ in range(3):
            pool.fail(pool.pod_names()[-1])
            for _ in range(4):
                clock.advance(1.0)
                waits.append((await pool.run()).reasons().get(Reason.PLAN, 0.0))
        assert max(waits) > 1.0

    story(told)


def test_a_failed_engine_stays_while_the_status_cannot_be_written(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        (name,) = pool.pod_names()
        pool.fail(name)
        pool.api.fails = failing("PATCH", "/sglanginferences/", BROKEN)
        for expected in (0.2, 0.4, 0.8):
            clock.advance(7200)
            requeue = await pool.run()
            assert requeue.reasons()[Reason.STATUS_FAILED] == expected
            assert Reason.RECORDED not in requeue.reasons()
        assert name in pool.pod_names()

    story(told)


def test_creates_that_fail_are_tried_again_ever_later_and_told_if_it_lasts(clock):
    async def told() -> None:
        pool = Passes(clock)
        pool.api.fails = failing("POST", "/pods", BROKEN)
        waits = []
        for _ in range(ERRORS_BEFORE_TOLD):
            clock.advance(7200)
            waits.append((await pool.run()).reasons()[Reason.PODS_FAILED])
        assert waits == [0.2, 0.4, 0.8, 1.6]
        assert pool.reason == "APIError"
        pool.api.fails = lambda method, path: None
        await pool.settle()
        assert pool.reason == "PoolReady"
        pool.api.fails = failing("POST", "/pods", BROKEN)
        await pool.api.request("DELETE", paths.pod("rl", pool.pod_names()[0]))
        clock.advance(7200)
        assert (await pool.run()).reasons()[Reason.PODS_FAILED] == 0.2

    story(told)


def test_a_full_quota_is_told_and_asked_again_after_a_while(clock):
    async def told() -> None:
        pool = Passes(clock)
        pool.api.fails = failing("POST", "/pods", QUOTA)
        requeue = await pool.run()
        assert pool.reason == "QuotaExceeded"
        assert 4 < requeue.reasons()[Reason.PODS_REFUSED] <= 5
        pool.api.fails = lambda method, path: None
        await pool.run()
        assert "POST pods" not in pool.writes
        clock.advance(6)
        await pool.run()
        assert "POST pods" in pool.writes

    story(told)


def test_a_quota_that_stays_full_is_told_once_however_often_it_is_asked(clock):
    """Each try was told as engines that are being created, and taken back at once."""

    async def told() -> None:
        pool = Passes(clock, interval=1.0, device_mapping=TWO_ENGINES)
        await pool.settle_within(100)
        for name in pool.pod_names():
            pool.fail(name)
        pool.api.fails = failing("POST", "/pods", QUOTA)
        await pool.settle_within(1000)
        asked = 0
        for _ in range(60):
            clock.advance(60)
            await pool.run()
            asked += pool.api.seen.count(("POST", paths.pods("rl")))
            pool.api.seen.clear()
            assert pool.writes == []
        assert asked >= 10
        pool.api.fails = lambda method, path: None
        await pool.settle_within(1000)
        assert len(pool.pod_names()) == 2

    story(told)


def test_a_create_without_an_answer_is_looked_for_before_another_is_made(clock):
    async def told() -> None:
        pool = Passes(clock)
        made: list[str] = []

        def lost(method: str, path: str) -> Exception | None:
            if method == "GET" and "/pods/" in path:
                made.append(path)
            return (
                ApiUnreachableError("cut off") if (method, path[-5:]) == ("POST", "/pods") else None
            )

        pool.api.fails = lost
        requeue = await pool.run()
        assert requeue.reasons()[Reason.PODS_FAILED] == 0.2
        assert made == []
        pool.api.fails = lambda method, path: lost(method, path) if method == "GET" else None
        await pool.blind()
        assert len(made) == 1
        assert pool.writes[0] == "POST pods"
        await pool.blind()
        assert len(made) == 1, "what became of it is known"
        assert len(pool.pod_names()) == 1

    story(told)


def test_while_it_cannot_be_learnt_what_became_of_a_create_none_is_made(clock):
    async def told() -> None:
        pool = Passes(clock)
        away = ApiUnreachableError("cut off")
        await pool.see()
        pool.api.fails = failing("POST", "/pods", away)
        assert (await pool.blind()).reasons()[Reason.PODS_FAILED] == 0.2
        pool.api.fails = failing("GET", "/pods/", BROKEN)
        assert (await pool.blind()).reasons()[Reason.PODS_FAILED] == 0.4
        assert "POST pods" not in pool.writes

    story(told)


def test_children_that_cannot_be_written_are_tried_again(clock):
    async def told() -> None:
        pool = Passes(clock)
        pool.api.fails = failing("POST", "/configmaps", BROKEN)
        requeue = await pool.run()
        assert requeue.reasons()[Reason.CHILDREN_FAILED] == 0.2
        clock.advance(7200)
        assert (await pool.run()).reasons()[Reason.CHILDREN_FAILED] == 0.4
        pool.api.fails = lambda method, path: None
        await pool.settle()
        pool.api.fails = failing("PATCH", "/configmaps", BROKEN)
        pool.sync()
        found = [(await pool.run()).reasons().get(Reason.CHILDREN_FAILED) for _ in range(3)]
        assert 0.2 in found, "a success begins with the shortest wait again"

    story(told)


# --- names that are another's


def test_a_service_of_somebody_else_is_told_left_alone_and_asked_for_again_later(clock):
    async def told() -> None:
        pool = Passes(clock)
        pool.api.add(paths.child("Service", *KEY), {"spec": {"ports": []}})
        requeue = await pool.run()
        assert pool.reason == "NameConflict"
        wait = requeue.reasons()[Reason.NAME_TAKEN]
        assert CONFLICT_BACKOFF - 5 < wait <= CONFLICT_BACKOFF
        before = dict(pool.api.objects[paths.child("Service", *KEY)])
        await pool.settle_within(CONFLICT_BACKOFF / 2)
        assert not [write for write in pool.writes if "services" in write]
        assert pool.api.objects[paths.child("Service", *KEY)] == before
        pool.api.objects.pop(paths.child("Service", *KEY))
        await pool.settle()
        assert pool.reason == "PoolReady"

    story(told)


# --- specs that are refused


def test_a_refused_spec_is_told_and_makes_nothing(clock):
    async def told() -> None:
        pool = Passes(clock, num_gpus_per_worker=3)
        await pool.run()
        assert pool.writes == ["PATCH sglanginferences/pool/status"]
        assert pool.reason not in ("", "PoolReady")

    story(told)


def test_the_engines_of_a_refused_spec_stay_and_their_gates_follow_the_lease(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        await pool.settle()
        before = pool.pod_names()
        pool.change(device_mapping="no list")
        pool.abort()
        requeue = await pool.run()
        assert pool.api.gate("rl") == "False"
        assert pool.writes == ["PATCH pods/status"]
        assert requeue.reasons()[Reason.GATES_MOVED] == 0.0
        clock.advance(7200)
        await pool.run()
        assert pool.writes[-1] == "PATCH sglanginferences/pool/status"
        assert pool.pod_names() == before

    story(told)


def test_a_refusal_that_cannot_be_written_is_written_later(clock):
    async def told() -> None:
        pool = Passes(clock, num_gpus_per_worker=3)
        pool.api.fails = failing("PATCH", "/sglanginferences/", BROKEN)
        assert (await pool.run()).reasons()[Reason.STATUS_FAILED] == 0.2
        pool.api.fails = lambda method, path: None
        requeue = await pool.run()
        assert 0 < requeue.reasons()[Reason.INTERVAL] <= 3600
        clock.advance(3600)
        await pool.run()
        assert pool.reason

    story(told)


# --- a long act


def hanging(pool: Passes, method: str, part: str) -> Callable[[], None]:
    """These requests have no answer until the returned is called."""
    hangs = {part}
    answered = pool.api.request

    async def request(asked: str, path: str, **rest: Any) -> bytes:
        while asked == method and any(each in path for each in hangs):
            pool.api.hanging = 1
            await asyncio.sleep(0.002)
        return await answered(asked, path, **rest)

    pool.api.request = request  # type: ignore[method-assign, assignment]
    return hangs.clear


def test_while_pods_are_made_the_status_is_told_and_gates_move(clock):
    async def told() -> None:
        pool = Passes(clock, interval=0.01)
        await pool.settle()
        release = hanging(pool, "POST", "/pods")
        pool.change(device_mapping=TWO_ENGINES)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.status["observedGeneration"] == 2)
        pool.commit()
        await pool.see()
        await pool.api.until(lambda: pool.api.gate("rl") == "True")
        assert len(pool.pod_names()) == 1
        release()
        requeue = await running
        assert len(pool.pod_names()) == 2
        assert requeue.reasons()[Reason.PLAN_OLD] == 0.0

    story(told)


def test_creates_end_when_the_pool_asks_for_something_else(clock):
    async def told() -> None:
        pool = Passes(clock, interval=0.01, device_mapping="list(range(0,24))")
        release = hanging(pool, "POST", "/pods")
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        pool.change(device_mapping=ONE_ENGINE)
        await pool.see()
        release()
        await running
        assert len(pool.pod_names()) <= 1

    story(told)


def test_creates_end_when_there_is_more_to_do_than_was_known(clock):
    """An engine that goes meanwhile does not wait for all the others."""

    async def told() -> None:
        pool = Passes(clock, interval=0.01)
        await pool.settle()
        (first,) = pool.pod_names()
        release = hanging(pool, "POST", "/pods")
        pool.change(device_mapping="list(range(0,24))")
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        await pool.api.request("DELETE", paths.pod("rl", first))
        await pool.see()
        looks = pool.looks
        await pool.api.until(lambda: pool.looks > looks + 1)
        release()
        requeue = await running
        assert len(pool.pod_names()) == 1
        assert requeue.delay() == 0.0

    story(told)


def test_what_is_told_meanwhile_asks_for_no_pass_of_its_own(clock):
    """The pass that goes on decides anew in any case."""

    async def told() -> None:
        pool = Passes(clock, interval=0.01, device_mapping=TWO_ENGINES)
        release = hanging(pool, "POST", "/pods")
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.reason)
        release()
        assert (await running).reasons().keys() <= {Reason.PLAN_OLD, Reason.PODS_LEFT}

    story(told)


def test_a_long_act_that_fails_is_not_begun_anew_at_once(clock):
    async def told() -> None:
        pool = Passes(clock, interval=0.01)
        await pool.settle()
        release = hanging(pool, "POST", "/pods")
        pool.api.fails = failing("POST", "/pods", BROKEN)
        pool.change(device_mapping=TWO_ENGINES)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.status["observedGeneration"] == 2)
        release()
        requeue = await running
        assert requeue.delay() == requeue.reasons()[Reason.PODS_FAILED] == 0.2

    story(told)


# --- pools that go, and pools that cannot be seen


def test_of_a_pool_that_is_gone_nothing_is_remembered(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        assert [key for key, _ in pool.reconciler.meters()] == [KEY]
        await pool.api.request("DELETE", paths.pool(*KEY))
        requeue = await pool.run()
        assert pool.writes == []
        assert requeue.reasons() == {}
        assert pool.reconciler.planning_seconds(KEY) == 0.0

    story(told)


def test_a_pool_that_went_unseen_is_found_out_before_a_second_create(clock):
    async def told() -> None:
        pool = Passes(clock, device_mapping="list(range(0,24))")
        await pool.see()
        del pool.api.objects[paths.pool(*KEY)]
        requeue = await pool.blind()
        assert pool.writes.count("POST pods") <= 1
        assert requeue.reasons() == {}
        assert pool.pools.get(KEY) is None

    story(told)


def test_of_a_pool_that_leaves_its_engines_behind_nothing_is_written(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        leaves = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["orphan"]}
        pool.api.touch(paths.pool(*KEY), {"metadata": leaves})
        assert (await pool.run()).reasons() == {}
        assert pool.writes == []

    story(told)


def test_of_a_pool_that_is_deleted_nothing_is_made_and_gates_go_on(clock):
    async def told() -> None:
        pool = Passes(clock)
        await pool.settle()
        pool.commit()
        leaves = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
        pool.api.touch(paths.pool(*KEY), {"metadata": leaves})
        await pool.api.request("DELETE", paths.child("Service", *KEY))
        await pool.settle()
        assert pool.api.gate("rl") == "True"
        assert paths.child("Service", *KEY) not in pool.api.objects

    story(told)


def test_of_a_namespace_that_cannot_be_read_nothing_is_written(clock):
    async def told() -> None:
        pool = Passes(clock)
        pool.readable = False
        assert (await pool.run()).reasons() == {}
        assert pool.writes == []
        assert list(pool.reconciler.meters()) == []
        pool.readable = True
        await pool.settle()
        assert pool.reason == "PoolReady"

    story(told)


def test_a_write_that_somebody_puts_back_waits_ever_longer(clock):
    async def told() -> None:
        pool = Passes(clock, interval=1.0)
        await pool.settle_within(20)
        waits = []
        for _ in range(8):
            pool.api.touch(paths.child("Service", *KEY), {"spec": {"selector": {"app": "other"}}})
            clock.advance(1.0)
            waits.append((await pool.run()).reasons().get(Reason.PUT_BACK, 0.0))
        assert waits[0] == 0.0
        assert max(waits) > 0.2

    story(told)
