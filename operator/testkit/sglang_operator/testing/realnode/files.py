"""The configuration of a node's programs, as Python values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_operator.testing.realnode import network

PAUSE_IMAGE = "kit.invalid/pause:1"
NAME_SERVER_USER = "system:coredns"
KUBELET_PORT = 10250
KUBELET_HEALTH_PORT = 10248  # plus the node's number: all nodes share the loopback interface
STATUS_SECONDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One real node: where everything of it lies."""

    name: str
    number: int  # from 1
    gpus: int
    folder: Path  # its part of the plane's data
    logs: Path
    tools: Path
    kubeconfig: Path
    authority: Path  # whose client certificates kubelet believes
    cgroup: str  # the parent of all its pods' control groups
    lease_seconds: int
    restrict_oom: bool  # containers may not get a lower OOM score than this process has
    # Programs that stand in the place of runc, by the handlers of RuntimeClasses.
    runtimes: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def address(self) -> str:
        """The node's address in the plane's network."""
        return network.NODE.format(self.number)

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def network_config(self) -> Path:
        """What tells its containerd how pods are connected."""
        return self.folder / "cni" / "kit.conflist"

    def log(self, daemon: str) -> Path:
        """The output of ``containerd`` or ``kubelet``."""
        return self.logs / f"{self.name}-{daemon}.log"


def write(node: Node) -> Path:
    """Write everything that the node's programs read; the file for its first process."""
    node.network_config.parent.mkdir()
    node.network_config.write_text(json.dumps(cni(node)))
    _path(node, "containerd.toml").write_text(containerd(node))
    _path(node, "kubelet.json").write_text(json.dumps(kubelet(node)))
    _path(node, "resolv.conf").write_text("")  # nothing outside has a name
    _path(node, "init.json").write_text(json.dumps(init(node)))
    return _path(node, "init.json")


def init(node: Node) -> dict[str, Any]:
    """What the first process is told."""
    kubelet_argv = [
        str(node.tools / "kubelet"),
        f"--config={_path(node, 'kubelet.json')}",
        f"--kubeconfig={node.kubeconfig}",
        f"--root-dir={_path(node, 'kubelet')}",
        f"--cert-dir={_path(node, 'pki')}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]
    containerd_argv = [str(node.tools / "containerd"), "-c", str(_path(node, "containerd.toml"))]
    return {
        "name": node.name,
        "address": node.address,
        "socket": str(node.socket),
        "env": {"PATH": f"{node.tools}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"},
        "daemons": {
            "containerd": {"argv": containerd_argv, "log": str(node.log("containerd"))},
            "kubelet": {"argv": kubelet_argv, "log": str(node.log("kubelet"))},
        },
    }


def kubelet(node: Node) -> dict[str, Any]:
    """KubeletConfiguration."""
    endpoint = f"unix://{node.socket}"
    low = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzPort": KUBELET_HEALTH_PORT + 1 + node.number,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": endpoint,
        "imageServiceEndpoint": endpoint,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "enforceNodeAllocatable": ["pods"],
        "oomScoreAdj": 0,
        "failSwapOn": False,
        "clusterDNS": [network.NAME_SERVER],
        "clusterDomain": network.CLUSTER_DOMAIN,
        "resolvConf": str(_path(node, "resolv.conf")),
        "podLogsDir": str(_path(node, "pod-logs")),
        "maxPods": 200,
        "serializeImagePulls": False,
        "evictionHard": low,
        "imageGCHighThresholdPercent": 100,
        "nodeLeaseDurationSeconds": node.lease_seconds,
        "nodeStatusUpdateFrequency": f"{STATUS_SECONDS}s",
        # The defaults of 50 and 100 are what a test with many pods would measure.
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
    }


def containerd(node: Node) -> str:
    """containerd's configuration, version 3."""
    cri = "plugins.'io.containerd.cri.v1"
    programs = {"runc": node.tools / "runc", **node.runtimes}
    runtimes = "".join(
        f"""\
[{cri}.runtime'.containerd.runtimes.{name}]
runtime_type = 'io.containerd.runc.v2'
[{cri}.runtime'.containerd.runtimes.{name}.options]
BinaryName = '{program}'
SystemdCgroup = false
"""
        for name, program in programs.items()
    )
    return f"""\
version = 3
root = '{_path(node, "containerd")}'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp']
[grpc]
address = '{node.socket}'
[plugins.'io.containerd.metadata.v1.bolt']
no_sync = true
[{cri}.images']
snapshotter = 'overlayfs'
[{cri}.images'.pinned_images]
sandbox = '{PAUSE_IMAGE}'
[{cri}.runtime']
restrict_oom_score_adj = {str(node.restrict_oom).lower()}
[{cri}.runtime'.containerd]
default_runtime_name = 'runc'
{runtimes}[{cri}.runtime'.cni]
bin_dirs = ['{node.tools}']
conf_dir = '{_path(node, "cni")}'
"""


def cni(node: Node) -> dict[str, Any]:
    """One veth for each pod, routed; no bridge, so that a Service's answers come back its way."""
    addresses = {
        "type": "host-local",
        "dataDir": str(_path(node, "addresses")),
        "ranges": [[{"subnet": network.NODE_POD_RANGE.format(node.number)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "1.0.0",
        "name": "kit",
        "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}],
    }


def proxy(kubeconfig: Path, node: str) -> dict[str, Any]:
    """KubeProxyConfiguration: one for the whole network, in the name of one node."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 200, "burst": 400},
        "clusterCIDR": network.POD_RANGE,
        "hostnameOverride": node,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # Else a pod that reaches itself through a Service would see itself as the sender, and wait
        # for ever: kube-proxy cares for that only on the node in whose name it runs.
        "nftables": {"minSyncPeriod": "100ms", "masqueradeAll": True},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def name_server(kubeconfig: Path) -> str:
    """CoreDNS' Corefile: the cluster's names and no others."""
    return f"""\
{network.CLUSTER_DOMAIN} in-addr.arpa {{
    bind {network.NAME_SERVER}
    errors
    kubernetes {network.CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
"""


def name_server_rights() -> dict[str, dict[str, Any]]:
    """What CoreDNS may do: a body for each resource of rbac.authorization.k8s.io/v1."""
    meta = {"metadata": {"name": NAME_SERVER_USER}}
    verbs = ["list", "watch"]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    return {
        "clusterroles": {
            **meta,
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": verbs},
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": verbs,
                },
            ],
        },
        "clusterrolebindings": {
            **meta,
            "roleRef": {**role, "name": NAME_SERVER_USER},
            "subjects": [{**role, "kind": "User", "name": NAME_SERVER_USER}],
        },
    }


def _path(node: Node, name: str) -> Path:
    return node.folder / name
