"""A real Kubernetes control plane with GPU nodes: KWOK's, or real ones that only lack the GPUs.

::

    with ControlPlane("3x8") as plane:
        plane.kubectl("get", "nodes")

    with ControlPlane("1x24", kind="real") as plane:
        plane.load_image("kit.invalid/server:v1", folder, entrypoint=["/server"])

Each plane starts from an empty etcd in a temporary folder: etcd, kube-apiserver (RBAC and audit
log on), kube-controller-manager, kube-scheduler and, for the nodes, KWOK with stages of the kit's
own; or kubelet and containerd for each node, kube-proxy and CoreDNS, all in a network of the
plane's own (see ``testing.realnode``).  Planes do not know of each other; any number may run side
by side.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from sglang_operator.testing import (
    access,
    audit,
    binaries,
    components,
    errors,
    extratools,
    nodes,
    ports,
    processes,
    running,
)
from sglang_operator.testing.realnode import images, requirements
from sglang_operator.testing.realnode import nodes as realnodes
from sglang_operator.testing.realnode import tools as nodetools

T = TypeVar("T")

START_TRIES = 5
TOKEN_SECONDS = 24 * 3600
KEEP_VARIABLE = "SGLANG_OPERATOR_KEEP"


class ControlPlane(access.Access):
    """One control plane; a context manager, or ``start`` and ``stop``."""

    def __init__(
        self,
        nodes: str = "3x8",
        *,
        kind: Literal["kwok", "real"] = "kwok",
        product: str = "NVIDIA-H100-80GB-HBM3",
        tools: Path | None = None,
        pod_cidr: str = "10.240.0.0/16",
        node_monitor_grace_seconds: float | None = None,
        controller_manager_as_shipped: bool = False,
        flags: Mapping[str, Sequence[str]] | None = None,
        runtimes: Mapping[str, Path] | None = None,
        keep: bool | None = None,
        progress: binaries.Progress = binaries.to_stderr,
    ) -> None:
        """Describe the plane; ``start`` makes it.

        ``nodes`` is ``3x8`` for three nodes with eight GPUs of ``product`` each (see
        ``testing.nodes``); ``0`` also leaves KWOK out.  ``kind`` says what the nodes are; real
        ones need Linux and root (see ``realnode.requirements``).  ``node_monitor_grace_seconds``
        is how long a silent node counts as ready; None leaves Kubernetes' default.  ``flags`` are
        more flags by component, such as ``{"kube-apiserver": ["--v=4"]}``.  ``runtimes`` are
        programs that real nodes start in the place of runc, by the handlers of RuntimeClasses;
        they need not be there yet.  ``keep`` leaves the data folder behind; None keeps it when
        $SGLANG_OPERATOR_KEEP is set.
        """
        super().__init__()
        self.kind = kind
        self._specs = _parse_nodes(nodes)
        self._product = product
        self._tools = tools
        self._options = components.Options(
            pod_cidr=pod_cidr,
            controller_manager_as_shipped=controller_manager_as_shipped,
            node_monitor_grace_seconds=node_monitor_grace_seconds,
            flags=dict(flags or {}),
        )
        self._runtimes = dict(runtimes or {})
        self._keep = bool(os.environ.get(KEEP_VARIABLE)) if keep is None else keep
        self._progress = progress
        self._real: realnodes.RealNodes | None = None
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
        tools = self._tools or extratools.control_plane(self._progress)
        if self.kind == "real":
            if reason := extratools.no_real_nodes() or requirements.missing():
                raise errors.PlaneError(reason)
            nodetools.locate(self._progress)  # here, where it may take its time
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
        real = self.kind == "real"
        up = self._running = running.Running(self._options, tools=tools, keep=self._keep, real=real)
        if real:
            up.start_network()
        up.start(components.ETCD)
        up.start(components.API_SERVER)
        up.wait_for_api()
        up.start(components.CONTROLLER_MANAGER)
        up.start(components.SCHEDULER)
        self._node_count, self._real = 0, None
        if real:
            located = nodetools.locate(self._progress)
            self._real = realnodes.RealNodes(
                up, tools=located, product=self._product, runtimes=self._runtimes
            )
            self._real.start_names()
            self._real.start(self._specs)
            if self._specs:
                self._real.start_proxy(self._specs[0].name)
        else:
            if self._specs:
                up.start(components.KWOK)
            for spec in self._specs:
                self._create_node(spec, {})
        self.wait(
            self._nodes_ready, running.START_SECONDS, "every node to be ready and without taints"
        )
        self._wait_for_account("default")
        up.started()

    def _api_nodes(self) -> list[Any]:
        return list(self._up.api.get("/api/v1/nodes")["items"])

    def _nodes_ready(self) -> bool:
        listed = self._api_nodes()
        wanted = {spec.name: spec.gpus for spec in self._specs}
        return len(listed) == len(wanted) and all(
            nodes.is_ready(node, gpus=wanted[node["metadata"]["name"]]) for node in listed
        )

    # ---- what only a plane with real nodes has

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into the plane's network, where pods and Services have addresses.

        Sockets made meanwhile stay there, and so do threads and processes started meanwhile.
        Raises PlaneError on a plane without a network.
        """
        network = self._up.network
        if network is None:
            raise errors.PlaneError("only a plane with real nodes has a network of its own")
        with network.inside():
            yield

    def expose(self, host: str, port: int) -> str:
        """Let an address in the network, ``host:port``, be reached from outside of it.

        Returns where, as ``127.0.0.1:PORT``; it stays so while the plane is up.
        """
        outside = ports.free()
        self._up.relay(f"relay-{outside}", outside, host, port)
        self.wait(lambda: ports.is_listening(outside), running.START_SECONDS, "the relay")
        return f"{ports.HOST}:{outside}"

    def load_image(
        self, image: images.Image | str, root: Path | None = None, **config: Any
    ) -> images.Image:
        """Give the real nodes an image, which pods then find under its name without a registry.

        Either an Image (``realnode.pythonimage`` builds those with an interpreter), or a name and
        the folder that is to be its root, with what else an Image has, such as ``entrypoint``.
        Raises KitError on a name without a tag and on a plane without real nodes.
        """
        if self._real is None:
            raise errors.PlaneError("only a plane with real nodes holds images")
        if isinstance(image, str):
            if root is None:
                raise errors.KitError(f"image {image}: a folder is needed to make it of")
            layer = images.write_layer(root, self.data / f"layer-{uuid.uuid4().hex}.tar")
            image = images.Image(name=image, layers=[layer], **config)
        self._real.load([image])
        return image

    def load_saved_image(self, argv: Sequence[str]) -> None:
        """Give the real nodes an image that a command such as ``docker save`` writes.

        Raises CommandError, and PlaneError on a plane without real nodes.
        """
        self._real_nodes.load_saved(argv)

    def spawn_on_node(
        self, node: str, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> int:
        """``spawn`` with a real node's view of the file system, such as kubelet's sockets."""
        return self._real_nodes.spawn_on(node, name, argv, env)

    def signal_daemon(
        self, node: str, daemon: Literal["kubelet", "containerd"], number: signal.Signals
    ) -> None:
        """Send a signal to a daemon of a real node; one that ends is started again by the node."""
        self._real_nodes.signal_daemon(node, daemon, number)

    @property
    def _real_nodes(self) -> realnodes.RealNodes:
        if self._real is None:
            raise errors.PlaneError("this plane has no real nodes; start it with kind='real'")
        return self._real

    # ---- nodes

    def add_node(
        self,
        name: str | None = None,
        *,
        gpus: int = 8,
        labels: Mapping[str, str] | None = None,
        kind: Literal["kwok", "real"] | None = None,
    ) -> str:
        """Add a node, wait until it is ready, and return its name; raises ApiError.

        A plane with real nodes may have KWOK's beside them.
        """
        if (kind or self.kind) == "real":
            return self._add_real(name, gpus, labels or {})
        if components.KWOK not in self._up.processes.pids:
            self._up.start(components.KWOK)
        chosen = name or nodes.NAME.format(self._node_count)
        self._create_node(nodes.NodeSpec(name=chosen, gpus=gpus), labels or {})
        self._wait_for_node(chosen)
        return chosen

    def replace_nodes(self, nodes: str) -> None:
        """Have these nodes of KWOK's, as in ``ControlPlane(nodes)``, new and ready, and no others.

        Pods stay as they are.  Raises KitError, PlaneError and ApiError.
        """
        self._specs = _parse_nodes(nodes)
        for node in self._api_nodes():
            self.delete_node(node["metadata"]["name"])
        if self._specs and components.KWOK not in self._up.processes.pids:
            self._up.start(components.KWOK)
        for spec in self._specs:
            self._create_node(spec, {})
        self.wait(
            self._nodes_ready, running.START_SECONDS, "every node to be ready and without taints"
        )

    def delete_node(self, name: str) -> None:
        """Delete a node, as when the machine is given back; its pods stay until pod GC."""
        self.api.delete(f"/api/v1/nodes/{name}")
        # KWOK takes its own old lease for that of a new node of the same name.
        self.api.delete(_lease(name), missing_ok=True)

    def silence_node(self, name: str) -> None:
        """Stop a node's heartbeats and its kubelet's work, as when its power fails."""
        if self._is_real(name):
            self._real_nodes.cut_power(name)
        else:
            self._label_node(name, None)

    def fail_node(self, name: str) -> None:
        """Let a node report that it is not ready, its heartbeats going on.

        A real one has lost the network of its pods.
        """
        if self._is_real(name):
            self._real_nodes.take_pod_network(name)
        else:
            self._annotate_node(name, "false")

    def restore_node(self, name: str) -> None:
        """Undo ``silence_node`` and ``fail_node`` and wait until the node is ready."""
        if self._is_real(name):
            self._restore_real(name)
            return
        self._annotate_node(name, None)
        self._label_node(name, nodes.MANAGED_VALUE)
        self._wait_for_node(name)

    def _is_real(self, name: str) -> bool:
        return self._real is not None and self._real.is_real(name)

    def _add_real(self, name: str | None, gpus: int, labels: Mapping[str, str]) -> str:
        chosen = name or nodes.NAME.format(len(self._api_nodes()))
        self._real_nodes.start([nodes.NodeSpec(name=chosen, gpus=gpus)])
        self.api.merge(f"/api/v1/nodes/{chosen}", {"metadata": {"labels": dict(labels)}})
        self._wait_for_node(chosen, gpus)
        return chosen

    def _restore_real(self, name: str) -> None:
        path = f"/api/v1/nodes/{name}"
        if name in self.pids:
            self._real_nodes.give_pod_network(name)
        else:
            before = nodes.heartbeat(self.api.get(path))
            self._real_nodes.boot(name)
            self.wait(
                lambda: nodes.heartbeat(self.api.get(path)) != before,
                running.START_SECONDS,
                f"node {name} to report",
            )
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

    def _wait_for_node(self, name: str, gpus: int = 0) -> None:
        path = f"/api/v1/nodes/{name}"
        self.wait(
            lambda: nodes.is_ready(self.api.get(path), gpus=gpus),
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

        It is in their network, has a log like theirs, and ends with the plane at the latest;
        raises PlaneError.
        """
        return self._up.spawn(name, argv, env)

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
