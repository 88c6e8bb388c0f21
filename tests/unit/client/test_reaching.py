"""A trainer that cannot reach the engines finds out before it takes anything from clients."""

import threading
import time

import pytest

from sglang_operator.client import NotReady, Pool, StaleEpoch, Unsupported, calls
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

STORY = 30.0


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


CALLS = {
    "sync": lambda pool: pool.update_from_disk("/c/2", "step-2"),
    "sleep": lambda pool: pool.sleep(settle=0),
}


@pytest.fixture(params=CALLS)
def begin(request):
    return CALLS[request.param]


@pytest.fixture
def served(world):
    """Another trainer has committed: every gate is open."""
    with Pool(POOL, NAMESPACE, identity=world.identity) as earlier:
        earlier.update_from_disk("/c/1", "step-1")
    for engine in world.engines:
        engine.asked.clear()
    world.puts.clear()


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("why", ["nobody answers", "another answers"])
def test_nothing_is_taken_where_engines_cannot_be_reached(world, pool, begin, why):
    if why == "another answers":
        world.strangers = True
    else:
        for engine in world.engines:
            engine.dead = True
    with pytest.raises(NotReady, match=r"^3 of 3 engines cannot be reached, the first: engine 0 "):
        begin(pool)
    assert not world.puts
    assert not any(engine.asked for engine in world.engines)
    assert {engine.gate for engine in world.engines} == {"Open"}
    assert (world.state.phase, world.state.version) == (Phase.COMMITTED, "step-1")


@pytest.mark.usefixtures("served")
def test_an_engine_that_has_just_ended_is_said_to_have_restarted(world, pool, begin):
    world.call(lambda: setattr(world.engines[1], "dead", True))
    world.looked.clear()

    def ends() -> None:
        end = time.monotonic() + STORY
        while 1 not in world.looked and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5)  # the client has found it gone by then
        world.restart(1)

    threading.Thread(target=ends).start()
    with pytest.raises(StaleEpoch):
        begin(pool)
    assert not world.puts


@pytest.mark.parametrize(
    "begin",
    [
        lambda pool: pool.update_from_disk("/c/1", "step-2"),
        lambda pool: pool.update_from_disk("/c/1", "step-2", pause=None),
        lambda pool: pool.sleep(settle=0),
    ],
    ids=["a sync", "a sync without a pause", "a sleep"],
)
def test_nothing_is_taken_where_an_engine_cannot_be_paused_as_its_version_says(begin):
    """The image has another version than the pool says: it was found out by a 404 in the sync,
    which closed every gate."""
    with (
        FakePool(version="0.5.2") as made,
        Pool(POOL, NAMESPACE, identity=made.identity) as pool,
    ):
        pool.update_from_disk("/c/1", "step-1")
        made.restart(1)
        made.engines[1].lacks = {"/pause_generation"}
        puts = len(made.puts)
        with pytest.raises(Unsupported, match=r"engine 1 \(g2-3\) has no /pause_generation"):
            begin(pool)
        assert len(made.puts) == puts
        assert made.state.version == "step-1"


def test_engines_are_asked_all_at_once(world, pool):
    """None of them answers before all have been asked."""
    world.slow = 2 * STORY

    def answer() -> None:
        end = time.monotonic() + STORY
        while sorted(world.looked) != [0, 1, 2] and time.monotonic() < end:
            time.sleep(0.01)
        world.slow = 0.0

    answering = threading.Thread(target=answer)
    answering.start()
    pool.update_from_disk("/c/1", "step-1")
    answering.join()
    assert sorted(world.looked) == [0, 1, 2]


def test_one_that_does_not_say_what_it_is_holds_up_nobody_for_long(world, pool, monkeypatch):
    monkeypatch.setattr(calls, "FIND_SECONDS", 0.2)
    world.slow = 60
    begun = time.monotonic()
    with pytest.raises(NotReady, match="no answer in time"):
        pool.update_from_disk("/c/1", "step-1")
    assert time.monotonic() - begun < STORY
    assert not world.puts


def test_engines_that_answered_lately_are_not_asked_again(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    pool.update_from_disk("/c/2", "step-2")
    assert sorted(world.looked) == [0, 1, 2]
    world.restart(1)
    pool.update_from_disk("/c/3", "step-3")
    assert sorted(world.looked) == [0, 1, 1, 2]


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_taken_of_engines_that_are_of_another_version_than_is_told(call):
    with (
        FakePool(2, version="0.5.23") as world,
        Pool(POOL, NAMESPACE, identity=world.identity) as pool,
    ):
        world.server_info = {"version": "0.5.10"}
        for _ in range(2):
            with pytest.raises(NotReady, match=r"engine 0 .*set engineVersion: 0.5.10 in the pool"):
                CALLS[call](pool)
        assert not world.puts
        assert not any(engine.asked for engine in world.engines)
        # The operator has learnt it.
        world.version = "0.5.10"
        world.call(world.publish)
        end = time.monotonic() + STORY
        while pool.registry().engine_version != "0.5.10":
            assert time.monotonic() < end
            time.sleep(0.01)
        CALLS[call](pool)
        assert world.puts


@pytest.mark.parametrize("said", ["0.5.7", "0.5.7+cu129", "0.5.8.dev1", ""])
def test_engines_that_can_do_what_is_told_of_them_are_synced(world, pool, said):
    world.server_info = {"version": said}
    pool.update_from_disk("/c/1", "step-1")
    assert world.state.version == "step-1"
