"""A trainer's pod tells its pool which GPUs it has, and keeps its process numbers to itself."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sglang_operator
from sglang_operator.client import InvalidArgument, NotReady, Unsupported, nvml, slots
from sglang_operator.placement import entry
from sglang_operator.placement.slots import Slot, published
from tests.unit.client.fake_pool import POOL, FakePool
from tests.unit.placement.trainers import gpu

ENVIRON = {"NODE_NAME": "gpu-1", "POD_NAME": "trainer-1", "POD_UID": "uid-1", "NODE_RANK": "1"}
HERE = {**os.environ, "PYTHONPATH": str(Path(sglang_operator.__file__).parents[1])}
GPUS = [gpu(1, index) for index in range(4)]


def publish(world, *args, **options):
    told = {"identity": world.identity, "environ": ENVIRON, "gpus": GPUS} | options
    return slots.publish(POOL, *args, **told)


def test_what_is_told_is_what_the_operator_reads(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with FakePool() as world:
        told = publish(world)
        wanted = Slot(
            node_rank=1, node="gpu-1", pod="trainer-1", uid="uid-1", user=1000, gpus=tuple(GPUS)
        )
        assert told == wanted
        found = published(world.slots, "slots")
    assert not found.problems
    assert found.slots == {1: wanted}


def test_each_pod_tells_of_its_own_node_rank_alone():
    with FakePool() as world:
        publish(world)
        other = {**ENVIRON, "NODE_NAME": "gpu-2", "POD_NAME": "trainer-2", "POD_UID": "uid-2"}
        publish(world, 2, environ=other, gpus=[gpu(2, 0)])
        assert set(world.slots) == {"node-rank-1", "node-rank-2"}


def test_a_pool_that_is_not_there_yet_is_waited_for(monkeypatch):
    monkeypatch.setattr(slots, "PAUSE_SECONDS", 0.01)
    with FakePool() as world:
        world.slots_from = 3
        publish(world)
        assert world.slots_asked == 3
        world.slots_from = 1000
        with pytest.raises(NotReady, match=r"there is no ConfigMap rl/actor-infer-slots"):
            publish(world, wait_seconds=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"POD_UID": ""}, r"POD_UID not set.*metadata.uid"),
        ({"NODE_RANK": "x"}, "node_rank is x"),
    ],
)
def test_a_pod_that_does_not_say_who_it_is_is_told_how(changes, words):
    with FakePool() as world, pytest.raises(InvalidArgument, match=words):
        publish(world, environ={**ENVIRON, **changes})


@pytest.mark.parametrize("gpus", [["0"], [], [gpu(0, 0)] * 2], ids=["an index", "none", "twice"])
def test_what_the_operator_would_refuse_is_not_told(gpus):
    with FakePool() as world:
        with pytest.raises(InvalidArgument):
            publish(world, gpus=gpus)
        assert not world.slots_asked
        with pytest.raises(InvalidArgument, match="node_rank is 10000"):
            publish(world, 10_000)


# --- which GPUs there are


def nobody():
    return ()


def test_the_first_that_tells_is_believed():
    assert slots.visible({}, [nobody, lambda: GPUS]) == tuple(GPUS)


def test_what_the_device_plugin_has_set_is_asked_last():
    environ = {"NVIDIA_VISIBLE_DEVICES": ",".join(GPUS)}
    assert slots.visible(environ, [nobody]) == tuple(GPUS)
    assert slots.visible(environ, [lambda: GPUS[::-1]]) == tuple(GPUS[::-1])


@pytest.mark.parametrize("given", ["all", "0,1", "void", "", None])
def test_where_nobody_tells_it_is_said_what_to_give(given):
    environ = {} if given is None else {"NVIDIA_VISIBLE_DEVICES": given}
    with pytest.raises(InvalidArgument, match="gpus="):
        slots.visible(environ, [nobody])


def test_nvidias_program_is_asked_for_uuids(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{GPUS[0]}\\n{GPUS[1]}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert slots._by_program() == tuple(GPUS[:2])


def test_where_there_is_no_driver_nobody_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "_NVML", "libnone.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots._by_library() == ()
    assert slots._by_program() == ()


# --- process numbers


def is_free(path):
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@pytest.fixture(autouse=True)
def held(monkeypatch):
    found: dict[str, int] = {}
    monkeypatch.setattr(slots, "_held", found)
    yield
    for file in found.values():
        os.close(file)


def test_no_engine_takes_numbers_that_a_trainer_s_process_has(tmp_path):
    slots.claim_numbers(tmp_path, 2 * entry.SPAN + 7)
    assert not is_free(tmp_path / entry.LOCK.format(span=2))


def test_processes_of_a_trainer_do_not_mind_each_other(tmp_path):
    other = (tmp_path / entry.LOCK.format(span=2)).open("w")
    with other:
        fcntl.flock(other, fcntl.LOCK_SH)
        slots.claim_numbers(tmp_path, 2 * entry.SPAN)
        slots.claim_numbers(tmp_path, 2 * entry.SPAN + 1)


def test_low_numbers_are_a_trainer_s_anyway(tmp_path):
    slots.claim_numbers(tmp_path, entry.SPAN - 1)
    assert not list(tmp_path.iterdir())


def test_numbers_that_an_engine_has_are_refused(tmp_path):
    with (tmp_path / entry.LOCK.format(span=1)).open("w") as engine:
        fcntl.flock(engine, fcntl.LOCK_EX)
        with pytest.raises(Unsupported, match="start one of the two again"):
            slots.claim_numbers(tmp_path, entry.SPAN)


@pytest.mark.parametrize("other", ["another user's", "a directory", "a link", "no folder"])
def test_numbers_whose_lock_cannot_be_had_are_refused(tmp_path, monkeypatch, other):
    lock = tmp_path / entry.LOCK.format(span=1)
    if other == "a directory":
        lock.mkdir()
    elif other == "a link":
        lock.symlink_to(tmp_path / "target")
    elif other == "no folder":
        tmp_path = tmp_path / "none"
    else:

        def refused(path, *_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(Unsupported, match=r"pids-1.*run as one user"):
        slots.claim_numbers(tmp_path, entry.SPAN)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("times", [1, 3])
def test_a_lock_whose_file_is_removed_as_it_is_taken_is_taken_again(tmp_path, monkeypatch, times):
    lock, left, flock = tmp_path / entry.LOCK.format(span=1), [times], fcntl.flock

    def removed(file, how):
        if left[0]:
            left[0] -= 1
            lock.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed)
    if times == 3:
        with pytest.raises(Unsupported, match="removed again and again"):
            slots.claim_numbers(tmp_path, entry.SPAN)
        return
    slots.claim_numbers(tmp_path, entry.SPAN)
    assert not is_free(lock)


# --- from a shell, and in small environments


def test_a_shell_can_do_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "sglang_operator.client.slots", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=HERE,
    )
    assert "--node-rank" in done.stdout


def test_it_needs_no_more_than_the_client():
    code = "import sys; sys.modules['msgspec'] = None; import sglang_operator.client.slots"
    subprocess.run([sys.executable, "-c", code], check=True, env=HERE)


def test_a_folder_in_which_an_engine_has_its_numbers_is_the_engines_too(tmp_path):
    assert not slots.engines_hold(tmp_path)
    slots.claim_numbers(tmp_path, entry.SPAN)  # a trainer's own is none of an engine's
    (tmp_path / entry.LOCK.format(span=7)).symlink_to(tmp_path / entry.LOCK.format(span=1))
    assert not slots.engines_hold(tmp_path)
    with (tmp_path / entry.LOCK.format(span=2)).open("w") as lock:
        assert not slots.engines_hold(tmp_path), "one that has ended"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert slots.engines_hold(tmp_path)
    assert not slots.engines_hold(tmp_path)
