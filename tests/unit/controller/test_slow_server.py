"""An API server whose answers take longer than a pass waits between two looks at its pool."""

import asyncio

import pytest

from sglang_operator.controller.acting import ACTING_SECONDS
from sglang_operator.controller.loop import ControlLoop
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiUnreachableError
from tests.unit.controller.fake_api import Api, instances, operator
from tests.unit.controller.passes import KEY, LEASE, Clock, Passes
from tests.unit.controller.test_reconcile import (
    ONE_ENGINE,
    TWO_ENGINES,
    failing,
    hanging,
    story,
)

POOL = "/sglanginferences/pool"
THREE_ENGINES = "[0, 1, 2, 3, 4, 5]"


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def looked(pool: Passes, times: int = 2) -> None:
    """The pass that is under way has looked at its pool so many times more."""
    looks = pool.looks
    await pool.api.until(lambda: pool.looks >= looks + times)


def set_ready(pool: Passes, name: str, status: str) -> None:
    conditions = [
        {"type": kind, "status": status} for kind in ("ContainersReady", "Ready", "PodScheduled")
    ]
    pool.api.touch(paths.pod("rl", name), {"status": {"conditions": conditions}})


async def grown(clock: Clock, device_mapping: str) -> Passes:
    """A pool whose engines are all up."""
    pool = Passes(clock, interval=0.01, device_mapping=device_mapping, weights={"gate": "Off"})
    for _ in range(3):
        clock.advance(60)
        await pool.run()
        for name in pool.pod_names():
            set_ready(pool, name, "True")
    await pool.settle_within(600)
    return pool


def test_engines_go_though_the_pool_is_confirmed_more_slowly_than_it_is_looked_at(clock):
    async def told() -> None:
        pool = await grown(clock, THREE_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_engines_go_though_the_pool_is_confirmed_more_slowly_than_a_pass_may_act(clock):
    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        clock.advance(ACTING_SECONDS + 1)
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_an_engine_goes_though_there_is_more_to_do_at_each_look(clock):
    """Else, where something is new each second, nothing would ever be done."""

    async def told() -> None:
        pool = await grown(clock, THREE_ENGINES)
        pool.change(device_mapping=TWO_ENGINES)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        first = pool.pod_names()[0]
        await pool.api.request("DELETE", paths.pod("rl", first))  # and is to be made again
        await pool.see()
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_a_pod_that_changes_meanwhile_goes_as_it_is_by_then(clock):
    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        pool.change(device_mapping=ONE_ENGINE)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        for name in pool.pod_names():
            pool.api.touch(paths.pod("rl", name), {"metadata": {"annotations": {"seen": "yes"}}})
        await pool.see()
        await looked(pool)
        release()
        await running
        assert len(pool.pod_names()) == 1

    story(told)


def test_an_engine_stays_that_another_has_to_stand_in_for_by_then(clock):
    """``maxUnavailable`` counts what serves when a pod goes, not when that was planned."""

    async def told() -> None:
        pool = await grown(clock, TWO_ENGINES)
        standing = pool.pod_names()
        pool.change(seed=7)
        release = hanging(pool, "GET", POOL)
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        # The upper goes first.
        await pool.api.request("DELETE", paths.pod("rl", standing[0]))
        await pool.see()
        await looked(pool)
        release()
        await running
        assert pool.pod_names() == standing[1:]

    story(told)


# --- gates beside what has no answer


def set_probed(api: Api, status: str) -> None:
    """The engine answers its probe or misses it: the registry and the status tell."""
    name = api.pods("rl")[0]["metadata"]["name"]
    seen = api.pods("rl")[0]["status"]["conditions"]
    kept = [each for each in seen if each["type"] != "ContainersReady"]
    conditions = [*kept, {"type": "ContainersReady", "status": status}]
    api.touch(paths.pod("rl", name), {"status": {"conditions": conditions}})


async def synced(api: Api, room: ControlLoop, *, refused: bool) -> None:
    """The pool serves; its spec may be one that nobody can carry out."""
    api.make(*KEY)
    await api.until(lambda: api.pods("rl") and api.reason(*KEY) == "PoolReady")
    await api.until(lambda: LEASE in api.objects)
    if refused:
        api.change(*KEY, {**api.pool(*KEY)["spec"], "device_mapping": "nonsense"})
        await api.until(lambda: api.reason(*KEY) not in ("", "PoolReady"))
    api.transact(*KEY, "Committed", instances(room, KEY))
    await api.until(lambda: api.gate("rl") == "True")


@pytest.mark.parametrize(
    "refused", [False, True], ids=["a pool that runs", "a pool whose spec is refused"]
)
@pytest.mark.parametrize(
    "kind", ["configmaps", "sglanginferences/pool/status"], ids=["registry", "status"]
)
def test_a_gate_closes_though_what_is_told_of_the_pool_is_not_taken(kind, refused):
    async def told() -> None:
        api = Api()
        async with operator(api) as room:
            await synced(api, room, refused=refused)
            api.hangs = lambda method, path: method != "GET" and kind in path
            set_probed(api, "False")
            if refused:
                api.change(*KEY, {**api.pool(*KEY)["spec"], "device_mapping": "no better"})
            await api.until(lambda: api.hanging)
            api.transact(*KEY, "Aborted")
            await api.until(lambda: api.gate("rl") == "False")
            assert api.hanging

    asyncio.run(told())


def test_a_gate_closes_though_it_is_not_learnt_what_became_of_a_create(clock):
    async def told() -> None:
        pool = Passes(clock, interval=0.01)
        await pool.settle()
        pool.commit()
        await pool.settle()
        assert pool.api.gate("rl") == "True"
        pool.change(device_mapping=TWO_ENGINES)
        pool.api.fails = failing("POST", "/pods", ApiUnreachableError("lost"))
        await pool.run()
        pool.api.fails = failing("", "", ApiUnreachableError(""))
        release = hanging(pool, "GET", "/pods/")
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        pool.abort()
        await pool.see()
        await pool.api.until(lambda: pool.api.gate("rl") == "False")
        release()
        await running

    story(told)


def test_a_gate_closes_though_pods_are_still_made_for_a_spec_that_was_changed(clock):
    async def told() -> None:
        pool = Passes(clock, interval=0.01)
        await pool.settle()
        pool.commit()
        await pool.settle()
        pool.change(device_mapping=TWO_ENGINES)
        release = hanging(pool, "POST", "/pods")
        running = asyncio.create_task(pool.run())
        await pool.api.until(lambda: pool.api.hanging)
        pool.change(device_mapping=THREE_ENGINES)
        pool.abort()
        await pool.see()
        await pool.api.until(lambda: pool.api.gate("rl") == "False")
        release()
        await running

    story(told)
