"""Engines beside the pool's own: they sleep and wake with it, and who leaves is waited for."""

import pytest

from sglang_operator.client import NotReady, Pool, PoolError, beside, sleeping
from sglang_operator.client.registry import parse
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


class World(FakePool):
    """Of three engines the last is wanted no more, once it is told so."""

    blind = False  # nobody sees who is beside

    def _unlisted(self):
        return [] if self.blind else super()._unlisted()

    def edit(self, *ranks: int) -> None:
        self.aside = set(ranks)
        self.call(self.publish)


@pytest.fixture(params=["Committed", "Off"])
def world(request):
    with World(3, gate=request.param) as made:
        for engine in made.engines:
            engine.strict = True
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def sleep(pool, *tags, **more):
    pool.sleep(tags or ("weights", "kv_cache"), settle=0, **more)


def test_an_engine_that_is_wanted_no_more_sleeps_and_wakes_with_the_others(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.edit(2)
    sleep(pool, "kv_cache")
    assert [engine.released for engine in world.engines] == [{"kv_cache"}] * 3
    assert set(world.state.asleep) == {engine.instance for engine in world.engines}
    assert pool.wake().phase is Phase.COMMITTED
    assert not any(engine.released or engine.paused or engine.dead for engine in world.engines)
    assert [engine.gate for engine in world.engines] == ["Open"] * 3


def test_sleepers_are_woken_though_an_edit_wants_them_no_more(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    world.edit(1, 2)
    pool.wake()
    assert not any(engine.released or engine.paused for engine in world.engines)
    world.edit()  # it is taken back
    pool.update_from_disk("/c/2", "step-2")
    assert not any(engine.dead for engine in world.engines)


def test_a_sync_resumes_sleepers_that_are_wanted_no_more(world, pool):
    """The Lease says of nobody that it sleeps then, and the edit may be taken back."""
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool)
    world.edit(2)
    pool.update_from_disk("/c/2", "step-2")
    assert not world.engines[2].released
    assert world.engines[2].weights == "/c/1"
    world.edit()
    pool.update_from_disk("/c/3", "step-3")
    assert [engine.weights for engine in world.engines] == ["/c/3"] * 3
    assert not any(engine.dead for engine in world.engines)


def test_who_sleeps_nobody_knows_where_stays_on_record(world, pool, monkeypatch):
    monkeypatch.setattr(sleeping, "SIGHT_SECONDS", 0.0)
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    lost = world.engines.pop()
    world.unlisted = [f"{POOL}-2"]
    world.call(world.publish)
    with pytest.raises(NotReady, match=rf"pod {POOL}-2 \(Up\); the pool stays asleep"):
        pool.wake()
    assert lost.instance in world.state.asleep
    with pytest.raises(NotReady, match=f"does not say where they answer: pods {POOL}-2"):
        pool.update_from_disk("/c/2", "step-2")
    assert lost.instance in world.state.asleep
    assert lost.released == {"kv_cache"}


def test_a_pool_is_asleep_only_once_who_loads_beside_it_sleeps_too(world, pool):
    world.engines[2].state = "Starting"
    world.engines[2].dead = True
    world.edit(2)
    with pytest.raises(NotReady, match=rf"pod {POOL}-2 \(Starting\): running but not ready"):
        sleep(pool, timeout=0.2)
    assert not any(engine.released for engine in world.engines)


def test_a_pod_on_its_way_out_is_waited_for_until_it_is_gone(world, pool, monkeypatch):
    looks: list[None] = []
    fresh = pool._pool.fresh
    world.leaving = {f"{POOL}-old": 60}

    async def look():
        looks.append(None)
        if len(looks) == 4:
            world.leaving = {}
            world.call(world.publish)
        return await fresh()

    monkeypatch.setattr(pool._pool, "fresh", look)
    monkeypatch.setattr(beside, "LOOK_SECONDS", 0.01)
    sleep(pool, timeout=5, loading=0)  # it may take its grace, whatever others may take
    assert len(looks) >= 4
    assert all(engine.released for engine in world.engines)


def test_a_pod_that_does_not_go_is_named_with_the_time_at_which_it_was_to_be_gone(
    world, pool, monkeypatch
):
    monkeypatch.setattr(beside, "KILLED_SECONDS", 0.0)
    monkeypatch.setattr(beside, "LOOK_SECONDS", 0.01)
    world.leaving = {f"{POOL}-old": 0}
    with pytest.raises(NotReady, match=rf"{POOL}-old \(until 2026-11-29T20:00:00Z\)"):
        sleep(pool, loading=0.1)
    assert not any(engine.released for engine in world.engines)


def test_what_cannot_be_reached_is_told_apart_from_what_leaves(world):
    world.aside = {2}
    world.unlisted, world.leaving = ["lost"], {"old": 30}
    registry = parse(world._config_map())
    assert [engine.pod for engine in registry.unreached] == ["lost"]
    assert [each.pod for each in beside.leaving(registry)] == ["old"]
    assert [engine.pod for engine in registry.present] == [f"{POOL}-{rank}" for rank in range(3)]
    assert registry.present[2].rank < 0


def test_a_sync_silences_an_engine_that_it_passes_over(world, pool):
    """Its gate closes, and a client that keeps its connection would get the old version on."""
    pool.update_from_disk("/c/1", "step-1")
    world.edit(2)
    before = len(world.engines[2].asked)
    pool.update_from_disk("/c/2", "step-2")
    asked = world.engines[2].paths()[before:]
    gated = world.gate == "Committed"
    assert asked == (["/pause_generation", "/abort_request"] if gated else [])
    assert world.engines[2].paused is gated
    assert [engine.weights for engine in world.engines] == ["/c/2", "/c/2", "/c/1"]
    world.edit()  # it is taken back
    pool.update_from_disk("/c/3", "step-3")
    assert not any(engine.paused for engine in world.engines)


def test_one_that_does_not_answer_is_in_no_syncs_way(world, pool, caplog):
    pool.update_from_disk("/c/1", "step-1")
    world.edit(2)
    world.engines[2].refuse["/pause_generation"] = (500, "it ends")
    pool.update_from_disk("/c/2", "step-2")
    assert world.state.version == "step-2"
    gated = world.gate == "Committed"
    assert ("clients that keep their connections" in caplog.text) is gated


def test_an_engine_that_never_served_is_not_asked(world, pool):
    world.edit(2)
    pool.update_from_disk("/c/1", "step-1")
    served = world.gate == "Off"
    assert not any(path == "/pause_generation" for path in world.engines[2].paths()) or served


def test_a_sync_does_not_take_a_sleeper_that_nobody_sees_for_awake(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool, "kv_cache")
    world.aside, world.blind, world.hidden = {2}, True, [f"{POOL}-2"]
    world.call(world.publish)
    with pytest.raises(NotReady, match=rf"in pods {POOL}-2, of whose containers nothing is told"):
        pool.update_from_disk("/c/2", "step-2")
    world.aside, world.blind, world.hidden = set(), False, []
    world.call(world.publish)
    pool.update_from_disk("/c/3", "step-3")
    assert not any(engine.dead or engine.released for engine in world.engines)


def test_only_who_is_beside_by_now_is_silenced(world, pool):
    """An address that was told of before the Lease was taken may be another pool's by then."""

    def beside():
        taken = world.state.phase is Phase.SYNCING
        return [] if taken else [World._unlisted(world)[0]]

    pool.update_from_disk("/c/1", "step-1")
    world.edit(2)
    before = len(world.engines[2].asked)
    world._unlisted = beside
    pool.update_from_disk("/c/2", "step-2")
    assert world.engines[2].asked[before:] == []


def test_who_lost_its_weights_beside_the_pool_is_not_let_go_on_by_a_later_wake(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    sleep(pool)
    world.edit(2)
    pool.update_from_disk("/c/2", "step-2")  # it gets its memory back, and no weights
    sleep(pool, "kv_cache")
    pool.wake()
    assert [engine.paused for engine in world.engines] == [False, False, True]


@pytest.mark.parametrize("gate", ["Off", "Versioned", "Committed"])
@pytest.mark.parametrize("slept", [("kv_cache",), ("weights", "kv_cache")])
@pytest.mark.parametrize("how", ["a failed update", "a sleep over weights"])
def test_an_engine_of_torn_weights_stays_paused_though_its_edit_is_taken_back(gate, slept, how):
    """Without a gate that a commit opens, clients reach what goes on."""
    world = World(3, gate=gate)
    with world, Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as pool:
        torn = world.engines[2]
        pool.update_from_disk("/c/1", "step-1")
        if how == "a failed update":
            torn.refuse["/update_weights_from_disk"] = (400, "half of it was read")
            with pytest.raises(PoolError):
                pool.update_from_disk("/c/2", "step-2")
            torn.refuse.clear()
        else:
            sleep(pool)
        torn.weights = "garbage"
        world.edit(2)
        pool.update_from_disk("/c/3", "step-3")
        world.edit()  # it is taken back
        assert torn.paused
        sleep(pool, *slept)
        pool.wake()
        assert torn.paused
        pool.update_from_disk("/c/4", "step-4")
        assert (torn.paused, torn.weights) == (False, "/c/4")


def test_a_pool_is_not_put_to_sleep_while_engines_may_run_of_which_nothing_is_told(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.hidden = [f"{POOL}-g9-0"]
    world.call(world.publish)
    with pytest.raises(NotReady, match="of whose containers nothing has been told") as error:
        sleep(pool, loading=0.2)
    assert f"{POOL}-g9-0" in str(error.value)
    assert world.state.phase is Phase.COMMITTED
    assert not any(engine.released or engine.paused for engine in world.engines)
