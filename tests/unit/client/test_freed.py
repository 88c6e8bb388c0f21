"""A sleep says how much it freed, and fails where a release freed nothing."""

import pytest

from sglang_operator.client import NotReady, Pool, Unsupported, freed
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

GIB = 2**30


@pytest.fixture
def world():
    with FakePool(engines=2) as made:
        made.turns = True
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        made._pool.gpu_memory = world.used
        yield made


def test_what_a_sleep_freed_is_told_by_gpu(world, pool):
    found = pool.sleep(settle=0)
    assert set(found.gpus) == {"GPU-0-0", "GPU-0-1", "GPU-1-0", "GPU-1-1"}
    assert set(found.gpus.values()) == {30 * GIB}
    assert found.engines == 2
    assert str(found) == "freed 120.0 GiB on 4 GPUs"


def test_a_release_that_frees_nothing_is_no_sleep(world, pool, monkeypatch):
    monkeypatch.setattr(freed, "SEEN_SECONDS", 0.3)
    world.engines[1].frees = False
    with pytest.raises(NotReady, match=r"a release freed nothing: GPU-1-0 holds 31\.0 GiB now"):
        pool.sleep(settle=0)
    assert world.state.phase is Phase.SLEEPING, "and it is on record who is to be woken"
    assert set(world.state.asleep) == {engine.instance for engine in world.engines}
    assert pool.wake().phase is Phase.AWAKE
    assert not any(engine.released for engine in world.engines)


def test_what_others_do_meanwhile_is_not_taken_for_it(world, pool, monkeypatch):
    monkeypatch.setattr(freed, "SEEN_SECONDS", 0.3)
    for engine in world.engines:
        engine.frees = False

    def others():
        held, world.others = world.used(), 2**30 - 2**20
        return held

    pool._pool.gpu_memory = others
    world.others = 2**30
    with pytest.raises(NotReady, match="a release freed nothing"):
        pool.sleep(settle=0)


def test_a_process_that_sees_no_gpu_or_other_ones_sleeps_all_the_same(world, pool):
    pool._pool.gpu_memory = lambda: {"GPU-of-another-node": 5}
    found = pool.sleep(settle=0)
    assert found.gpus == {}
    assert "nobody has measured" in str(found)


def test_who_sleeps_already_has_nothing_left_to_free(world, pool):
    pool.sleep(settle=0)
    assert pool.sleep(settle=0).engines == 0


def test_an_engine_that_says_that_its_memory_saver_is_off_is_not_asked(world, pool):
    world.server_info = {"version": "0.5.7", "enable_memory_saver": False}
    with pytest.raises(Unsupported, match="started without --enable-memory-saver, by its own word"):
        pool.sleep(settle=0)
    assert world.state.phase is Phase.IDLE
    assert not any("/release_memory_occupation" in engine.paths() for engine in world.engines)
