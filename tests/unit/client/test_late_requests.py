"""Requests that reach an engine after its pause: samples that follow their prompts."""

import dataclasses

import pytest

from sglang_operator.client import EngineError, NotReady, Pool, confirming, pausing
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakeEngine, FakePool


class Late:
    """What is left in an engine, until something of ``ends`` was asked of it."""

    def __init__(self, engine: FakeEngine, *ends: str) -> None:
        self._engine, self._ends = engine, ends
        self._since: int | None = None
        engine._flush_cache = self._flush  # type: ignore[method-assign]

    def come(self) -> None:
        """From now on."""
        self._since = len(self._engine.asked)

    def _flush(self, payload):
        left = self._since is not None and not any(
            path in self._ends for path in self._engine.paths()[self._since :]
        )
        return (400, {"message": "busy"}) if left else (200, {})


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(pausing, "QUICK_SECONDS", 0.1)
    with FakePool(version="0.5.14") as world:
        yield world


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity) as pool:
        yield pool


@pytest.mark.parametrize("when", ["before the update", "after it"])
def test_a_pause_without_modes_ends_what_comes_late_too(when, monkeypatch):
    """It answers at once: samples that follow their prompt would be read to their end."""
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.5)
    with (
        FakePool(version="0.5.4.post2") as world,
        Pool(POOL, NAMESPACE, identity=world.identity) as pool,
    ):
        late = Late(world.engines[1], "/abort_request")
        if when == "before the update":
            late.come()
        with pool.sync("step-1") as sync:
            sync.update_weights_from_disk("/c/1")
            if when == "after it":
                late.come()
        assert [engine.gate for engine in world.engines] == ["Open"] * 3
        assert "/continue_generation" not in world.engines[1].paths()[:-1]


@pytest.mark.parametrize("ends", ["/abort_request", "/continue_generation"])
def test_what_came_during_a_sync_is_ended_before_the_commit(world, pool, ends):
    late = Late(world.engines[1], ends)
    with pool.sync("step-1") as sync:
        sync.update_weights_from_disk("/c/1")
        late.come()
    assert [engine.gate for engine in world.engines] == ["Open"] * 3


def test_an_engine_that_ran_for_a_moment_stands_still_again_as_the_first_byte_comes(world, pool):
    """SGLang's pause ``abort`` does not stop the scheduler: what comes late would be computed."""
    pool.update_from_disk("/c/1", "step-1")
    engine = world.engines[1]
    late = Late(engine, "/continue_generation")
    late.come()
    begun = len(engine.asked)
    pool.update_from_disk("/c/2", "step-2")
    asked = engine.asked[begun:]
    written = next(i for i, (path, _) in enumerate(asked) if path == "/update_weights_from_disk")
    ran = asked.index(("/continue_generation", {}))
    assert ran < written
    modes = [body["mode"] for path, body in asked[ran:written] if path == "/pause_generation"]
    assert modes == ["abort", "retract"]
    assert asked[written - 1][0] == "/flush_cache"
    assert [each.gate for each in world.engines] == ["Open"] * 3


def test_an_update_from_disk_flushes_nothing_by_itself(world, pool):
    """The flush that SGLang does there is an assertion, and a late request its end."""
    pool.update_from_disk("/c/1", "step-1")
    bodies = [b for p, b in world.engines[0].asked if p == "/update_weights_from_disk"]
    assert [body["flush_cache"] for body in bodies] == [False]


def test_what_waits_for_a_grammar_over_torn_weights_wants_a_restart(world, pool, monkeypatch):
    """To let the scheduler run would answer what waits at its tokenizer from torn weights."""
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.3)
    late = Late(world.engines[1], "/continue_generation")
    with pytest.raises(RuntimeError), pool.sync("step-1"):
        late.come()
        raise RuntimeError("the trainer fails")
    with pytest.raises(EngineError, match="Restart the engine"):
        pool.update_from_disk("/c/2", "step-2")
    assert "/continue_generation" not in world.engines[1].paths()


def test_what_came_since_the_pause_is_ended_before_memory_goes(world, pool):
    world.memory_saver = True
    world.publish()
    pool.sleep(("kv_cache",), settle=0)
    asked = world.engines[1].paths()
    assert asked[asked.index("/release_memory_occupation") - 1] == "/flush_cache"
    assert asked.count("/flush_cache") == 2


def test_what_came_since_it_sleeps_is_ended_before_more_memory_goes(world, pool):
    """It cannot be flushed: what waits all the same would end it."""
    world.memory_saver = True
    world.publish()
    pool.sleep(("kv_cache",), settle=0)
    slept = len(world.engines[1].paths())
    pool.sleep(("weights",), settle=0)
    asked = world.engines[1].paths()[slept:]
    assert "/flush_cache" not in asked
    assert asked[asked.index("/release_memory_occupation") - 1] == "/abort_request"
    assert asked.count("/abort_request") == 2


def test_an_engine_that_does_not_say_what_became_of_that_flush_did_not_go_to_sleep(world, pool):
    """It was not told to: who takes it for asleep resumes what it has, and that ends it."""
    world.memory_saver = True
    world.publish()
    pool.update_from_disk("/c/1", "step-1")
    engine = world.engines[1]
    flushes = iter([(200, {}), (504, {"message": "upstream timed out"})])
    engine._flush_cache = lambda payload: next(flushes, (200, {}))
    with pytest.raises(EngineError, match="upstream timed out"):
        pool.sleep(settle=0)
    assert [bool(world.state.sleeps(each.instance)) for each in world.engines] == [
        True,
        False,
        True,
    ]
    pool.wake()
    assert "/resume_memory_occupation" not in engine.paths()


def test_an_engine_that_the_commit_does_not_cover_is_never_let_run_for_a_moment(
    world, pool, monkeypatch
):
    """It may be torn, whatever the Lease says of the others."""
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.3)
    pool.update_from_disk("/c/1", "step-1")
    torn = world.engines[1]
    covered = frozenset(e.instance for e in world.engines if e is not torn)
    world.write_lease(dataclasses.replace(world.state, instances=covered))
    late = Late(torn, "/continue_generation")
    before = len(torn.asked)
    late.come()
    with pytest.raises(EngineError, match="Restart the engine"):
        pool.update_from_disk("/c/2", "step-2")
    assert "/continue_generation" not in torn.paths()[before:]


@pytest.mark.parametrize("before", ["a sleep", "a sync that sent nothing"])
def test_what_waits_over_weights_that_engines_were_started_with_is_ended(
    world, pool, monkeypatch, before
):
    """The Lease says Awake, and nobody has written anything."""
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 0.3)
    if before == "a sleep":
        world.memory_saver = True
        world.publish()
        pool.sleep(("kv_cache",), settle=0)
        pool.wake()
    else:
        world.operates = False
        with pytest.raises(NotReady):
            pool.update_from_disk("/c/1", "step-1")
        world.operates = True
        world.call(world._operate)
    assert world.state.initial
    Late(world.engines[1], "/continue_generation").come()
    pool.update_from_disk("/c/1", "step-1")
    assert [engine.gate for engine in world.engines] == ["Open"] * 3
