"""The real nodes of one plane: started, broken, mended, and given GPUs and images."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from sglang_operator.testing import components, credentials, errors, guard, nodes, running
from sglang_operator.testing.realnode import cgroups, files, images, init, network, requirements

NAME_SERVER = "coredns"
PROXY = "kube-proxy"
HTTPS = 443
TAKEN = ".taken"  # a configuration that containerd does not see
NAMESPACE = "k8s.io"  # where containerd keeps what belongs to Kubernetes
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class RealNodes:
    """Everything beside the control plane that real nodes need."""

    def __init__(
        self, up: running.Running, *, tools: Path, product: str, runtimes: Mapping[str, Path]
    ) -> None:
        self._up = up
        self._runtimes = runtimes
        self._tools = tools
        self._product = product
        self._nodes: dict[str, files.Node] = {}
        self._images: list[images.Image] = [self._pause()]
        self._started = 0

    # ---- life

    def start_names(self) -> None:
        """Start the server of the cluster's names."""
        settings = self._up.settings
        for kind, body in files.name_server_rights().items():
            self._up.api.post(f"/apis/rbac.authorization.k8s.io/v1/{kind}", body)
        corefile = settings.data / "Corefile"
        corefile.write_text(files.name_server(settings.kubeconfigs[files.NAME_SERVER_USER]))
        self._spawn(NAME_SERVER, [str(self._tools / "coredns"), f"-conf={corefile}"])

    def start_proxy(self, node: str) -> None:
        """Make the way to the cluster's Services, in the name of a node that has registered."""
        settings = self._up.settings
        config = settings.data / "kube-proxy.json"
        proxy = files.proxy(settings.kubeconfigs["system:kube-proxy"], node)
        config.write_text(components.to_json(proxy))
        self._spawn(PROXY, [str(self._tools / "kube-proxy"), f"--config={config}"])
        self._up.wait(self._is_proxied, running.START_SECONDS, "the way to Services")

    def _is_proxied(self) -> bool:
        assert self._up.network is not None
        with self._up.network.inside(), socket.socket() as probe:
            probe.settimeout(running.PROBE_SECONDS)
            return probe.connect_ex((network.KUBERNETES, HTTPS)) == 0

    def start(self, specs: Sequence[nodes.NodeSpec]) -> None:
        """Start nodes and return when they have registered; they will soon be ready.

        Raises PlaneError, and WaitTimeoutError for one that does not register.
        """
        started = []
        for spec in specs:
            self._started += 1
            node = self._nodes[spec.name] = self._describe(spec, self._started)
            files.write(node)
            started.append(node)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._boot, started))
        for node in started:
            self._equip(node)

    def _boot(self, node: files.Node) -> None:
        argv = [
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *("--mount-proc", "--propagation", "private", "--"),
            *(sys.executable, "-I", init.__file__, str(node.folder / "init.json")),
        ]
        self._spawn(node.name, argv)
        self._up.wait(node.socket.is_socket, running.START_SECONDS, f"containerd on {node.name}")
        self._import(node, self._images)

    def _equip(self, node: files.Node) -> None:
        """Give a node, as soon as it has registered, its GPUs and labels.

        Only the API server is told: the scheduler and kubelet's admission count what stands in
        the node's status, and kubelet leaves alone what it did not put there.
        """
        path = f"/api/v1/nodes/{node.name}"
        self._up.wait(
            lambda: self._up.api.exists(path), running.START_SECONDS, f"{node.name} to register"
        )
        if not node.gpus:
            return  # none, or a device plugin will tell of them
        labels = nodes.gpu_labels(node.gpus, self._product)
        self._up.api.merge(path, {"metadata": {"labels": labels}})
        count = {nodes.GPU: str(node.gpus)}
        body = {"status": {"capacity": count, "allocatable": count}}
        self._up.api.call("PATCH", f"{path}/status", body, content_type=STRATEGIC_PATCH)

    def spawn_on(
        self, name: str, program: str, argv: Sequence[str], env: Mapping[str, str] | None
    ) -> int:
        """Start a process with a node's view of the file system; raises PlaneError."""
        (first,) = _children(self._up.processes.pids[name])
        inside = ("nsenter", f"--mount=/proc/{first}/ns/mnt", "--", *argv)
        return self._up.spawn(program, inside, {"PATH": requirements.search_path(), **(env or {})})

    def is_real(self, name: str) -> bool:
        """Tell whether a node is one of these, and not KWOK's."""
        return name in self._nodes

    # ---- images

    def load(self, loaded: Sequence[images.Image]) -> None:
        """Put images on every node, those that come later too; raises CommandError."""
        self._images += loaded
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: self._import(node, loaded), self._nodes.values()))

    def load_saved(self, argv: Sequence[str]) -> None:
        """Put images on every node that is there, from an archive that a command writes.

        Raises CommandError when the command fails, or what it writes is no archive.
        """
        for node in self._nodes.values():
            self._load_saved(node, argv)

    def _load_saved(self, node: files.Node, argv: Sequence[str]) -> None:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:
            assert saving.stdout is not None and saving.stderr is not None
            source = saving.stdout
            failed = self._receive(node, lambda stream: shutil.copyfileobj(source, stream))
            source.close()  # who writes to nobody ends
            said = saving.stderr.read().decode(errors="replace").strip()
        if failed:
            raise errors.CommandError(f"{failed} {said}".strip())
        if saving.returncode != 0:
            raise errors.CommandError(f"{' '.join(argv)}: {said}")

    def _import(self, node: files.Node, wanted: Sequence[images.Image]) -> None:
        failed = self._receive(node, lambda stream: images.write_archive(wanted, stream))
        if failed:
            raise errors.CommandError(failed)

    def _receive(self, node: files.Node, write: Callable[[IO[bytes]], None]) -> str | None:
        """Import what is written to a stream; why that failed, or None."""
        argv = [
            *(str(self._tools / "ctr"), f"--address={node.socket}", f"--namespace={NAMESPACE}"),
            *("images", "import", "--local", "-"),
        ]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None
            try:
                with process.stdin as stream:
                    write(stream)
            except BrokenPipeError:
                pass  # what it said tells why
            assert process.stdout is not None
            said = process.stdout.read().decode(errors="replace")
        if process.returncode == 0:
            return None
        return f"importing images on {node.name}: {said.strip()}"

    def _pause(self) -> images.Image:
        root = self._up.settings.data / "pause-root"
        root.mkdir()
        shutil.copy(self._tools / "pause", root)
        layer = images.write_layer(root, self._up.settings.data / "pause.tar")
        return images.Image(name=files.PAUSE_IMAGE, layers=[layer], entrypoint=["/pause"])

    # ---- breaking

    def cut_power(self, name: str) -> None:
        """End a node at once, and return when nothing of it runs any more."""
        first = _children(self._up.processes.pids[name])
        self._up.processes.stop(name)
        self._up.wait(
            # The first process of a PID namespace is the last to go.
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in first),
            running.START_SECONDS,
            f"{name} to be off",
        )

    def boot(self, name: str) -> None:
        """Start a node again after ``cut_power``; its disks are as they were."""
        if name not in self._up.processes.pids:
            self._nodes[name].socket.unlink(missing_ok=True)
            self._boot(self._nodes[name])

    def take_pod_network(self, name: str) -> None:
        """Let a node report that it has no network for pods; ``give_pod_network`` undoes it."""
        config = self._nodes[name].network_config
        if config.exists():
            config.rename(config.with_suffix(TAKEN))

    def give_pod_network(self, name: str) -> None:
        """Undo ``take_pod_network``."""
        config = self._nodes[name].network_config
        if config.with_suffix(TAKEN).exists():
            config.with_suffix(TAKEN).rename(config)

    def signal_daemon(self, name: str, daemon: str, number: signal.Signals) -> None:
        """Send a signal to a node's kubelet or containerd; raises PlaneError when it has none."""
        first = _children(self._up.processes.pids[name])
        for pid in [each for parent in first for each in _children(parent)]:
            if _command_name(pid) == daemon:
                os.kill(pid, number)
                return
        raise errors.PlaneError(f"{daemon} does not run on {name}")

    # ---- inside

    def _describe(self, spec: nodes.NodeSpec, number: int) -> files.Node:
        settings = self._up.settings
        if number > network.MAX_NODES:
            raise errors.KitError(f"at most {network.MAX_NODES} real nodes are held")
        folder = settings.data / spec.name
        folder.mkdir()
        user = f"system:node:{spec.name}"
        return files.Node(
            name=spec.name,
            number=number,
            gpus=spec.gpus,
            folder=folder,
            logs=settings.data / "logs",
            tools=self._tools,
            kubeconfig=credentials.write_kubeconfig(
                folder / "kubelet.kubeconfig",
                url=components.url(settings),
                ca=settings.secrets.ca,
                client=credentials.client_certificate(
                    settings.secrets, user, groups=["system:nodes"]
                ),
                namespace="default",
            ),
            authority=settings.secrets.ca,
            cgroup=self._group(spec.name),
            lease_seconds=components.lease_seconds(settings.options.node_monitor_grace_seconds),
            restrict_oom=not _may_lower_oom_score(),
            runtimes=self._runtimes,
        )

    def _group(self, node: str) -> str:
        plane = self._up.settings.data.name
        made = [*cgroups.create(plane), *cgroups.create(f"{plane}/{node}")]
        # The guard removes them when the plane ends.
        with (self._up.settings.data / guard.GROUPS).open("a") as file:
            file.writelines(f"{folder}\n" for folder in made)
        return f"/{plane}/{node}"

    def _spawn(self, name: str, argv: Sequence[str]) -> int:
        path = {"PATH": requirements.search_path()}
        return self._up.spawn(name, argv, {**components.go_environment(), **path})


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # just ended
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _may_lower_oom_score() -> bool:
    """Whether this process has CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text()
    bits = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(bits, 16) >> 24 & 1)
