"""A real Kubernetes control plane on the loopback interface, with fake GPU nodes.

::

    with ControlPlane("3x8") as plane:
        plane.kubectl("get", "nodes")

Each plane starts from an empty etcd in a temporary folder: etcd, kube-apiserver (RBAC and audit
log on), kube-controller-manager, kube-scheduler and, for the nodes, KWOK with stages of the kit's
own.  Planes do not know of each other; any number may run side by side.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sglang_operator.testing import (
    audit,
    binaries,
    client,
    components,
    credentials,
    errors,
    nodes,
    processes,
    running,
)

T = TypeVar("T")

START_TRIES = 5
TOKEN_SECONDS = 24 * 3600
KEEP_VARIABLE = "SGLANG_OPERATOR_KEEP"


class ControlPlane:
    """One control plane; a context manager, or ``start`` and ``stop``."""

    def __init__(
        self,
        nodes: str = "3x8",
        *,
        product: str = "NVIDIA-H100-80GB-HBM3",
        tools: Path | None = None,
        pod_cidr: str = "10.240.0.0/16",
        node_monitor_grace_seconds: float | None = None,
        controller_manager_as_shipped: bool = False,
        flags: Mapping[str, Sequence[str]] | None = None,
        keep: bool | None = None,
        progress: binaries.Progress = binaries.to_stderr,
    ) -> None:
        """Describe the plane; ``start`` makes it.

        ``nodes`` is ``3x8`` for three nodes with eight GPUs of ``product`` each (see
        ``testing.nodes``); ``0`` also leaves KWOK out.  ``node_monitor_grace_seconds`` is how long
        a silent node counts as ready; None leaves Kubernetes' default.  ``flags`` are more flags
        by component, such as ``{"kube-apiserver": ["--v=4"]}``.  ``keep`` leaves the data folder
        behind; None keeps it when $SGLANG_OPERATOR_KEEP is set.
        """
        self._specs = _parse_nodes(nodes)
        self._product = product
        self._tools = tools
        self._options = components.Options(
            pod_cidr=pod_cidr,
            controller_manager_as_shipped=controller_manager_as_shipped,
            node_monitor_grace_seconds=node_monitor_grace_seconds,
            flags=dict(flags or {}),
        )
        self._keep = bool(os.environ.get(KEEP_VARIABLE)) if keep is None else keep
        self._progress = progress
        self._running: running.Running | None = None
        self._node_count = 0
        self.start_seconds = 0.0

    # ---- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._running is not None:
            try:
                self.check()
            except errors.PlaneError as dead:
                error.add_note(str(dead))  # most likely what is behind the error
        self.stop()

    def start(self) -> None:
        """Bring the plane up with all nodes ready, in seconds; raises PlaneError or ToolsError."""
        if self._running is not None:
            raise errors.PlaneError("this control plane is running already")
        tools = self._tools or binaries.locate(self._progress)
        began = time.monotonic()
        for attempt in range(1, START_TRIES + 1):
            try:
                self._start_once(tools)
                break
            except errors.PortTakenError:
                self.stop()
                if attempt == START_TRIES:
                    raise
            except errors.WaitTimeoutError as error:
                raise self._start_error(error) from error
            except BaseException:
                self.stop()
                raise
        self.start_seconds = time.monotonic() - began

    def stop(self) -> None:
        """End every component and remove the data; does nothing on a plane that is not up."""
        up, self._running = self._running, None
        if up is not None and (kept := up.close()):
            self._progress(f"kept {kept}")

    def _start_error(self, error: errors.WaitTimeoutError) -> errors.PlaneError:
        tails = [f"{name}:\n{self._up.processes.tail(name)}" for name in self.pids]
        self.stop()
        return errors.PlaneError("\n".join([str(error), *tails]))

    def _start_once(self, tools: Path) -> None:
        up = self._running = running.Running(self._options, tools=tools, keep=self._keep)
        up.start(components.ETCD)
        up.start(components.API_SERVER)
        up.wait_for_api()
        up.start(components.CONTROLLER_MANAGER)
        up.start(components.SCHEDULER)
        if self._specs:
            up.start(components.KWOK)
        self._node_count = 0
        for spec in self._specs:
            self._create_node(spec, {})
        self.wait(
            self._nodes_ready, running.START_SECONDS, "every node to be ready and without taints"
        )
        self._wait_for_account("default")

    def _nodes_ready(self) -> bool:
        listed = self._up.api.get("/api/v1/nodes")["items"]
        return len(listed) == len(self._specs) and all(nodes.is_ready(node) for node in listed)

    @property
    def _up(self) -> running.Running:
        if self._running is None:
            raise errors.PlaneError("this control plane is not running; call start() first")
        return self._running

    # ---- access

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._up.url

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._up.settings.kubeconfigs["admin"]

    @property
    def ca_file(self) -> Path:
        """The certificate by which the API server is known."""
        return self._up.settings.secrets.ca

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token."""
        return self._up.settings.secrets.tokens["admin"]

    @property
    def data(self) -> Path:
        """The folder that holds everything of this plane, its logs among it."""
        return self._up.settings.data

    @property
    def tools(self) -> Path:
        """The folder of the programs, kubectl and helm among them."""
        return self._up.settings.tools

    @property
    def api(self) -> client.Client:
        """The administrator's HTTP client."""
        return self._up.api

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """This process's environment with kubectl and helm on PATH and pointed at the plane."""
        return {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            # Else two planes that had the same port share what kubectl knows of their resources.
            "KUBECACHEDIR": str(self.data / "kubectl-cache"),
            "PATH": f"{self.tools}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        check: bool = True,
        as_: str | Path | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator and return what it wrote.

        ``as_`` is another kubeconfig, or the name of a user to impersonate; ``timeout`` is in
        seconds.  Raises CommandError with kubectl's own words when it fails and ``check`` is set.
        """
        argv = [str(self.tools / "kubectl"), *args]
        if isinstance(as_, str):
            argv[1:1] = [f"--as={as_}"]
        environ = self.environment(as_ if isinstance(as_, Path) else None)
        try:
            result = subprocess.run(
                argv, input=input, env=environ, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            self.check()
            text = f"kubectl {' '.join(args)}: no end after {timeout:g} s"
            raise errors.CommandError(text) from error
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()
            raise errors.CommandError(
                f"kubectl {' '.join(args)}: exit code {result.returncode}: {said}"
            )
        return result

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, create: bool = False
    ) -> Path:
        """Return a new kubeconfig of a ServiceAccount, by a token of 24 hours; raises ApiError.

        ``create`` makes the namespace and the account where they are missing.
        """
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if create:
            self.namespace(namespace)
            if not self.api.exists(f"{accounts}/{name}"):
                self.api.post(accounts, {"metadata": {"name": name}})
        answer = self.api.post(
            f"{accounts}/{name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": TOKEN_SECONDS},
            },
        )
        return credentials.write_kubeconfig(
            self.data / f"account-{namespace}-{name}-{uuid.uuid4().hex[:8]}.kubeconfig",
            url=self.url,
            ca=self.ca_file,
            token=answer["status"]["token"],
            namespace=namespace,
        )

    def namespace(self, name: str) -> str:
        """Make sure that a namespace exists in which pods can be created; return its name."""
        if not self.api.exists(f"/api/v1/namespaces/{name}"):
            self.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
        self._wait_for_account(name)
        return name

    def _wait_for_account(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self.wait(
            lambda: self.api.exists(path),
            running.START_SECONDS,
            f"the ServiceAccount default in {namespace}",
        )

    # ---- nodes

    def add_node(
        self, name: str | None = None, *, gpus: int = 8, labels: Mapping[str, str] | None = None
    ) -> str:
        """Add a node, wait until it is ready, and return its name; raises ApiError."""
        if components.KWOK not in self._up.processes.pids:
            self._up.start(components.KWOK)
        chosen = name or nodes.NAME.format(self._node_count)
        self._create_node(nodes.NodeSpec(name=chosen, gpus=gpus), labels or {})
        self._wait_for_node(chosen)
        return chosen

    def delete_node(self, name: str) -> None:
        """Delete a node, as when the machine is given back; its pods stay until pod GC."""
        self.api.delete(f"/api/v1/nodes/{name}")
        # KWOK takes its own old lease for that of a new node of the same name.
        self.api.delete(_lease(name), missing_ok=True)

    def silence_node(self, name: str) -> None:
        """Stop a node's heartbeats and its kubelet's work, as when its power fails."""
        self._label_node(name, None)

    def fail_node(self, name: str) -> None:
        """Let a node report that it is not ready, its heartbeats going on."""
        self._annotate_node(name, "false")

    def restore_node(self, name: str) -> None:
        """Undo ``silence_node`` and ``fail_node`` and wait until the node is ready."""
        self._annotate_node(name, None)
        self._label_node(name, nodes.MANAGED_VALUE)
        self._wait_for_node(name)

    def _create_node(self, spec: nodes.NodeSpec, labels: Mapping[str, str]) -> None:
        address = nodes.address(self._node_count)
        self._node_count += 1
        body = nodes.manifest(spec, product=self._product, labels=labels, address=address)
        self.api.post("/api/v1/nodes", body)

    def _label_node(self, name: str, value: str | None) -> None:
        body = {"metadata": {"labels": {nodes.MANAGED_LABEL: value}}}
        self.api.merge(f"/api/v1/nodes/{name}", body)

    def _annotate_node(self, name: str, value: str | None) -> None:
        body = {"metadata": {"annotations": {nodes.READY_ANNOTATION: value}}}
        self.api.merge(f"/api/v1/nodes/{name}", body)

    def _wait_for_node(self, name: str) -> None:
        path = f"/api/v1/nodes/{name}"
        self.wait(
            lambda: nodes.is_ready(self.api.get(path)),
            running.START_SECONDS,
            f"node {name} to be ready and without taints",
        )

    # ---- components

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the components that run, by name."""
        return dict(self._up.processes.pids)

    def cpu_seconds(self) -> dict[str, float]:
        """Seconds of CPU that each component has used so far (Linux)."""
        return {name: processes.cpu_seconds(pid) for name, pid in self.pids.items()}

    def rss(self) -> dict[str, int]:
        """Bytes of memory that each component has resident (Linux)."""
        return {name: processes.rss_bytes(pid) for name, pid in self.pids.items()}

    def log(self, component: str) -> Path:
        """The file with a component's output."""
        return self._up.processes.log_of(component)

    def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start a process beside the components, such as an operator, and return its id.

        It has a log like theirs, and ends with the plane at the latest; raises PlaneError.
        """
        return self._up.processes.start(name, argv, env)

    def await_end(self, name: str, timeout: float) -> None:
        """Wait until a process that was told to end has done so, which is then no failure.

        Raises WaitTimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while name in self._up.processes.pids:
            if time.monotonic() >= deadline:
                raise errors.WaitTimeoutError(f"waited {timeout:g} s for {name} to end")
            time.sleep(running.POLL_SECONDS)
        self._up.processes.deaths.pop(name, None)

    def stop_component(self, name: str) -> None:
        """Kill one component, as a crash would; ``start_component`` brings it back."""
        self._up.processes.stop(name)

    def start_component(self, name: str) -> None:
        """Start a component again, with the data it had; the API server's answers are awaited."""
        self._up.start(name)
        if name in (components.ETCD, components.API_SERVER):
            self._up.wait_for_api()

    def check(self) -> None:
        """Raise PlaneError, with the end of the log, when a component has died by itself."""
        self._up.check()

    def wait(self, predicate: Callable[[], T], timeout: float, what: str) -> T:
        """Ask until the answer is true in the sense of ``if``, and return it.

        A CommandError, ApiError, AssertionError or ConnectionError counts as no.  Raises
        WaitTimeoutError after ``timeout`` seconds, and PlaneError when a component dies meanwhile.
        """
        return self._up.wait(predicate, timeout, what)

    # ---- audit

    def audit(
        self, user: str | None = None, since: datetime.datetime | None = None
    ) -> list[audit.AuditEvent]:
        """Return the requests the API server has answered, of one user and from a time on.

        Every request that was answered before this call is among them.
        """
        # The log is written in the order of answers, so a request of our own marks its end.
        log, marker = components.audit_log(self.data), f"/version?marker={uuid.uuid4().hex}"
        size = log.stat().st_size
        self.api.get(marker)
        self.wait(lambda: _contains(log, marker, size), 10.0, "the audit log")
        return list(audit.read(log, user=user, since=since))


def _parse_nodes(text: str) -> list[nodes.NodeSpec]:
    return nodes.parse(text)  # where the parameter has the module's name


def _lease(node: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"


def _contains(log: Path, text: str, offset: int) -> bool:
    with log.open("rb") as file:
        file.seek(offset)
        return text.encode() in file.read()
