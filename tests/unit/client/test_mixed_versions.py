"""A pool on its way to another SGLang has engines of two versions, and is synced all the same."""

import asyncio

import pytest

from sglang_operator.client import AsyncPool, EngineError, NotReady, Unsupported
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

SESSION = ("/begin_weight_update", "/end_weight_update")


class Mixed(FakePool):
    """Three engines, of which the first still has the version of before."""

    def __init__(self, old: str, new: str, lacks: tuple[str, ...] = ()) -> None:
        super().__init__(3, version=new)
        self.engines[0].version = old
        self.engines[0].refuse = dict.fromkeys(lacks, (404, "Not Found"))
        for engine in self.engines:
            engine.sessions = bool(set(SESSION) - set(lacks)) and engine.version != old


def lived(world, story):
    async def live() -> None:
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="job") as pool:
            await story(pool)

    with world:
        asyncio.run(live())


async def synced(pool) -> None:
    async with pool.sync("step-1") as sync:
        await sync.update_weights_from_tensor({"serialized_named_tensors": []})


def test_each_engine_is_looked_for_where_its_version_answers():
    world = Mixed("0.5.5.post3", "0.5.7")
    lived(world, synced)
    assert [engine.label for engine in world.engines] == ["step-1"] * 3


@pytest.mark.parametrize(("old", "new"), [("0.5.20", "0.5.23"), ("0.5.23", "0.5.20")])
def test_only_engines_whose_version_has_sessions_are_asked_for_one(old, new):
    lacks = SESSION if old == "0.5.20" else ()
    world = Mixed(old, new, lacks)
    for engine in world.engines:
        has = (engine.version or new) == "0.5.23"
        engine.sessions = has
        engine.refuse = {} if has else dict.fromkeys(SESSION, (404, "Not Found"))
    lived(world, synced)
    assert [engine.gate for engine in world.engines] == ["Open"] * 3
    for engine in world.engines:
        assert (SESSION[0] in engine.paths()) == engine.sessions
        assert not engine.session


def test_requests_are_ended_as_each_version_can():
    world = Mixed("0.5.5.post3", "0.5.7")
    lived(world, synced)
    modes = [dict(e.asked)["/pause_generation"]["mode"] for e in world.engines]
    assert modes == ["abort", "retract", "retract"]
    assert ["/abort_request" in e.paths() for e in world.engines] == [False, True, True]


def test_a_mode_or_tag_that_one_version_lacks_is_refused():
    async def story(pool) -> None:
        with pytest.raises(Unsupported, match=r"0\.5\.5\.post3"):
            await pool.sync("step-1", pause="retract").begin()

    lived(Mixed("0.5.5.post3", "0.5.7"), story)

    async def sleeps(pool) -> None:
        with pytest.raises(Unsupported, match=r"0\.4\.6\.post5"):
            await pool.sleep(("kv_cache",))

    lived(Mixed("0.4.6.post5", "0.5.7"), sleeps)


def test_a_group_has_a_name_of_its_own_while_one_engine_cannot_leave_any():
    async def story(pool) -> None:
        plan = await pool.nccl_plan("10.0.0.1", 29500, group_name="g")
        assert plan.group_name != "g"

    lived(Mixed("0.5.2", "0.5.7"), story)


class Sessions(FakePool):
    def __init__(self) -> None:
        super().__init__(2, version="0.5.23")
        for engine in self.engines:
            engine.sessions = True


def test_a_sync_that_another_process_ends_leaves_no_session_open():
    world = Sessions()

    async def story(pool) -> None:
        sync = pool.sync("step-1")
        await sync.begin()
        await sync.update_weights_from_tensor({"serialized_named_tensors": ["x"]})
        await sync.detach()
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="job") as other:
            await (await other.attach()).finish()

    lived(world, story)
    assert [(engine.gate, engine.session) for engine in world.engines] == [("Open", False)] * 2


def test_a_session_that_somebody_opened_by_hand_is_ended_before_the_commit():
    world = Sessions()

    async def story(pool) -> None:
        sync = pool.sync("step-1")
        await sync.begin()
        await sync.detach()
        for engine in sync.engines:
            await pool.calls.post(engine, "/begin_weight_update", {})
            bucket = {"serialized_named_tensors": ["all"]}
            await pool.calls.post(engine, "/update_weights_from_tensor", bucket)
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="job") as other:
            await (await other.attach()).finish()

    lived(world, story)
    assert [(engine.gate, engine.session) for engine in world.engines] == [("Open", False)] * 2


def test_weights_are_read_from_disk_after_a_torn_session_has_ended():
    world = Sessions()
    world.engines[1].session = True  # of a sync that was torn
    lived(world, lambda pool: pool.update_from_disk("/c/1", "step-1"))
    paths = world.engines[1].paths()
    assert paths.index("/end_weight_update") < paths.index("/update_weights_from_disk")
    assert not world.engines[1].session


def test_an_end_of_a_session_that_fails_is_in_the_way_of_the_commit():
    world = Sessions()
    world.engines[1].refuse["/end_weight_update"] = (500, "out of memory")

    async def story(pool) -> None:
        with pytest.raises(EngineError, match="out of memory"):
            await synced(pool)

    lived(world, story)
    assert [engine.gate for engine in world.engines] == ["Closed"] * 2


def test_no_pool_sleeps_while_engines_run_that_the_spec_wants_no_more():
    world = FakePool(2)
    world.unlisted = ["actor-infer-g0-3-0"]

    async def story(pool) -> None:
        with pytest.raises(NotReady, match="actor-infer-g0-3-0"):
            await pool.sleep(loading=0.1)

    lived(world, story)
    assert not any(engine.released for engine in world.engines)
