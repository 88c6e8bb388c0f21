"""Engines beside each other on a trainer's GPUs, in real containers: processes, folder, ends."""

import json

import pytest

from sglang_operator.api import names
from sglang_operator.placement import entry
from tests.integration.pools import PoolUnderTest, engine_env
from tests.integration.test_real_pool import CONTROL_PORT, READY_SECONDS, WAIT_SECONDS, break_engine
from tests.unit.placement.trainers import gpu

pytestmark = pytest.mark.plane("3x8", kind="real")

# What runs in a container, by process number: the engine is the child of what started it.
PROCESSES = (
    "import os, json; print(json.dumps({p: open(f'/proc/{p}/cmdline').read().split('\\0')[:4] "
    "for p in os.listdir('/proc') if p.isdigit()}))"
)
FOLDER = "import os, json; print(json.dumps(sorted(os.listdir('/dev/shm'))))"


@pytest.fixture
def pool(plane):
    pool = PoolUnderTest(plane, plane.namespace("shared"))
    node = plane.api.get("/api/v1/nodes")["items"][0]
    gpus = [gpu(0, index) for index in range(8)]
    slots = [{"nodeRank": 0, "node": node["metadata"]["name"], "gpus": gpus}]
    pool.apply(
        device_mapping="list(range(0,4))",
        placement={"mode": "Shared", "shared": {"slots": slots}},
        podTemplate=engine_env(CONTROL_PORT=CONTROL_PORT),
        drain={"gracePeriodSeconds": 20},
    )
    pool.wait_ready(READY_SECONDS)
    yield pool
    pool.delete("--ignore-not-found", "--wait=false")
    pool.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    plane.wait(lambda: not pool.all_pods(), WAIT_SECONDS, "the pods to go")


def inside(pool, pod, program):
    """What a program says that runs in the engine's container."""
    look = ("exec", "-n", pool.namespace, pod, "-c", "engine", "--", "python3", "-c", program)
    return json.loads(pool.plane.kubectl(*look).stdout)


def spans(pool):
    """The span of process numbers of each engine, by its pod."""
    found = {}
    for pod in pool.pods():
        name = pod["metadata"]["name"]
        running = inside(pool, name, PROCESSES)
        (number,) = [
            int(each)
            for each, words in running.items()
            if "sglang.launch_server" in words and "-c" not in words
        ]
        found[name] = number // entry.SPAN
    return found


def test_engines_run_beside_each_other_and_end_as_ever(plane, pool):
    there = spans(pool)
    assert sorted(there.values()) == [1, 2], "nobody has another's numbers"
    for pod in there:
        locks = [entry.LOCK.format(span=span) for span in (1, 2)]
        assert set(locks) <= set(inside(pool, pod, FOLDER)), "the folder is one and the same"

    # A crash is told as it was, through what started the engine.
    before = pool.uids()
    first, second = pool.registry()["engines"]
    break_engine(pool, first, fault="crash")
    pool.wait(
        lambda: (now := pool.uids()).keys() == before.keys() and now != before, "a replacement"
    )
    pool.wait_ready(READY_SECONDS)
    (failure,) = pool.wait(lambda: pool.status.get("lastFailures"), "the failure is told")
    assert "illegal memory access" in json.dumps(failure)
    assert sorted(spans(pool).values()) == [1, 2], "its numbers are free again"

    # So is a signal: the engine drains, and does not wait for its grace to end.
    name = second["pod"]
    pool.kubectl("delete", "pod", name, "--wait=true", "--timeout=15s")
    pool.wait(lambda: before[second["engine"]] not in pool.uids().values(), "another pod")
    pool.wait_ready(READY_SECONDS)
    assert names.LABEL_ENGINE in pool.pods()[0]["metadata"]["labels"]
