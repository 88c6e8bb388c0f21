"""The test kit's control plane, on the real thing: all that tests of the operator rely on."""

import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sglang_operator.testing import (
    CommandError,
    ControlPlane,
    PlaneError,
    WaitTimeoutError,
    binaries,
    extratools,
    ports,
    roots,
)
from tests import busy

WAIT_SECONDS = 30.0
GRACE_SECONDS = 3.0
COUNTER = itertools.count()
GATE = "sglang.test/engine-ready"
OWNER = """
import json, sys
from sglang_operator.testing import ControlPlane
with ControlPlane("1x8") as plane:
    print(json.dumps({"data": str(plane.data), "pids": plane.pids}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def plane():
    """A plane of its own: a node that is silent is given up after seconds."""
    with ControlPlane("3x8", node_monitor_grace_seconds=GRACE_SECONDS) as plane:
        print(f"\ncontrol plane ready after {plane.start_seconds:.2f} s")
        yield plane


@pytest.fixture
def namespace(plane):
    name = f"test-{next(COUNTER)}"
    yield plane.namespace(name)
    plane.kubectl("delete", "namespace", name, "--wait=false")


def pod(name, *, gpus=0, annotations=None, **spec):
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": 1}
        for key in ("unreachable", "not-ready")
    ]
    limits = {"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "restartPolicy": "Never",
            "tolerations": tolerations,
            "containers": [{"name": "engine", "image": "sglang.test/engine", **limits}],
            **spec,
        },
    }


class Pods:
    """The pods of one namespace."""

    def __init__(self, plane, namespace):
        self.plane, self.path = plane, f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name, **more):
        self.plane.api.post(self.path, pod(name, **more))

    def get(self, name):
        return self.plane.api.get(f"{self.path}/{name}")

    def status(self, name):
        return self.get(name)["status"]

    def condition(self, name, kind):
        conditions = self.status(name).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == kind), None)

    def annotate(self, name, **values):
        annotations = {f"fake.sglang/{k.replace('_', '-')}": v for k, v in values.items()}
        self.plane.api.merge(f"{self.path}/{name}", {"metadata": {"annotations": annotations}})

    def set_gate(self, name, value):
        condition = {"type": GATE, "status": value}
        self.plane.api.call(
            "PATCH",
            f"{self.path}/{name}/status",
            {"status": {"conditions": [condition]}},
            content_type="application/strategic-merge-patch+json",
        )

    def wait(self, name, what, check):
        def asked():
            return check(self.status(name))

        return self.plane.wait(asked, WAIT_SECONDS, f"pod {name} to be {what}")

    def wait_ready(self, name, value="True"):
        self.plane.wait(
            lambda: self.condition(name, "Ready") == value,
            WAIT_SECONDS,
            f"pod {name} to have Ready={value}",
        )


@pytest.fixture
def pods(plane, namespace):
    return Pods(plane, namespace)


@pytest.mark.each_kubernetes
def test_the_servers_are_of_the_version_that_was_asked_for(plane):
    default = binaries.minor(binaries.kubernetes_version())
    asked = os.environ.get(extratools.VERSION_VARIABLE) or default
    answered = plane.api.get("/version")
    assert f"{answered['major']}.{answered['minor']}" == asked
    for name in binaries.VERSIONED:
        assert f"v{asked}." in binaries.version_of(plane.tools / name)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kit(*args, cache, **more):
    environ = {**os.environ, "PYTHONPATH": roots.python_path(), **cache}
    return subprocess.run(
        [sys.executable, "-m", "sglang_operator.testing", *args],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


# ---- the plane as such


def test_it_is_ready_within_ten_seconds_with_every_node(plane):
    seconds = plane.start_seconds
    for _ in range(4):
        if seconds < busy.late(10):
            break
        with ControlPlane("3x8") as again:  # that one started while much else did
            seconds = again.start_seconds
    assert seconds < busy.late(10)
    lines = plane.kubectl("get", "nodes", "--no-headers").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[f"gpu-node-{i}", "Ready"] for i in range(3)]


def test_the_server_is_known_by_its_certificate(plane):
    trusting = ssl.create_default_context(cafile=str(plane.ca_file))
    with urllib.request.urlopen(f"{plane.url}/readyz", context=trusting) as answer:
        assert answer.read() == b"ok"
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{plane.url}/readyz")


def test_a_fresh_service_account_may_do_nothing(plane, namespace):
    config = plane.service_account_kubeconfig(namespace, "operator", create=True)
    for verb, what in [("list", "pods"), ("create", "pods"), ("get", "secrets"), ("list", "nodes")]:
        answer = plane.kubectl("auth", "can-i", verb, what, as_=config, check=False)
        assert answer.stdout.strip() == "no"
    with pytest.raises(CommandError, match=f"system:serviceaccount:{namespace}:operator.*list"):
        plane.kubectl("get", "pods", as_=config)


def test_a_service_account_may_do_what_it_is_bound_to(plane, namespace):
    config = plane.service_account_kubeconfig(namespace, "reader", create=True)
    plane.kubectl(
        *("create", "rolebinding", "reader", "--clusterrole=view", "-n", namespace),
        f"--serviceaccount={namespace}:reader",
    )
    plane.wait(
        lambda: plane.kubectl("get", "pods", as_=config).returncode == 0, 10, "the binding to work"
    )


def test_another_user_can_be_impersonated(plane):
    with pytest.raises(CommandError, match='User "jane" cannot list'):
        plane.kubectl("get", "pods", as_="jane")


def test_the_audit_log_shows_a_request_as_soon_as_it_is_answered(plane, namespace):
    config = plane.service_account_kubeconfig(namespace, "watched", create=True)
    plane.kubectl("get", "configmap", "x", as_=config, check=False)
    user = f"system:serviceaccount:{namespace}:watched"
    (event,) = [each for each in plane.audit(user=user) if each.resource == "configmaps"]
    assert (event.verb, event.namespace, event.name, event.code) == ("get", namespace, "x", 403)
    assert event.user_agent.startswith("kubectl/")
    assert not plane.audit(user="nobody")
    assert event not in plane.audit(user=user, since=plane.audit()[-1].timestamp)


def test_figures_are_given_of_every_component(plane):
    assert set(plane.pids) == set(plane.rss()) == set(plane.cpu_seconds())
    assert len(plane.pids) == 5
    assert all(size > 10_000_000 for size in plane.rss().values())
    assert plane.cpu_seconds()["kube-apiserver"] > 0.1


def test_a_wait_that_fails_says_what_for_and_what_the_last_answer_was(plane):
    with pytest.raises(WaitTimeoutError, match=r"waited 0 s for Godot; the last answer was None"):
        plane.wait(lambda: None, 0, "Godot")
    with pytest.raises(WaitTimeoutError, match=r"the last answer was ApiError: GET .*: 404"):
        plane.wait(lambda: plane.api.get("/api/v1/nodes/none"), 0, "a node")


# ---- pods


def test_pods_of_two_gpus_fill_the_nodes_and_the_next_one_waits(plane, pods):
    for number in range(13):
        pods.create(f"p{number}", gpus=2)
    ready = plane.wait(
        lambda: (
            len(names := [n for n in range(13) if pods.condition(f"p{n}", "Ready")]) == 12 and names
        ),
        WAIT_SECONDS,
        "twelve of thirteen pods to be ready",
    )
    nodes = [pods.get(f"p{number}")["spec"]["nodeName"] for number in ready]
    assert {node: nodes.count(node) for node in nodes} == {f"gpu-node-{i}": 4 for i in range(3)}
    (left,) = set(range(13)) - set(ready)
    pods.wait(f"p{left}", "refused", lambda status: "Insufficient nvidia.com/gpu" in str(status))


def test_a_readiness_gate_makes_and_unmakes_a_ready_pod(pods):
    pods.create("gated", readinessGates=[{"conditionType": GATE}])
    pods.wait("gated", "running", lambda status: status["phase"] == "Running")
    assert pods.condition("gated", "ContainersReady") == "True"
    assert pods.condition("gated", "Ready") == "False"
    pods.set_gate("gated", "True")
    pods.wait_ready("gated")
    pods.set_gate("gated", "False")
    pods.wait_ready("gated", "False")


def test_a_running_pod_fails_when_it_is_annotated(pods):
    pods.create("p")
    pods.wait_ready("p")
    pods.annotate("p", fail="137", fail_reason="OOMKilled", fail_message="out of memory")
    status = pods.wait("p", "failed", lambda status: status["phase"] == "Failed" and status)
    end = status["containerStatuses"][0]["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")
    assert end["message"] == "out of memory"
    assert pods.condition("p", "Ready") == "False"


def test_a_pod_that_was_told_to_becomes_ready_first_and_fails_later(pods):
    pods.create("p", annotations={"fake.sglang/fail": "1", "fake.sglang/fail-delay": "1s"})
    pods.wait_ready("p")
    pods.wait("p", "failed", lambda status: status["phase"] == "Failed")


def test_a_pod_with_restart_policy_always_is_restarted(pods):
    pods.create("p", restartPolicy="Always")
    pods.wait_ready("p")
    pods.annotate("p", fail="9", restarts="2")
    status = pods.wait(
        "p", "restarted", lambda s: s["containerStatuses"][0]["restartCount"] == 2 and s
    )
    assert status["phase"] == "Running"
    pods.wait_ready("p")
    last = pods.status("p")["containerStatuses"][0]["lastState"]["terminated"]
    assert last["exitCode"] == 9


def test_a_slow_start_is_running_but_not_ready_and_may_fail_meanwhile(pods):
    pods.create("p", annotations={"fake.sglang/start-delay": "1h"})
    pods.wait("p", "running", lambda status: status["phase"] == "Running")
    assert pods.condition("p", "Ready") == "False"
    pods.annotate("p", fail="1")
    pods.wait("p", "failed", lambda status: status["phase"] == "Failed")


def test_a_slow_start_ends(pods):
    pods.create("p", annotations={"fake.sglang/start-delay": "1s"})
    pods.wait_ready("p")


def test_a_pod_completes_when_it_is_annotated(pods):
    pods.create("p")
    pods.wait_ready("p")
    pods.annotate("p", complete="true")
    pods.wait("p", "complete", lambda status: status["phase"] == "Succeeded")


def test_a_deleted_pod_takes_its_stop_delay_at_most_its_grace_period(plane, pods):
    pods.create("p", annotations={"fake.sglang/stop-delay": "3600"})
    pods.wait_ready("p")
    plane.api.call("DELETE", f"{pods.path}/p", {"gracePeriodSeconds": 2})
    began = time.monotonic()
    assert pods.get("p")["metadata"]["deletionTimestamp"]
    plane.wait(lambda: not plane.api.exists(f"{pods.path}/p"), WAIT_SECONDS, "the pod to go")
    assert 1 < time.monotonic() - began < busy.late(10)


def test_an_eviction_marks_the_pod_and_ends_it(plane, pods):
    pods.create("p", annotations={"fake.sglang/stop-delay": "20"})
    pods.wait_ready("p")
    plane.api.post(
        f"{pods.path}/p/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}},
    )
    assert pods.condition("p", "DisruptionTarget") == "True"
    assert pods.get("p")["metadata"]["deletionTimestamp"]


def test_a_pods_address_may_be_chosen(pods):
    pods.create("p", annotations={"fake.sglang/pod-ip": "127.0.0.7"})
    pods.wait_ready("p")
    assert pods.status("p")["podIP"] == "127.0.0.7"


# ---- nodes


def test_a_silent_node_becomes_unknown_and_its_pods_are_disruption_targets(plane, pods):
    node = plane.add_node("silent-node", labels={"silent": "yes"})
    pods.create("p", nodeSelector={"silent": "yes"}, readinessGates=[{"conditionType": GATE}])
    pods.wait("p", "running", lambda status: status["phase"] == "Running")
    pods.set_gate("p", "True")
    pods.wait_ready("p")
    plane.silence_node(node)
    pods.wait_ready("p", "False")
    assert pods.condition("p", GATE) == "True"  # nobody has told it otherwise
    plane.wait(lambda: pods.condition("p", "DisruptionTarget"), WAIT_SECONDS, "the eviction")
    found = plane.api.get(f"/api/v1/nodes/{node}")
    taints = {(t["key"], t["effect"]) for t in found["spec"]["taints"]}
    assert ("node.kubernetes.io/unreachable", "NoExecute") in taints
    ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "Unknown"
    # The controller sets the condition, and then deletes.
    plane.wait(lambda: pods.get("p")["metadata"].get("deletionTimestamp"), WAIT_SECONDS, "its end")
    plane.restore_node(node)
    plane.wait(lambda: not plane.api.exists(f"{pods.path}/p"), WAIT_SECONDS, "the pod to go")
    plane.delete_node(node)


def test_a_node_that_reports_not_ready_is_tainted_until_it_is_restored(plane):
    node = plane.add_node("failing-node")
    plane.fail_node(node)
    path = f"/api/v1/nodes/{node}"
    plane.wait(
        lambda: "node.kubernetes.io/not-ready" in str(plane.api.get(path)["spec"]),
        WAIT_SECONDS,
        "the taint",
    )
    plane.restore_node(node)
    assert not plane.api.get(path)["spec"].get("taints")
    plane.delete_node(node)


def test_a_node_may_be_deleted_and_added_again_under_its_name(plane, pods):
    plane.add_node("again", labels={"again": "yes"})
    plane.delete_node("again")
    plane.add_node("again", gpus=2, labels={"again": "yes"})
    pods.create("p", nodeSelector={"again": "yes"})
    pods.wait_ready("p")
    plane.delete_node("again")


# ---- planes of their own


def test_two_planes_at_once_know_nothing_of_each_other(plane):
    def start(nodes):
        with ControlPlane(nodes) as other:
            other.namespace("mine")
            other.kubectl("create", "configmap", f"nodes-{nodes}", "-n", "mine")
            listed = other.kubectl("get", "configmap", "-n", "mine", "-o", "name").stdout
            return other.url, other.kubectl("get", "nodes", "-o", "name").stdout, listed

    with ThreadPoolExecutor() as pool:
        one, two = pool.map(start, ["1x8", "2x4"])
    assert len({one[0], two[0], plane.url}) == 3
    assert (one[1].count("node/"), two[1].count("node/")) == (1, 2)
    assert "nodes-2x4" not in one[2]
    assert "nodes-1x8" not in two[2]
    assert not plane.api.exists("/api/v1/namespaces/mine")


def test_a_plane_that_loses_the_race_for_its_port_takes_another(monkeypatch):
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        offered = iter([taken.getsockname()[1], ports.free()])
        monkeypatch.setattr(ports, "free", lambda: next(offered))
        with ControlPlane("0") as plane:
            assert plane.kubectl("get", "nodes").stderr.strip() == "No resources found"
            assert "kwok" not in plane.pids


def test_the_api_server_may_be_restarted_and_keeps_its_data():
    with ControlPlane("1x8") as plane:
        plane.namespace("kept")
        plane.stop_component("kube-apiserver")
        plane.check()
        plane.start_component("kube-apiserver")
        assert plane.api.exists("/api/v1/namespaces/kept")
        assert set(plane.pids) >= {"kube-apiserver", "etcd"}


def test_a_component_that_dies_is_reported_with_its_log():
    with ControlPlane("0") as plane:
        os.kill(plane.pids["kube-scheduler"], signal.SIGKILL)
        with pytest.raises(PlaneError, match="kube-scheduler ended with exit code -9") as caught:
            plane.wait(lambda: False, WAIT_SECONDS, "the end of a component")
    assert "Starting Kubernetes Scheduler" in str(caught.value)


def test_a_flag_that_a_component_does_not_know_is_reported_with_its_words():
    plane = ControlPlane("0", flags={"kube-apiserver": ["--no-such-flag"]})
    with pytest.raises(PlaneError, match="unknown flag: --no-such-flag"):
        plane.start()
    with pytest.raises(PlaneError, match="not running"):
        _ = plane.url


def test_an_owner_that_is_killed_leaves_neither_processes_nor_data():
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": roots.python_path()},
    ) as owner:
        assert owner.stdout is not None
        facts = json.loads(owner.stdout.readline())
        owner.kill()
        until(lambda: all(is_gone(pid) for pid in facts["pids"].values()))
        until(lambda: not Path(facts["data"]).exists())


# ---- the command line


@pytest.fixture
def cache(tmp_path, plane):
    """A cache of its own for named planes, the programs being found on PATH."""
    path = f"{plane.tools}{os.pathsep}{os.environ['PATH']}"
    return {"SGLANG_OPERATOR_CACHE": str(tmp_path), "PATH": path}


def test_run_gives_a_command_a_plane_and_passes_its_exit_code_on(cache):
    script = "kubectl get nodes -o name; exit 7"
    done = kit("run", "--nodes", "2x1", "--", "sh", "-c", script, cache=cache)
    assert done.stdout.split() == ["node/gpu-node-0", "node/gpu-node-1"]
    assert done.returncode == 7


def test_run_says_when_there_is_no_such_command(cache):
    done = kit("run", "--nodes", "0", "--", "no-such-command", cache=cache)
    assert (done.returncode, "no-such-command" in done.stderr) == (127, True)


def test_a_detached_plane_is_up_until_down(cache):
    up = kit("up", "--detach", "--nodes", "1x1", cache=cache)
    assert up.stdout.startswith("export KUBECONFIG="), up.stderr
    config = kit("kubeconfig", cache=cache).stdout.strip()
    assert up.stdout.strip() == f"export KUBECONFIG={config}"
    assert kit("up", "--detach", cache=cache).returncode == 1
    assert kit("down", cache=cache).returncode == 0
    assert not Path(config).exists()
    assert kit("kubeconfig", cache=cache).returncode == 1


def test_tools_prints_the_folder_of_the_programs(cache, plane):
    assert kit("tools", cache=cache).stdout.strip() == str(plane.tools)
