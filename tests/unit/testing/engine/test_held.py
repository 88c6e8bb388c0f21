"""Fake engines hold memory that others can count, as NVIDIA's library would tell of it."""

import argparse

import pytest

from sglang_operator.engine import versions
from sglang_operator.testing.engine import behaviour, held, settings, weights
from sglang_operator.testing.engine.commands import Commands
from sglang_operator.testing.engine.scheduler import Scheduler

GPU = "GPU-a"


def an_engine(folder, *, saver=True):
    """What an engine of one GPU does about its memory."""
    args = argparse.Namespace(enable_memory_saver=saver, tp_size=1)
    told = settings.Settings(memory=str(folder), devices=GPU)
    made = Commands(
        args,
        behaviour.of(versions.parse("0.5.14")),
        told,
        Scheduler(0.001, crashed=lambda error: None),
        weights.Weights(["w"], dummy=True, source=""),
    )
    made.held.tell(made.memory)
    return made


def test_what_is_released_is_free_for_others_and_what_is_resumed_is_not(tmp_path):
    engine = an_engine(tmp_path)
    assert held.used(tmp_path) == {GPU: 5 * held.GIB + held.CONTEXT}
    engine.release(["weights"])
    assert held.used(tmp_path) == {GPU: 4 * held.GIB + held.CONTEXT}
    engine.release(["kv_cache", "cuda_graph"])
    assert held.used(tmp_path) == {GPU: held.CONTEXT}
    engine.resume(None)
    assert held.used(tmp_path) == {GPU: 5 * held.GIB + held.CONTEXT}


def test_without_a_memory_saver_a_release_frees_nothing(tmp_path):
    engine = an_engine(tmp_path, saver=False)
    before = held.used(tmp_path)
    engine.release(None)
    assert held.used(tmp_path) == before
    assert engine.released


def test_who_is_gone_holds_nothing(tmp_path):
    engine = an_engine(tmp_path)
    engine.held.close()
    assert held.used(tmp_path) == {}


def test_trainer_and_engine_together_are_found(tmp_path):
    engine = an_engine(tmp_path)
    trainer = held.Held(tmp_path, [GPU, "GPU-b"], who="trainer")
    assert held.both(tmp_path) == []
    trainer.tell(held.GIB)
    assert held.both(tmp_path) == [GPU]
    engine.release(None)
    assert held.both(tmp_path) == []
    trainer.close()


def test_each_moment_at_which_they_come_to_hold_it_together_is_written_down(tmp_path):
    engine = an_engine(tmp_path)
    trainer = held.Held(tmp_path, [GPU, "GPU-b"], who=held.TRAINER)
    trainer.tell(held.CONTEXT)
    assert held.moments(tmp_path) == []
    trainer.tell(held.GIB)
    assert [(each["who"], each["devices"]) for each in held.moments(tmp_path)] == [
        ("trainer", [GPU])
    ]
    engine.release(["kv_cache"])  # it holds less: no moment of its own
    engine.release(["weights", "cuda_graph"])
    engine.resume(["weights"])
    trainer.close()
    engine.resume(["kv_cache"])  # nobody else has it by now
    assert [each["who"] for each in held.moments(tmp_path)] == ["trainer", "engine"]


def test_an_engine_has_the_gpus_that_its_container_is_given_by_uuid():
    given = {"NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert settings.read(given).devices == "GPU-a,GPU-b"
    assert settings.read({**given, "FAKE_SGLANG_DEVICES": "GPU-c"}).devices == "GPU-c"
    assert settings.read({"NVIDIA_VISIBLE_DEVICES": "all"}).devices == ""


@pytest.mark.parametrize("devices", [[""], []])
def test_who_is_told_of_no_gpus_holds_none(tmp_path, devices):
    alone = held.Held(tmp_path, devices)
    alone.tell(5)
    assert held.used(tmp_path) == {}
    alone.close()
    held.Held("", [GPU]).tell(5)
