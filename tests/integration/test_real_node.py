"""Real nodes of the test kit: containers, probes, signals, names and addresses as in a cluster."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sglang_operator.testing import ControlPlane, roots
from sglang_operator.testing.errors import CommandError, PlaneError
from sglang_operator.testing.pytest_plugin import require_real_node
from sglang_operator.testing.realnode import cgroups, images, pythonimage

WAIT_SECONDS = 60.0
GRACE_SECONDS = 4.0
COUNTER = itertools.count()
GATE = "sglang.test/engine-ready"
IMAGE = "kit.invalid/stand-in:v1"
PORT = 8000
OWNER = """
import json, sys
from sglang_operator.testing import ControlPlane
with ControlPlane("1x8", kind="real") as plane:
    print(json.dumps({"data": str(plane.data), "pids": plane.pids}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A plane of its own: a node that is silent is given up after seconds."""
    require_real_node()
    with ControlPlane("2x8", kind="real", node_monitor_grace_seconds=GRACE_SECONDS) as plane:
        print(f"\nreal nodes ready after {plane.start_seconds:.2f} s")
        package = tmp_path_factory.mktemp("image") / "standin"
        package.mkdir()
        server = Path(__file__).parent / "stand_in.py"
        (package / "__main__.py").write_bytes(server.read_bytes())
        began = time.monotonic()
        plane.load_image(
            pythonimage.build(
                IMAGE, entrypoint=["python3", "-m", "standin", str(PORT)], sources=[package]
            )
        )
        print(f"image there after {time.monotonic() - began:.2f} s")
        yield plane


@pytest.fixture
def pods(plane):
    namespace = plane.namespace(f"test-{next(COUNTER)}")
    yield Pods(plane, namespace)
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


class Pods:
    """The pods of one namespace."""

    def __init__(self, plane, namespace):
        self.plane, self.namespace = plane, namespace
        self.path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name, *, gpus=0, env=None, container=None, **spec):
        body = {
            "name": "engine",
            "image": IMAGE,
            "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
            "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            **(container or {}),
        }
        if gpus:
            body["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
        defaults = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
        self.plane.api.post(
            self.path,
            {
                "metadata": {"name": name, "labels": {"app": "stand-in"}},
                "spec": {**defaults, "containers": [body], **spec},
            },
        )

    def create_ready(self, name, **more):
        """Create a pod, wait until it is Ready; its address."""
        self.create(name, **more)
        self.wait_ready(name)
        return self.status(name)["podIP"]

    def status(self, name):
        return self.plane.api.get(f"{self.path}/{name}")["status"]

    def condition(self, name, kind):
        conditions = self.status(name).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == kind), None)

    def container(self, name):
        (status,) = self.status(name)["containerStatuses"]
        return status

    def wait(self, name, what, check):
        return self.plane.wait(
            lambda: check(self.status(name)), WAIT_SECONDS, f"pod {name} to be {what}"
        )

    def wait_ready(self, name, value="True"):
        self.plane.wait(
            lambda: self.condition(name, "Ready") == value,
            WAIT_SECONDS,
            f"pod {name} to have Ready={value}",
        )

    def wait_ended(self, name):
        """Wait until the only container has ended; how it did."""

        return self.wait(name, "ended", lambda status: state(status).get("terminated"))

    def service(self, name, **spec):
        made = self.plane.api.post(
            f"/api/v1/namespaces/{self.namespace}/services",
            {
                "metadata": {"name": name},
                "spec": {"selector": {"app": "stand-in"}, "ports": [{"port": PORT}], **spec},
            },
        )
        return made["spec"].get("clusterIP")

    def ask(self, address, path="name"):
        """GET from inside the plane's network."""
        with (
            self.plane.inside(),
            urllib.request.urlopen(f"http://{address}:{PORT}/{path}", timeout=10) as answer,
        ):
            return answer.read().decode()

    def ask_until_answered(self, address, path="name"):
        return self.plane.wait(
            lambda: self.answer(address, path), WAIT_SECONDS, f"an answer from {address}"
        )

    def answer(self, address, path="name"):
        """What is answered, or None."""
        try:
            return self.ask(address, path)
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        except OSError:
            return None


def state(status):
    """The state of the only container, once there is one."""
    return next((each["state"] for each in status.get("containerStatuses", [])), {})


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


# ---- containers


def test_the_nodes_are_ready_soon_and_have_gpus(plane):
    assert plane.start_seconds < 30
    for node in plane.api.get("/api/v1/nodes")["items"]:
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
        assert node["metadata"]["labels"]["nvidia.com/gpu.count"] == "8"


def test_gpus_are_counted_by_the_scheduler_and_by_kubelet(plane, pods):
    for name in ("a", "b"):
        pods.create_ready(name, gpus=8)
    pods.create("waits", gpus=1)
    pods.create("forced", gpus=1, nodeName="gpu-node-0")
    pods.wait("waits", "refused", lambda status: "Insufficient nvidia.com/gpu" in str(status))
    refused = pods.wait("forced", "refused", lambda s: s["phase"] == "Failed" and s)
    assert refused["reason"] == "OutOfnvidia.com/gpu"


def test_a_container_that_ends_leaves_its_exit_code_and_its_last_words(pods):
    address = pods.create_ready("p")
    pods.ask(address, "exit?7")
    end = pods.wait_ended("p")
    assert (end["exitCode"], end["reason"]) == (7, "Error")
    assert "told to end with 7" in end["message"]
    pods.wait("p", "failed", lambda status: status["phase"] == "Failed")


def test_a_container_that_may_restart_does(pods):
    address = pods.create_ready("p", restartPolicy="Always")
    pods.ask(address, "exit?3")
    pods.wait("p", "restarted", lambda s: s["containerStatuses"][0]["restartCount"] == 1)
    pods.wait_ready("p")
    assert pods.container("p")["lastState"]["terminated"]["exitCode"] == 3


def test_a_container_over_its_memory_limit_is_killed_for_that(pods):
    hungry = "x = bytearray(1)\nwhile True: x += bytes(1 << 20)"
    pods.create(
        "p",
        container={
            "command": ["python3", "-c", hungry],
            "readinessProbe": None,
            "resources": {"limits": {"memory": "64Mi"}},
        },
    )
    end = pods.wait_ended("p")
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_a_readiness_gate_makes_a_ready_pod(plane, pods):
    pods.create("gated", readinessGates=[{"conditionType": GATE}])
    pods.wait("gated", "up", lambda _: pods.condition("gated", "ContainersReady") == "True")
    assert pods.condition("gated", "Ready") == "False"
    for value in ("True", "False"):
        plane.api.call(
            "PATCH",
            f"{pods.path}/gated/status",
            {"status": {"conditions": [{"type": GATE, "status": value}]}},
            content_type="application/strategic-merge-patch+json",
        )
        pods.wait_ready("gated", value)


def test_a_deleted_pod_is_told_and_may_finish_what_it_does(plane, pods):
    address = pods.create_ready("p", env={"DRAIN_SECONDS": "2"}, terminationGracePeriodSeconds=30)
    plane.kubectl("delete", "pod", "p", "-n", pods.namespace, "--wait=false")
    assert plane.api.get(f"{pods.path}/p")["metadata"]["deletionTimestamp"]
    assert pods.ask(address) == "p"
    plane.wait(lambda: not plane.api.exists(f"{pods.path}/p"), WAIT_SECONDS, "the pod to go")


def test_an_image_that_nobody_has_is_not_found(pods):
    pods.create("p", container={"image": "kit.invalid/none:v1"})
    told = pods.wait(
        "p",
        "refused",
        lambda status: (
            "Pull" in (waiting := state(status).get("waiting", {})).get("reason", "") and waiting
        ),
    )
    assert told["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert "kit.invalid/none:v1" in told["message"]


def test_logs_and_exec_reach_the_container(plane, pods):
    pods.create_ready(
        "p", container={"command": ["sh", "-c", "echo here; exec python3 -m standin 8000"]}
    )
    assert plane.kubectl("logs", "p", "-n", pods.namespace).stdout == "here\n"
    said = plane.kubectl("exec", "p", "-n", pods.namespace, "--", "cat", "/etc/hostname").stdout
    assert said == "p\n"


def test_processes_may_be_shared_in_a_pod(plane, pods):
    pods.create_ready("p", shareProcessNamespace=True)
    listing = ("exec", "p", "-n", pods.namespace, "--", "cat", "/proc/1/comm")
    assert plane.kubectl(*listing).stdout == "pause\n"


# ---- names and addresses


def test_a_service_leads_to_its_pods_from_outside_and_inside(plane, pods):
    first, second = (pods.create_ready(name) for name in ("a", "b"))
    address = pods.service("svc")
    assert pods.ask_until_answered(address) in ("a", "b")
    through = f"fetch?http://svc.{pods.namespace}.svc.cluster.local:{PORT}/name"

    def heard():
        answered = {pods.answer(first, through) for _ in range(8)}
        assert {"a", "b"} <= answered, answered

    plane.wait(lambda: heard() is None, WAIT_SECONDS, "both pods to answer a pod")
    assert pods.ask(first, f"fetch?http://{second}:{PORT}/name") == "b"


def test_a_headless_service_names_its_pods_before_they_are_ready(plane, pods):
    pods.service("engines", clusterIP="None", publishNotReadyAddresses=True)
    pods.create(
        "a",
        subdomain="engines",
        hostname="a",
        readinessGates=[{"conditionType": GATE}],
    )
    address = pods.create_ready("b", subdomain="engines", hostname="b")
    gated = pods.wait("a", "up", lambda s: pods.condition("a", "ContainersReady") == "True" and s)
    names = f"engines.{pods.namespace}.svc.cluster.local"
    for name, expected in (
        (f"a.{names}", gated["podIP"]),
        (f"b.engines.{pods.namespace}.svc", address),
        (names, " ".join(sorted([gated["podIP"], address]))),
    ):
        plane.wait(
            lambda name=name, expected=expected: (
                pods.answer(address, f"resolve?{name}") == expected
            ),
            WAIT_SECONDS,
            f"{name} to be known",
        )


def test_a_service_account_is_known_to_the_api_server(pods):
    address = pods.create_ready("p")
    with pytest.raises(urllib.error.HTTPError) as caught:
        pods.ask(address, f"api?{pods.path}")
    assert f"system:serviceaccount:{pods.namespace}:default" in caught.value.read().decode()


def test_an_address_can_be_exposed_to_programs_outside(plane, pods):
    pods.create_ready("p")
    outside = plane.expose(pods.service("svc"), PORT)

    def answer():
        with urllib.request.urlopen(f"http://{outside}/name", timeout=10) as answer:
            return answer.read()

    assert plane.wait(answer, WAIT_SECONDS, "an answer") == b"p"
    assert outside.startswith("127.0.0.1:")


def test_nothing_of_the_plane_is_seen_from_outside_but_what_is_on_loopback(plane, pods):
    address = pods.create_ready("p")
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address}:{PORT}/name", timeout=1)
    listening = subprocess.run(["ss", "-tlnH"], capture_output=True, text=True, check=True).stdout
    addresses = {line.split()[3].rsplit(":", 1)[0] for line in listening.splitlines()}
    assert {a for a in addresses if a.startswith(("10.210.", "10.244.", "10.96."))} == set()


# ---- nodes that break


def test_containers_outlive_kubelet_and_the_node_keeps_its_gpus(plane, pods):
    address = pods.create_ready("p", gpus=1)
    plane.signal_daemon("gpu-node-0", "kubelet", signal.SIGKILL)
    plane.signal_daemon("gpu-node-1", "kubelet", signal.SIGKILL)
    assert pods.ask(address) == "p"
    pods.create_ready("q", gpus=1)  # both are back
    assert pods.container("p")["restartCount"] == 0
    for node in plane.api.get("/api/v1/nodes")["items"]:
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_a_node_without_power_takes_its_pods_with_it_until_it_is_back(plane, pods):
    address = pods.create_ready("p", nodeName="gpu-node-1")
    plane.silence_node("gpu-node-1")
    assert pods.answer(address) is None
    pods.wait_ready("p", "False")
    plane.restore_node("gpu-node-1")
    pods.wait("p", "known to be lost", lambda status: status["phase"] == "Failed")
    pods.create_ready("q", nodeName="gpu-node-1")


def test_a_node_that_has_no_network_for_pods_says_so(plane):
    plane.fail_node("gpu-node-1")
    plane.wait(
        lambda: (
            "node.kubernetes.io/not-ready" in str(plane.api.get("/api/v1/nodes/gpu-node-1")["spec"])
        ),
        WAIT_SECONDS,
        "the taint",
    )
    plane.restore_node("gpu-node-1")


def test_nodes_of_both_kinds_live_side_by_side(plane, pods):
    real = plane.add_node("third", gpus=2)
    fake = plane.add_node("fourth", gpus=4, kind="kwok")
    assert pods.ask(pods.create_ready("p", nodeName=real, gpus=2)) == "p"
    pods.create_ready("q", nodeName=fake, gpus=4)
    for node in (real, fake):
        plane.delete_node(node)


# ---- ends


def test_images_need_a_name_that_no_registry_is_asked_for(plane, tmp_path):
    for name in ("kit.invalid/x", "kit.invalid/x:latest"):
        with pytest.raises(Exception, match="a name with a tag other than latest"):
            plane.load_image(name, tmp_path)
    with ControlPlane("0") as other, pytest.raises(PlaneError, match="real nodes"):
        other.load_image("kit.invalid/x:v1", tmp_path)


def test_an_image_that_a_command_writes_is_had_by_every_node(plane, pods, tmp_path):
    """As `docker save` writes one: an archive, on standard output."""
    package = tmp_path / "standin"
    package.mkdir()
    (package / "__main__.py").write_bytes((Path(__file__).parent / "stand_in.py").read_bytes())
    name = "kit.invalid/saved:v1"
    image = pythonimage.build(
        name, entrypoint=["python3", "-m", "standin", str(PORT)], sources=[package]
    )
    with (tmp_path / "saved.tar").open("wb") as file:
        images.write_archive([image], file)
    plane.load_saved_image(["cat", str(tmp_path / "saved.tar")])
    for node in ("gpu-node-0", "gpu-node-1"):
        pods.create_ready(f"on-{node}", container={"image": name}, nodeName=node)


def test_a_command_that_has_no_such_image_is_quoted(plane):
    with pytest.raises(CommandError, match="no such image: kit"):
        plane.load_saved_image(["sh", "-c", "echo no such image: kit >&2; exit 1"])


def test_a_program_on_a_node_sees_its_files_and_not_the_machine_s(plane, tmp_path):
    seen = tmp_path / "seen"
    plane.spawn_on_node(
        "gpu-node-1", "looks", ["sh", "-c", f"ls /var/lib/kubelet > {seen}; sleep 300"]
    )
    plane.wait(
        lambda: seen.exists() and "device-plugins" in seen.read_text(),
        WAIT_SECONDS,
        "the node's own folder",
    )
    assert not Path("/var/lib/kubelet/device-plugins/kubelet.sock").exists()
    plane.stop_component("looks")


@pytest.mark.parametrize("victim", ["owner", "guard"])
def test_a_killed_owner_or_guard_leaves_nothing_behind(plane, victim):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": roots.python_path()},
    )
    try:
        assert owner.stdout is not None
        facts = json.loads(owner.stdout.readline())
        data, pids = Path(facts["data"]), facts["pids"]
        inside = processes_of(data)
        assert len(inside) > len(pids)
        guard = int(Path(f"/proc/{pids['etcd']}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(owner.pid if victim == "owner" else guard, signal.SIGKILL)
        until(lambda: all(map(is_gone, inside)))
        if victim == "guard":
            owner.communicate("")
            with ControlPlane("0"):
                pass  # the next plane removes what a killed guard could not
        until(lambda: not data.exists())
        assert not [folder for folder in cgroups.folders(data.name) if folder.exists()]
        assert data.name not in Path("/proc/self/mountinfo").read_text()
    finally:
        owner.kill()
        owner.communicate()
    plane.check()


def processes_of(data):
    """Every process that has the plane's folder in its command line or among its mounts."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(data) in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
