"""What the fakes of the contract are forked from leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.targets import model

WAIT_SECONDS = 60.0
OWNER = """
import json, os, sys, tempfile, time
from tests.contract.zygote import Zygote
zygote, log = Zygote(), tempfile.TemporaryFile()
engine = zygote.start(json.loads(sys.argv[1]), os.environ, log)
while not os.fstat(log.fileno()).st_size:  # until it is under way
    time.sleep(0.01)
print(json.dumps([zygote.pid, engine.pid]), flush=True)
sys.stdin.read()
"""


def is_gone(pid):
    """Tell whether a process is gone, or would be if its new parent cared."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_end(pid):
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def owner():
    """A process with a zygote and an engine, and the ids of these two."""
    argv = [sys.executable, "-c", OWNER, json.dumps([f"--model-path={model()}"])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        zygote, engine = json.loads(process.stdout.readline())
        assert not is_gone(zygote)
        assert not is_gone(engine)
        yield process, zygote, engine
        process.kill()
        for pid in (zygote, engine):
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_killed_test_run_leaves_neither_the_zygote_nor_its_engines(owner):
    process, zygote, engine = owner
    process.kill()
    await_end(zygote)
    await_end(engine)


def test_engines_end_with_a_zygote_that_is_killed(owner):
    _, zygote, engine = owner
    os.kill(zygote, signal.SIGKILL)
    await_end(engine)
