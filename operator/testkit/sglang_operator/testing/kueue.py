"""Real Kueue on a control plane of the kit: quotas that hold pods back until they are admitted.

::

    with ControlPlane("4x8") as plane:
        kueue = Kueue(plane)
        kueue.install()
        kueue.apply({"kind": "ResourceFlavor", "metadata": {"name": "gpus"}}, ...)

It is built from its Go module on first use (``extras/kueue``, most of ten minutes on two cores) and
installed from the manifests of that module, with its own account and roles.  Only addresses are
those of this machine, and of its integrations the pods' alone is on.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.testing import binaries, errors, extratools, toolbuild
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.ports import HOST, free

MODULE = "sigs.k8s.io/kueue"
NAMESPACE = "kueue-system"
ACCOUNT = "kueue-controller-manager"
API_VERSION = "kueue.x-k8s.io/v1beta2"
READY_SECONDS = 60.0
_DEFINITION = "CustomResourceDefinition"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"
_PROBE = {"kind": "ResourceFlavor", "metadata": {"name": "probe"}}
# Its server of metrics reads a certificate from a folder that no setting moves.  In a mount
# namespace of its own it finds one there, and this machine's /etc stays as it is.
_CERTIFICATES = "kueue/metrics/certs"

Json = dict[str, Any]


def missing() -> str | None:
    """Why Kueue cannot be run here; None if it can, after a build where needed."""
    if sys.platform != "linux":
        return "Kueue is run in a mount namespace, which only Linux has"
    if shutil.which("unshare") is None:
        return "`unshare` of util-linux is needed to run Kueue"
    if shutil.which("go") is None:
        return "`go` is needed to build Kueue, and for its manifests"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(_with_certificate(Path(folder), "true"), capture_output=True)
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip()
        return f"Kueue cannot have a mount namespace of its own here: {said}"
    return None


def _with_certificate(folder: Path, *command: str) -> list[str]:
    """A command that sees what is in this folder over /etc."""
    script = 'mount -t overlay -o "lowerdir=$1:/etc" overlay /etc && shift && exec "$@"'
    unshared = ["unshare", "--map-root-user", "--mount"]
    return [*unshared, "sh", "-c", script, "kueue", str(folder), *command]


def version() -> str:
    """The version that is run, such as ``v0.19.2``, as go.mod has it; raises ToolsError."""
    text = (extratools.MODULES / "kueue" / "go.mod").read_text()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [MODULE]:
            return words[1]
    raise errors.ToolsError(f"extras/kueue/go.mod names no version of {MODULE}")


def source() -> Path:
    """The folder of the module as published, manifests included; raises ToolsError."""
    # Outside of any module, else Go reads the go.mod of wherever this is run.
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            ["go", "mod", "download", "-json", f"{MODULE}@{version()}"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if answer.returncode:
        raise errors.ToolsError(f"{MODULE}@{version()}: {answer.stdout}{answer.stderr}".strip())
    return Path(json.loads(answer.stdout)["Dir"])


class Kueue:
    """Kueue's process and what an installation brings with it."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        configuration: Mapping[str, Any] | None = None,
        progress: toolbuild.Progress = binaries.to_stderr,
    ) -> None:
        """``configuration``: more of its Configuration, such as ``waitForPodsReady``."""
        self._plane = plane
        self._configuration = dict(configuration or {})
        self._progress = progress
        self._ports = {use: free() for use in ("webhook", "metrics", "probe")}
        self._folder = plane.data / "kueue"

    def install(self) -> None:
        """Everything as its own kustomization has it, and the process; returns when it answers.

        Raises ToolsError, CommandError, or WaitTimeoutError.
        """
        program = extratools.locate("kueue", self._progress) / "kueue"
        self._plane.namespace(NAMESPACE)
        documents = list(self._documents())
        others = [each for each in documents if not each["kind"].endswith("WebhookConfiguration")]
        text = "\n---\n".join(map(json.dumps, others))
        # Applied by the server: their own annotation would be larger than one may be.
        self._plane.kubectl("apply", "--server-side", "-f", "-", input=text)
        names = [d["metadata"]["name"] for d in documents if d["kind"] == _DEFINITION]
        self._plane.wait(
            lambda: all(map(self._is_established, names)), READY_SECONDS, "Kueue's definitions"
        )
        self._write_files()
        self.start(program)
        # Not before: nothing could be made while nobody answers them.
        for document in documents:
            if document["kind"].endswith("WebhookConfiguration"):
                self._plane.api.post(f"{_WEBHOOKS}/{document['kind'].lower()}s", document)
        self._plane.wait(self._takes_objects, READY_SECONDS, "Kueue to take an object")

    def start(self, program: Path | None = None) -> None:
        """Start the process, and wait until its webhooks are served; raises WaitTimeoutError."""
        program = program or extratools.locate("kueue", self._progress) / "kueue"
        kubeconfig = self._plane.service_account_kubeconfig(NAMESPACE, ACCOUNT)
        config = f"--config={self._folder / 'config.yaml'}"
        argv = _with_certificate(self._folder, str(program), config)
        self._plane.spawn("kueue", argv, {"KUBECONFIG": str(kubeconfig)})
        self._plane.wait(self._is_listening, READY_SECONDS, "Kueue's webhooks")

    def kill(self) -> None:
        """End it as a crash would."""
        self._plane.stop_component("kueue")

    def configure(self, **configuration: Any) -> None:
        """Start it again with this in its Configuration; raises WaitTimeoutError."""
        self.kill()
        self._configuration = configuration
        self._write_files()
        self.start()
        self._plane.wait(self._takes_objects, READY_SECONDS, "Kueue to take an object")

    def apply(self, *objects: Json) -> None:
        """Apply objects of its API; raises CommandError."""
        text = "\n---\n".join(json.dumps({"apiVersion": API_VERSION, **each}) for each in objects)
        self._plane.kubectl("apply", "-f", "-", input=text)

    def quota(self, name: str, resources: Mapping[str, int], **spec: Any) -> None:
        """A ClusterQueue of this name with so much of each resource; ``spec``: more of its spec."""
        self.apply(
            {"kind": "ResourceFlavor", "metadata": {"name": name}},
            {
                "kind": "ClusterQueue",
                "metadata": {"name": name},
                "spec": {
                    "namespaceSelector": {},
                    "resourceGroups": [
                        {
                            "coveredResources": list(resources),
                            "flavors": [
                                {
                                    "name": name,
                                    "resources": [
                                        {"name": resource, "nominalQuota": most}
                                        for resource, most in resources.items()
                                    ],
                                }
                            ],
                        }
                    ],
                    **spec,
                },
            },
        )

    def queue(self, namespace: str, name: str, of: str) -> None:
        """A LocalQueue of a namespace, which takes from the quota of this ClusterQueue."""
        meta = {"name": name, "namespace": namespace}
        self.apply({"kind": "LocalQueue", "metadata": meta, "spec": {"clusterQueue": of}})

    def workloads(self, namespace: str) -> list[Json]:
        """The Workloads of a namespace."""
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/workloads"
        return list(self._plane.api.get(path)["items"])

    # ---- how it is installed

    def _documents(self) -> Iterator[Json]:
        """What it is installed from, but for its own pod and how that is reached."""
        rendered = self._plane.kubectl("kustomize", str(source() / "config" / "default")).stdout
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for document in yaml.load_all(rendered, Loader=loader):
            if not document or document["kind"] in ("Deployment", "Service", "APIService"):
                continue
            if document["kind"] == _DEFINITION and "conversion" in document["spec"]:
                webhook = document["spec"]["conversion"]["webhook"]
                webhook["clientConfig"] = self._reached("/convert")
            for webhook in document.get("webhooks", ()):
                path = webhook["clientConfig"]["service"]["path"]
                webhook["clientConfig"] = self._reached(path)
            yield document

    def _reached(self, path: str) -> Json:
        """By address instead of by Service: the API server is no part of a pod network."""
        authority = base64.b64encode(self._plane.ca_file.read_bytes()).decode()
        return {"caBundle": authority, "url": f"https://{HOST}:{self._ports['webhook']}{path}"}

    def _write_files(self) -> None:
        """Its configuration, and the plane's certificate, which is good for this address."""
        certificates = self._folder / _CERTIFICATES
        certificates.mkdir(parents=True, exist_ok=True)
        for kind in ("crt", "key"):
            served = self._plane.data / "secrets" / f"server.{kind}"
            shutil.copyfile(served, certificates / f"tls.{kind}")
        shipped = yaml.safe_load(
            (source() / "config/components/manager/controller_manager_config.yaml").read_text()
        )
        configuration = {
            **shipped,
            "health": {"healthProbeBindAddress": f"{HOST}:{self._ports['probe']}"},
            "metrics": {"bindAddress": f"{HOST}:{self._ports['metrics']}"},
            "webhook": {
                "host": HOST,
                "port": self._ports["webhook"],
                "certDir": str(certificates),
            },
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "integrations": {"frameworks": ["pod"]},
            # It would serve an API of its own, at a port of its own.
            "featureGates": {"VisibilityOnDemand": False},
            **self._configuration,
        }
        (self._folder / "config.yaml").write_text(yaml.safe_dump(configuration))

    def _is_established(self, name: str) -> bool:
        status = self._plane.api.get(f"{_DEFINITIONS}/{name}").get("status", {})
        # A new definition's conditions are null.
        found = {each["type"]: each["status"] for each in status.get("conditions") or ()}
        return found.get("Established") == "True"

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection((HOST, self._ports["webhook"]), timeout=1.0):
                return True
        except OSError:
            return False

    def _takes_objects(self) -> bool:
        text = json.dumps({"apiVersion": API_VERSION, **_PROBE})
        arguments = ("create", "--dry-run=server", "-f", "-")
        return self._plane.kubectl(*arguments, input=text, check=False).returncode == 0
