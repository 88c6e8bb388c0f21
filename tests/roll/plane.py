"""``python -m tests.roll.plane``: a pool on a real control plane, its engines containers.

It stands in for ``inside.pool``, and speaks as that does: where everything is in its first line of
JSON, then an answer for each line that it is told; with the end of its input it ends.  The pool is
the object that ``kubectl sglang convert`` writes of the very file that ROLL's side is started with,
and the trainer has the Role that its page shows, and no other right.

Containers have no torch: they see this machine's files below /host, by a claim.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.api import conditions, names
from sglang_operator.placement import colocated
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.realnode import kitimages, network
from sglang_operator.weights import lease_state
from tests.roll.inside import memory

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
NODES = "1x8"
NAMESPACE, POOL, ACCOUNT = "rl", "actor-infer", "trainer"
ROLE = "actor-infer-trainer"  # as the page has it
TRAINER = "trainer-0"
SAMPLE = ROOT / "manifests/samples/colocated/trainer.yaml"
PAGE = ROOT / "operator/docs/how-to/roll.md"
HOST = "/host"
# Where ROLL's processes are, in the plane's network: gloo wants an interface, and not the loopback.
INTERFACE, ADDRESS = "roll0", "10.211.0.1"
READY_SECONDS = 240.0  # a container imports torch before it answers
OPERATOR_SECONDS = 60.0


def main() -> None:
    """Serve until nobody orders any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of each engine")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pipeline", type=Path, required=True, help="ROLL's file")
    parser.add_argument("--packages", type=Path, required=True, help="the folder with torch")
    parser.add_argument("--shared", action="store_true", help="they join the trainer on its GPUs")
    parser.add_argument("--libraries", type=Path, required=True, help="the folder with libstdc++")
    settings = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="roll-plane-") as folder,
        ControlPlane(NODES, kind="real") as plane,
    ):
        plane.load_image(kitimages.default_engine())
        with InstalledOperator(plane, ask_engines=True):
            pool = Pool(plane, settings, Path(folder))
            pool.begin()
            _say(pool.where())
            for line in sys.stdin:
                order, *rest = json.loads(line)
                assert order in ORDERS
                _say(getattr(pool, order)(*rest))


class Pool:
    """The object, and what it takes to look at it."""

    def __init__(self, plane: ControlPlane, settings: argparse.Namespace, folder: Path) -> None:
        self._plane = plane
        self._settings = settings
        self._folder = folder

    def begin(self) -> None:
        """Apply it, and wait until its engines are up."""
        self._plane.namespace(NAMESPACE)
        self._apply(*_volume())
        self._apply(self._converted())
        self._kubeconfig = self._plane.service_account_kubeconfig(NAMESPACE, ACCOUNT, create=True)
        self._apply(*_rights(joins=self._settings.shared))
        if self._settings.shared:  # its engines come once ROLL's worker has said where
            self._apply(_trainer())
            self._plane.wait(self._trainer_runs, READY_SECONDS, "the trainer's pod")
        else:
            self._plane.wait(self._is_ready, READY_SECONDS, "the pool")
        with self._plane.inside():
            for command in (
                f"link add {INTERFACE} type veth peer name {INTERFACE}-peer",
                f"addr add {ADDRESS}/32 dev {INTERFACE}",
                f"link set {INTERFACE} up",
                f"link set {INTERFACE}-peer up",
            ):
                subprocess.run(["ip", *command.split()], check=True)

    def where(self) -> Json:
        """How ROLL's processes get at it."""
        found: Json = {
            "kubeconfig": str(self._kubeconfig),
            "ledger": str(self._ledger),
            "folder": str(self._folder),
            "network": f"/proc/{self._plane.pids[network.COMPONENT]}/ns/net",
            "variables": {"ROLL_NODE": ADDRESS, "GLOO_SOCKET_IFNAME": INTERFACE},
        }
        if self._settings.shared:
            pod = self._pod()
            found["shm"] = colocated.folder(NAMESPACE)
            found["variables"] |= {
                "NODE_NAME": pod["spec"]["nodeName"],
                "POD_NAME": pod["metadata"]["name"],
                "POD_UID": pod["metadata"]["uid"],
            }
        return found

    def _pod(self) -> Json:
        found: Json = self._plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{TRAINER}")
        return found

    def _trainer_runs(self) -> bool:
        return bool(self._pod()["status"].get("phase") == "Running")

    def state_of_all(self) -> Json:
        """What the Lease and the gates say."""
        group = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
        lease = self._plane.api.get(f"{group}/{names.weights_lease_name(POOL)}")
        state = lease_state.read(lease)
        registry = self._plane.api.get(
            f"/api/v1/namespaces/{NAMESPACE}/configmaps/{names.registry_name(POOL)}"
        )
        engines = json.loads(registry["data"]["engines.json"])["engines"]
        return {
            "phase": state.phase.value,
            "version": state.version,
            "gates": [engine["gate"] for engine in engines],
        }

    def collect(self) -> Json:
        """Write down all that the engines said that they generated."""
        pods = ("-l", names.selector_text(POOL), "--namespace", NAMESPACE, "--tail=-1")
        said = self._plane.kubectl("logs", *pods, "--prefix=false").stdout
        places = {LEDGER: self._ledger, memory.SAID: self._folder / "memory.jsonl"}
        for mark, place in places.items():
            lines = [line.partition(mark)[2] for line in said.splitlines() if mark in line]
            place.write_text("".join(f"{line}\n" for line in lines))
        return {}

    @property
    def _ledger(self) -> Path:
        return self._folder / "answers.jsonl"

    def _apply(self, *bodies: Json) -> None:
        for body in bodies:
            self._plane.kubectl(
                "apply", "--namespace", NAMESPACE, "-f", "-", input=json.dumps(body)
            )

    def _is_ready(self) -> bool:
        path = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}/{POOL}"
        told = self._plane.api.get(path).get("status", {}).get("conditions", ())
        return any(
            each["type"] == conditions.READY and each["status"] == conditions.TRUE for each in told
        )

    def _converted(self) -> Json:
        pools = self._folder / "pools"
        command = [sys.executable, "-m", "sglang_operator.cli.main", "convert"]
        joins = ["--shared"] if self._settings.shared else []
        subprocess.run(
            [*command, *joins, str(self._settings.pipeline), "-o", str(pools)],
            check=True,
            stdout=sys.stderr,
        )
        found: Json = yaml.safe_load((pools / f"{POOL}.yaml").read_text())
        spec = found["spec"]
        spec["model_args"]["model_name_or_path"] = f"{HOST}{self._settings.model}"
        spec["podTemplate"] = self._template()
        return found

    def _template(self) -> Json:
        ours = (ROOT / "tests/roll/inside/image", ROOT / "operator", ROOT / "operator/testkit")
        path = [*ours, ROOT, self._settings.packages]
        variables = {
            "PYTHONPATH": ":".join([*(f"{HOST}{each}" for each in path), "/app"]),
            "LD_LIBRARY_PATH": f"{HOST}{self._settings.libraries}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "FAKE_SGLANG_GPUS": str(self._settings.gpus),
            "FAKE_SGLANG_TOKEN_SECONDS": "0.002",
        }
        engine = {
            "name": names.ENGINE_CONTAINER,
            "env": [{"name": name, "value": value} for name, value in variables.items()],
            "volumeMounts": [{"name": "host", "mountPath": HOST, "readOnly": True}],
        }
        volume = {"name": "host", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}
        return {"spec": {"containers": [engine], "volumes": [volume]}}


CLAIM = "machine"
LEDGER = "ANSWER "
ORDERS = ("collect", "state_of_all")


def _volume() -> Iterator[Json]:
    """This machine's files, as whoever runs a cluster shows folders of its nodes."""
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": CLAIM},
        "spec": {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/"}},
    }
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": CLAIM},
    }


def _trainer() -> Json:
    """One of the trainer's pods, which owns the GPUs: ROLL's own processes run beside it here."""
    container = {
        "name": "trainer",
        "image": kitimages.default_engine().name,
        "command": ["python3", "-c", "import time; time.sleep(86400)"],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    path = {"path": colocated.folder(NAMESPACE), "type": "DirectoryOrCreate"}
    volumes = [{"name": "shm", "hostPath": path}]
    labels = {names.LABEL_TRAINER: "roll"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": TRAINER, "labels": labels},
        "spec": {
            "containers": [container],
            "volumes": volumes,
            "terminationGracePeriodSeconds": 0,
        },
    }


def _rights(*, joins: bool = False) -> Iterator[Json]:
    """The Role of the page, bound to the trainer's account; that of the sample, for engines that
    join it."""
    if joins:
        objects = yaml.safe_load_all(SAMPLE.read_text())
        (role,) = (each for each in objects if each["kind"] == "Role")
        role["metadata"]["name"] = ROLE
        yield role
        yield _binding()
        return
    block = PAGE.read_text().partition("# trainer.yaml\n")[2].partition("```")[0]
    yield yaml.safe_load(block)
    yield _binding()


def _binding() -> Json:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    }


def _say(answer: Json) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
