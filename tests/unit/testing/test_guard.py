"""The guard and its owner's side, with harmless programs in the place of components."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sglang_operator.testing import datadir, errors, processes, roots

WAIT_SECONDS = 20.0
IDLE = [sys.executable, "-ISc", "import signal; signal.pause()"]
OWNER = """
import os, sys
from sglang_operator.testing import datadir, processes
data, lock = datadir.create(keep=False)
(data / "logs").mkdir()
owned = processes.Processes(data, lock=lock)
os.close(lock)
pid = owned.start("idle", [sys.executable, "-ISc", "import signal; signal.pause()"])
print(data, owned.guard_pid, pid, flush=True)
sys.stdin.read()
"""


def until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid):
    """Tell whether a process is gone, or would be if its new parent cared."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Let planes' folders lie under the test's own, in children too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield tmp_path
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def owned(temporary):
    data, lock = datadir.create(keep=False)
    (data / "logs").mkdir()
    made = processes.Processes(data, lock=lock)
    os.close(lock)
    yield made
    made.close()


@pytest.fixture
def owner(temporary):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": roots.python_path()},
    ) as process:
        yield process
        process.kill()


def facts(owner):
    data, guard, component = owner.stdout.readline().split()
    return Path(data), int(guard), int(component)


def test_a_component_runs_until_it_is_stopped(owned):
    pid = owned.start("idle", IDLE)
    assert owned.pids == {"idle": pid}
    owned.check()
    owned.stop("idle")
    assert is_gone(pid)
    assert owned.pids == {}
    owned.check()


def test_a_component_that_dies_is_reported_with_the_end_of_its_log(owned):
    owned.start("brief", [sys.executable, "-ISc", "print('port is taken'); raise SystemExit(3)"])
    until(lambda: owned.deaths)
    with pytest.raises(
        errors.PlaneError, match=r"brief ended with exit code 3(?s:.*)port is taken"
    ):
        owned.check()


def test_a_component_that_died_may_be_started_again(owned):
    owned.start("c", [sys.executable, "-ISc", "raise SystemExit(3)"])
    until(lambda: owned.deaths)
    owned.start("c", IDLE)
    owned.check()


def test_a_program_that_is_not_there_is_an_error_at_once(owned):
    with pytest.raises(errors.PlaneError, match=r"cannot start ghost: .*No such file"):
        owned.start("ghost", ["./ghost"])


def test_closing_ends_every_component_and_removes_the_folder(owned):
    pids = [owned.start(name, IDLE) for name in ("a", "b")]
    owned.close()
    assert all(is_gone(pid) for pid in pids)
    assert not owned.data.exists()


def test_a_folder_that_is_to_be_kept_is_kept(owned):
    (owned.data / datadir.KEEP).touch()
    owned.close()
    assert owned.data.exists()


def test_a_dead_guard_is_reported(owned):
    os.kill(owned.guard_pid, signal.SIGKILL)
    until(lambda: is_gone(owned.guard_pid))
    with pytest.raises(errors.PlaneError, match="guard"):
        owned.check()


def test_an_owner_that_is_killed_leaves_neither_processes_nor_data(owner):
    data, guard, component = facts(owner)
    owner.kill()
    until(lambda: is_gone(guard) and is_gone(component) and not data.exists())


def test_an_owner_that_just_ends_leaves_neither_processes_nor_data(owner):
    data, guard, component = facts(owner)
    owner.stdin.close()
    until(lambda: is_gone(guard) and is_gone(component) and not data.exists())


def test_a_guard_that_is_asked_to_end_cleans_up(owner):
    data, guard, component = facts(owner)
    os.kill(guard, signal.SIGTERM)
    until(lambda: is_gone(component) and not data.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_when_guard_and_owner_are_killed_components_die_and_the_next_sweep_removes_the_data(owner):
    data, guard, component = facts(owner)
    os.kill(guard, signal.SIGKILL)
    owner.kill()
    until(lambda: is_gone(guard) and is_gone(component))
    assert data.exists()
    datadir.sweep()
    assert not data.exists()


def test_a_sweep_leaves_planes_alone_that_are_up(owned):
    datadir.sweep()
    assert owned.data.exists()


def test_a_sweep_leaves_folders_alone_that_are_to_be_kept(temporary):
    data, lock = datadir.create(keep=True)
    os.close(lock)
    datadir.sweep()
    assert data.exists()


def test_figures_are_read_of_live_processes_and_are_zero_of_dead_ones(owned):
    pid = owned.start("idle", IDLE)
    until(lambda: processes.rss_bytes(pid) > 1_000_000)  # grows as the program is loaded
    assert processes.cpu_seconds(os.getpid()) > 0
    owned.stop("idle")
    assert processes.rss_bytes(pid) == 0
    assert processes.cpu_seconds(pid) == 0
