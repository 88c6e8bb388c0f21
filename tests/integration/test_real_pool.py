"""A pool of fake engines on real nodes: containers, probes, exit codes and addresses are real."""

import contextlib
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing.realnode import kitimages
from tests.builders import with_config
from tests.integration.pools import PoolUnderTest, engine_env

pytestmark = pytest.mark.plane("3x8", kind="real")

READY_SECONDS = 60.0
WAIT_SECONDS = 60.0
COUNTER = itertools.count()
CONTROL_PORT = 9999  # of the fake, where a test breaks it
TRAINER = """
import sys
from sglang_operator.client import Pool
name, namespace, kubeconfig = sys.argv[1:]
with Pool(name, namespace=namespace, kubeconfig=kubeconfig) as pool, pool.sync("step-1") as sync:
    sync.update_weights_from_disk("/checkpoints/step-1")
"""
SMALL = "list(range(0,4))"  # two engines


@pytest.fixture
def pool(plane):
    namespace = plane.namespace(f"pool-{next(COUNTER)}")
    pool = PoolUnderTest(plane, namespace)
    yield pool
    pool.delete("--ignore-not-found", "--wait=false")
    # The next test needs the GPUs, and drains are looked at elsewhere.
    pool.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    plane.wait(lambda: not pool.all_pods(), WAIT_SECONDS, "the pods to go")


def ask(pool, url, body=None, timeout=10):
    """GET or POST from inside the cluster's network."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with pool.plane.inside(), urllib.request.urlopen(request, timeout=timeout) as answer:
        raw = answer.read()
    return json.loads(raw) if raw else None


def answers(pool, url):
    try:
        return ask(pool, url, timeout=2) is not None
    except OSError:
        return False


def service_url(pool):
    path = f"/api/v1/namespaces/{pool.namespace}/services/{names.service_name(pool.name)}"
    spec = pool.plane.api.get(path)["spec"]
    return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"


def break_engine(pool, engine, **fault):
    """Inject a fault into a running fake engine, which may not live to answer."""
    host = engine["url"].removeprefix("http://").rsplit(":", 1)[0]
    with contextlib.suppress(OSError):
        ask(pool, f"http://{host}:{CONTROL_PORT}/fault", fault)


def test_the_guides_pool_is_ready_and_answers_until_and_after_the_gate_opens(plane, pool):
    began = time.monotonic()
    pool.apply()
    pool.wait_ready(READY_SECONDS)
    print(f"\n12 engines Ready after {time.monotonic() - began:.1f} s")
    registry = pool.registry()
    assert len(registry["engines"]) == 12
    for engine in registry["engines"]:
        assert ask(pool, f"{engine['url']}/model_info")["weight_version"] == "unsynced"
    service = f"{service_url(pool)}/model_info"
    assert not answers(pool, service)  # nobody gets what random weights say
    with plane.inside():  # a trainer is a process of its own
        subprocess.run(
            [sys.executable, "-c", TRAINER, pool.name, pool.namespace, str(plane.kubeconfig)],
            check=True,
            timeout=WAIT_SECONDS,
        )
    pool.wait(lambda: pool.status["syncedSummary"] == "12/12", "SYNCED 12/12", WAIT_SECONDS)
    plane.wait(lambda: answers(pool, service), WAIT_SECONDS, "the Service to answer")
    assert pool.condition(conditions.WEIGHTS_SYNCED)["status"] == "True"


def test_an_engine_that_crashes_is_seen_diagnosed_and_replaced(pool):
    pool.apply(device_mapping=SMALL, podTemplate=engine_env(CONTROL_PORT=CONTROL_PORT))
    before = pool.wait_ready(READY_SECONDS)
    first, _ = pool.registry()["engines"]
    break_engine(pool, first, fault="crash")
    pool.wait(
        lambda: (now := pool.uids()).keys() == before.keys() and now != before, "a replacement"
    )
    after = pool.wait_ready(READY_SECONDS)
    assert [engine for engine in before if before[engine] != after[engine]] == [first["engine"]]
    (failure,) = pool.wait(lambda: pool.status.get("lastFailures"), "the failure is told")
    print("\n", json.dumps(failure, indent=1))
    assert failure["exitCode"] != 0
    assert "illegal memory access" in json.dumps(failure)


def test_an_engine_that_ends_well_has_failed_too(pool):
    pool.apply(device_mapping=SMALL, podTemplate=engine_env(CONTROL_PORT=CONTROL_PORT))
    before = pool.wait_ready(READY_SECONDS)
    break_engine(pool, pool.registry()["engines"][1], fault="exit", code=0)
    pool.wait(lambda: before != pool.uids(), "the end of the engine")
    after = pool.wait_ready(READY_SECONDS)
    assert after.keys() == before.keys()
    assert len(set(before.values()) - set(after.values())) == 1


def test_a_pool_without_a_gate_answers_through_its_service_and_restarts_in_place(plane, pool):
    pool.apply(
        strategy_args=with_config(load_format="auto")["strategy_args"],
        device_mapping=SMALL,
        podTemplate=engine_env(CONTROL_PORT=CONTROL_PORT),
    )
    before = pool.wait_ready(READY_SECONDS)
    service = f"{service_url(pool)}/model_info"
    plane.wait(lambda: answers(pool, service), WAIT_SECONDS, "the Service to answer")
    break_engine(pool, pool.registry()["engines"][0], fault="kill")

    def restarted():
        counts = [s["restartCount"] for p in pool.pods() for s in p["status"]["containerStatuses"]]
        return sorted(counts) == [0, 1] or before != pool.uids()

    pool.wait(restarted, "the restart to be seen", WAIT_SECONDS)
    pool.wait_ready(READY_SECONDS)


def test_a_failing_start_leaves_its_reason(pool):
    pool.apply(device_mapping=SMALL, podTemplate=engine_env(FAIL="kv-cache-too-small"))

    def reasons():
        return {each["reason"] for each in pool.status.get("lastFailures", [])}

    pool.wait(lambda: "KVCacheTooSmall" in reasons(), "the diagnosis", WAIT_SECONDS)


def test_a_pool_scaled_to_nothing_drains_its_engines(pool):
    pool.apply(device_mapping=SMALL)
    pool.wait_ready(READY_SECONDS)
    pool.patch({"replicas": 0})
    pool.wait(lambda: not pool.all_pods(), "the engines to go", WAIT_SECONDS)
    assert pool.wait_ready() == {}  # by a status that knows that they are gone
    assert pool.status.get("lastFailures", []) == []  # they were told to go


def test_each_engine_has_a_name_where_the_pool_asks_for_names(plane, pool):
    pool.apply(device_mapping=SMALL, network={"headlessService": True})
    pool.wait_ready(READY_SECONDS)
    service = names.engines_service_name(pool.name)
    looking, looked_for = sorted(pod["metadata"]["name"] for pod in pool.pods())
    name = f"{looked_for}.{service}.{pool.namespace}.svc"
    script = f"import socket; print(socket.gethostbyname({name!r}))"
    look = ("exec", "-n", pool.namespace, looking, "--", "python3", "-c", script)
    expected = next(
        pod["status"]["podIP"] for pod in pool.pods() if pod["metadata"]["name"] == looked_for
    )
    pool.wait(
        lambda: plane.kubectl(*look).stdout.strip() == expected,
        f"{name} to be known",
        WAIT_SECONDS,
    )


def test_the_operators_own_image_runs_as_it_would_in_a_cluster(plane):
    image = plane.load_image(kitimages.operator())
    namespace = plane.namespace("image")
    plane.kubectl(
        *("run", "operator", f"--image={image.name}", "-n", namespace, "--restart=Never"),
        *("--", "--help"),
    )
    path = f"/api/v1/namespaces/{namespace}/pods/operator"
    plane.wait(
        lambda: plane.api.get(path)["status"]["phase"] == "Succeeded", WAIT_SECONDS, "the end"
    )
    assert "usage" in plane.kubectl("logs", "operator", "-n", namespace).stdout.lower()


VOLUMES = """
import json, os
def written(path):
    try:
        open(path + "/written", "w").write("x")
    except OSError as error:
        return error.strerror
    return "written"
found = os.statvfs("/dev/shm")
print(json.dumps({
    "model": open("/models/config.json").read(),
    "models": written("/models"),
    "shm": written("/dev/shm"),
    "gib": found.f_frsize * found.f_blocks / 2**30,
    "mounts": [line.split()[5] for line in open("/proc/self/mountinfo") if " /models " in line],
}))
"""


@pytest.fixture
def models():
    """A folder of the node whose name says that it is for data: others are not shown."""
    with tempfile.TemporaryDirectory(prefix="models-", dir="/tmp") as made:
        pathlib.Path(made).chmod(0o755)  # engines are no root
        yield pathlib.Path(made)


def test_a_volume_at_dev_shm_is_what_engines_get_and_the_nodes_folder_is_not_written(pool, models):
    (models / "config.json").write_text("a model")
    volumes = [
        {"name": "big", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "models", "hostPath": {"path": str(models), "type": "Directory"}},
    ]
    mounts = [
        {"name": "big", "mountPath": "/dev/shm"},
        {"name": "models", "mountPath": "/models", "readOnly": False},
    ]
    template = {
        "spec": {"volumes": volumes, "containers": [{"name": "engine", "volumeMounts": mounts}]}
    }
    pool.apply(device_mapping="[0, 1]", podTemplate=template)
    pool.wait_ready(READY_SECONDS)
    (pod,) = pool.all_pods()
    name = pod["metadata"]["name"]
    ran = pool.plane.kubectl("exec", "-n", pool.namespace, name, "--", "python3", "-c", VOLUMES)
    told = json.loads(ran.stdout)
    assert told["model"] == "a model"
    assert told["models"] == "Read-only file system"
    assert all(options.split(",")[0] == "ro" for options in told["mounts"])
    assert told["shm"] == "written"
    assert told["gib"] == pytest.approx(1, rel=0.01)
