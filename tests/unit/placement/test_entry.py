"""What an engine's container starts first: it gives the engine process numbers of its own."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_operator.engine import diagnosis
from sglang_operator.placement import entry

UNSHARE = shutil.which("unshare")
SECONDS = 60.0
TELL = "import os; print(os.getpid(), flush=True)"
WAIT = f"{TELL}; import time; time.sleep(60)"


def _can_isolate() -> bool:
    if UNSHARE is None:
        return False
    tried = subprocess.run([UNSHARE, *ISOLATED, "true"], check=False, capture_output=True)
    return tried.returncode == 0


ISOLATED = ("--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
needs_namespaces = pytest.mark.skipif(
    not _can_isolate(), reason="no process namespaces here: they need root on Linux"
)


def command(folder: Path, program: str, script: str = "", before: str = "") -> list[str]:
    """``script``: the entry's, changed; ``before``: what a shell does in its namespaces first."""
    assert UNSHARE is not None
    python = [sys.executable, "-S", "-c"]
    shell = ["sh", "-ec", f'{before}; exec "$@"', "sh"] if before else []
    isolated = [UNSHARE, *ISOLATED, *shell, *python, script or entry.script(str(folder))]
    return [*isolated, *python, program]


def run(
    folder: Path, program: str, script: str = "", before: str = "", **options
) -> subprocess.CompletedProcess[str]:
    told = command(folder, program, script, before)
    found: subprocess.CompletedProcess[str] = subprocess.run(
        told, capture_output=True, text=True, timeout=SECONDS, **options
    )
    return found


def changed(folder: Path, text: str, other: str) -> str:
    """The entry's script with another text in place of this one."""
    script = entry.script(str(folder))
    assert text in script
    return script.replace(text, other)


@contextlib.contextmanager
def running(folder: Path, program: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and the number that its engine has for itself."""
    with subprocess.Popen(command(folder, program), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def span(number: int) -> int:
    return number // entry.SPAN


def test_it_is_a_program_for_any_python_3():
    compile(entry.script(), "entry", "exec")
    assert entry.COMMAND[:2] == ("python3", "-c")
    assert len(entry.COMMAND[2]) < 4096, "each pod has it"


@needs_namespaces
def test_an_engine_has_no_number_that_a_process_before_it_may_have(tmp_path):
    done = run(tmp_path, TELL, check=True)
    assert span(int(done.stdout)) == 1


@needs_namespaces
def test_engines_that_share_a_folder_never_have_the_same_numbers(tmp_path):
    with running(tmp_path, WAIT) as (_, first), running(tmp_path, WAIT) as (_, second):
        assert {span(first), span(second)} == {1, 2}


@needs_namespaces
def test_numbers_are_free_again_with_the_engine_s_end(tmp_path):
    for _ in range(2):
        assert span(int(run(tmp_path, TELL, check=True).stdout)) == 1


@needs_namespaces
def test_an_engine_keeps_away_from_what_its_trainer_has_locked(tmp_path):
    lock = tmp_path / entry.LOCK.format(span=1)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert span(int(run(tmp_path, TELL, check=True).stdout)) == 2


@needs_namespaces
@pytest.mark.parametrize("last", [5, 9000, 900_000], ids=["low", "of a span", "high"])
def test_what_another_namespace_counts_is_not_believed(tmp_path, last):
    """As lxcfs shows a container the node's /proc/loadavg."""
    (tmp_path / "loadavg").write_text(f"0.1 0.1 0.1 1/100 {last}\n")
    bind = f"mount --bind {tmp_path}/loadavg /proc/loadavg"
    done = run(tmp_path, TELL, before=bind, check=True)
    assert span(int(done.stdout)) == 1


@needs_namespaces
def test_an_engine_whose_number_is_not_its_own_is_not_started(tmp_path):
    """However that came: another's handles of memory would be its own."""
    burns = "_thread.start_new_thread(ended.release, ())"
    stuck = changed(tmp_path, burns, "ended.release()")
    done = run(tmp_path, TELL, stuck, check=False)
    assert done.returncode == entry.EXIT_CODE
    assert done.stderr.startswith(entry.SAID)
    assert "is not of span 1" in done.stderr
    assert not done.stdout


@needs_namespaces
@pytest.mark.parametrize("other", ["a directory", "a link"])
def test_what_is_no_lock_by_a_lock_s_name_is_left_alone(tmp_path, other):
    lock, target = tmp_path / entry.LOCK.format(span=1), tmp_path / "target"
    if other == "a link":
        lock.symlink_to(target)
    else:
        lock.mkdir()
    assert span(int(run(tmp_path, TELL, check=True).stdout)) == 2
    assert not target.exists()


@needs_namespaces
def test_a_lock_whose_file_is_removed_as_it_is_taken_is_none(tmp_path):
    removed = "span == 1 and os.unlink(path); fcntl.flock(file"
    script = changed(tmp_path, "fcntl.flock(file", removed)
    assert span(int(run(tmp_path, TELL, script, check=True).stdout)) == 2


@needs_namespaces
def test_what_an_engine_of_these_numbers_left_behind_is_removed_and_nothing_else(tmp_path):
    own, other, rest = f"torch_{entry.SPAN + 5}_1_0", f"torch_{5}_1_0", "nccl-x"
    for name in (own, other, rest):
        (tmp_path / name).touch()
    run(tmp_path, TELL, check=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert own not in left
    assert {other, rest} <= left


@needs_namespaces
@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(0)", 0), ("raise SystemExit(3)", 3)],
    ids=["it ends well", "it fails"],
)
def test_the_engine_s_end_is_told_as_it_was(tmp_path, program, code):
    assert run(tmp_path, program, check=False).returncode == code


@needs_namespaces
def test_a_signal_reaches_the_engine(tmp_path):
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        f"{TELL}\ntime.sleep(60)"
    )
    with running(tmp_path, program) as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(SECONDS) == 7


@needs_namespaces
def test_an_engine_that_finds_no_numbers_says_why(tmp_path):
    with contextlib.ExitStack() as held:
        for number in range(1, entry.MOST_SPANS + 1):
            file = held.enter_context((tmp_path / entry.LOCK.format(span=number)).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        begun = time.monotonic()
        done = run(tmp_path, TELL, check=False)
    assert time.monotonic() - begun < SECONDS
    assert done.returncode == entry.EXIT_CODE
    assert done.stderr.startswith(entry.SAID)
    assert "spans are taken" in done.stderr
    assert not done.stdout


def test_that_end_has_advice():
    told = diagnosis.diagnose(f"{entry.SAID}/dev/shm cannot be written by user 1000\n", 78, "Error")
    assert told.reason == "SharedMemoryUnusable"
    assert "/dev/shm cannot be written by user 1000" in told.message
    assert "security.runAsUser" in told.advice
