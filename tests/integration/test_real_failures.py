"""Engines on real nodes: how each failure is told to a user, and what no probe may kill."""

import itertools
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.testing.engine import failures
from tests import busy
from tests.builders import with_config
from tests.integration.pools import PoolUnderTest, engine_env

pytestmark = pytest.mark.plane("3x8", kind="real")

COUNTER = itertools.count()
GOLDEN = Path(__file__).parents[1] / "data" / "described-failures.txt"
READY_SECONDS = 60.0
FAILED_SECONDS = 300.0  # eleven pools start and fail at once, on two cores
# Of probing; for as long as kills an engine whose /health generates, unless told otherwise.
PROBED_SECONDS = float(os.environ.get("PROBED_SECONDS", "25"))
ONE_GPU = {"num_gpus_per_worker": 1, "device_mapping": "[0]"}


@pytest.fixture
def namespace(plane):
    name = plane.namespace(f"failures-{next(COUNTER)}")
    yield name
    plane.kubectl("delete", "sgi", "--all", "-n", name, "--wait=false")
    plane.kubectl(
        "delete", "pods", "--all", "-n", name, "--wait=false", "--grace-period=0", "--force"
    )


def told(pool):
    """What ``kubectl describe`` shows of the last failure, without what differs each time."""
    described = pool.kubectl("describe", "sgi", pool.name)
    section = described.split("Last Failures:")[1].split("Observed Generation:")[0]
    fields = re.findall(r"^ {4}(Advice|Exit Code|Message|Reason): +(.*)$", section, re.MULTILINE)
    return {key: value.strip() for key, value in fields}


# Beside those of the fake engine: what the node refuses before there is an engine.
MISSING_SECRET = {
    "spec": {
        "containers": [
            {
                "name": names.ENGINE_CONTAINER,
                "env": [
                    {
                        "name": "HF_TOKEN",
                        "valueFrom": {"secretKeyRef": {"name": "hub-token", "key": "token"}},
                    }
                ],
            }
        ]
    }
}


def specs():
    """A pool that fails in each way."""
    found: dict[str, dict[str, Any]] = {
        name: {"podTemplate": engine_env(FAIL=name)} for name in failures.AT_START
    }
    found["argument"] = {"extraArgs": ["--no-such-flag=1"]}
    found["secret-missing"] = {"podTemplate": MISSING_SECRET}
    found["image-never"] = {
        "image": "kit.invalid/absent:v0.5.7",
        "podTemplate": {
            "spec": {"containers": [{"name": names.ENGINE_CONTAINER, "imagePullPolicy": "Never"}]}
        },
    }
    return found


def test_each_failure_is_described_with_its_reason_and_advice(plane, namespace):
    pools = {}
    for name, changes in specs().items():
        pools[name] = PoolUnderTest(plane, namespace, name)
        pools[name].apply(
            **ONE_GPU,
            **changes,
            restart={"startupBudget": 1, "backoffSeconds": 60},
            strategy_args=with_config()["strategy_args"],
        )
    lines = []
    for name, pool in sorted(pools.items()):
        pool.wait(lambda: pool.status.get("lastFailures"), "a failure", FAILED_SECONDS)  # noqa: B023
        shown = told(pool)
        lines += [f"--- {name}", *(f"{key}: {value}" for key, value in sorted(shown.items()))]
    text = "\n".join(lines) + "\n"
    assert text == GOLDEN.read_text()


# --- engines that run: what kubelet's probes do to them


class Engine:
    """One engine pod of a pool, or one made by hand after it."""

    def __init__(self, plane, namespace, name):
        self.plane, self.namespace, self.name = plane, namespace, name

    def pod(self):
        return self.plane.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{self.name}")

    def is_up(self):
        conditions = self.pod()["status"].get("conditions", [])
        return any(c["type"] == "ContainersReady" and c["status"] == "True" for c in conditions)

    def has_ended(self):
        return self.pod()["status"]["phase"] in ("Failed", "Succeeded")

    def post(self, path, body=None, timeout=10.0):
        url = f"http://{self.pod()['status']['podIP']}:30000{path}"
        data = json.dumps(body or {}).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with self.plane.inside(), urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status


def up(plane, namespace, engines=1, **changes):
    """A pool of engines that are up, and its engines."""
    pool = PoolUnderTest(plane, namespace)
    config = with_config(enable_memory_saver=True)["strategy_args"]
    mapping = f"list(range(0,{engines}))"
    pool.apply(**{**ONE_GPU, "device_mapping": mapping}, strategy_args=config, **changes)
    pool.wait_ready(READY_SECONDS)
    return pool, [Engine(plane, namespace, pod["metadata"]["name"]) for pod in pool.pods()]


def with_generating_health(plane, engine):
    """The same pod once more, outside the pool, and with the /health that generates."""
    pod = engine.pod()
    spec = pod["spec"]
    for key in ("nodeName", "priority", "preemptionPolicy", "readinessGates"):
        spec.pop(key, None)
    for variable in spec["containers"][0]["env"]:
        if variable["name"] == "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION":
            variable["value"] = "true"
    body = {"metadata": {"name": "generating"}, "spec": spec}
    plane.api.post(f"/api/v1/namespaces/{engine.namespace}/pods", body)
    other = Engine(plane, engine.namespace, "generating")
    plane.wait(other.is_up, READY_SECONDS, "the other engine to be up")
    return other


def lost(engines, seconds):
    """The engines that were not up all the time, in so many seconds of probing."""
    end = time.monotonic() + seconds
    found: set[str] = set()
    while time.monotonic() < end and len(found) < len(engines):
        found |= {e.name for e in engines if e.has_ended() or not e.is_up()}
        time.sleep(0.5)
    return found


def test_no_probe_kills_an_engine_that_sleeps_is_paused_or_syncs(plane, namespace):
    pool, (sleeping, paused, syncing) = up(plane, namespace, 3)
    before = pool.uids()
    sleeping.post("/release_memory_occupation")
    paused.post("/pause_generation", {"mode": "retract"})
    # A group of weights whose other members do not come blocks the scheduler.
    group = {
        "master_address": "127.0.0.1",
        "master_port": 29500,
        "rank_offset": 1,
        "world_size": 2,
        "group_name": "weights",
        "backend": "nccl",
    }
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        syncing.post("/init_weights_update_group", group, timeout=2)
    assert lost([sleeping, paused, syncing], PROBED_SECONDS) == set()
    assert pool.uids() == before


def test_with_the_generating_health_the_sleeping_engine_is_lost(plane, namespace):
    """That the tests above can fail."""
    _, (engine,) = up(plane, namespace)
    other = with_generating_health(plane, engine)
    other.post("/release_memory_occupation")
    assert lost([other], PROBED_SECONDS) == {"generating"}
    plane.wait(other.has_ended, READY_SECONDS, "the end of the engine")


def test_a_crash_is_no_exit_0_and_never_a_restart_in_place(plane, namespace):
    pool, (engine,) = up(plane, namespace)
    engine.post("/release_memory_occupation")
    with pytest.raises(OSError):
        engine.post("/generate", {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 1}})
    (failure,) = pool.wait(lambda: pool.status.get("lastFailures"), "the failure", READY_SECONDS)
    assert (failure["reason"], failure["exitCode"]) == ("RequestWhileAsleep", 137)
    pool.wait_ready(READY_SECONDS)
    (pod,) = [p for p in pool.pods() if p["status"]["phase"] == "Running"]
    assert pod["metadata"]["name"] != engine.name
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_the_drain_of_an_engine_with_a_stuck_request_is_bounded(plane, namespace):
    pool, (engine,) = up(plane, namespace, drain={"gracePeriodSeconds": 3})
    engine.post("/pause_generation", {"mode": "retract"})
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        engine.post("/generate", {"input_ids": [1]}, timeout=1)
    began = time.monotonic()
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.pods(), "the pod to go", 40)
    assert time.monotonic() - began < busy.late(20)
